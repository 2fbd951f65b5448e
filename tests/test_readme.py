"""What the README says is what happens: commands and Python run, in docs/ too; see test_docs.py for links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(p.read_text("utf-8") for p in sorted((ROOT / "docs").glob("*.md")) if p.name != "tutorial.md")]


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def test_the_commands_for_own_images_run(tmp_path, monkeypatch, clip_folder):
    """In the README's order, with a tiny CLIP and two steps in place of the download and the training."""
    from weakclip.cli import app

    for place in ("my_images/images", "photos"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for name, color in (("a dog", (200, 30, 30)), ("a sofa", (30, 30, 200))):
            Image.new("RGB", (64, 48), color).save(folder / f"{name}.png")
    labels = tmp_path / "my_images" / "labels.csv"
    labels.write_text("image,labels\na dog.png,dog\na sofa.png,dog;sofa\n")
    monkeypatch.chdir(tmp_path)
    small = (
        "--limit-steps 2 --set retrain.model=small --set device=cpu "
        "--set augment.crop_size=64 --set retrain.augment.crop_size=64 --set train.batch_size=2 "
        "--set retrain.train.batch_size=2 --set pseudo_masks.inference.scales=[1.0] "
        "--set pseudo_masks.inference.crop=64 --set pseudo_masks.inference.stride=64 "
        "--set evaluate.inference.crop=64 --set evaluate.inference.stride=64 "
        "--set model.decoder_channels=8 --set model.co_attention_width=8"
    )
    changed = {
        "init": f"--clip {clip_folder}",
        "run": small,
        "tag": f"--clip {clip_folder} --overwrite --device cpu --threshold 0",
    }
    section = README[README.index("## Your own images") : README.index("## PASCAL VOC 2012")]
    lines = [shlex.split(line)[1:] for line in section.splitlines() if line.startswith("weakclip ")]
    assert [words[0] for words in lines] == ["init", "data", "run", "tag", "review", "predict", "export"]
    for words in lines:
        if words[0] == "review":
            continue  # serves until it is stopped; see tests/review
        result = CliRunner().invoke(app, words + shlex.split(changed.get(words[0], "")), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    for masks in ("runs/mine/3_pseudo_masks/masks", "masks/masks"):
        assert sorted(path.name for path in (tmp_path / masks).iterdir()) == ["a dog.png", "a sofa.png"]
    assert Path("runs/mine/report.html").is_file() and Path("tasks.json").is_file()


def test_the_crf_command_runs(tmp_path, monkeypatch):
    from weakclip.cli import app

    (command,) = re.findall(r"^weakclip crf .*$", "\n".join(blocks("sh")), re.MULTILINE)
    Image.new("RGB", (12, 9), (200, 30, 30)).save(tmp_path / "photo.jpg")
    np.save(tmp_path / "probs.npy", np.full((2, 9, 12), 0.5, np.float32))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with Image.open("mask.png") as mask:
        assert mask.size == (12, 9) and mask.mode == "P"


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks("python", page)])
def test_python_blocks_run(block, capsys):
    exec(compile(block, "a page", "exec"), {})
    assert capsys.readouterr().out


def test_study_commands_of_the_docs_exist():
    import typer.main

    from weakclip.cli.prepare import study

    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    lines = [line.split() for block in blocks("sh", page) for line in block.splitlines()]
    assert {words[2] for words in lines} == set(typer.main.get_command(study).commands) - {"crf"}
