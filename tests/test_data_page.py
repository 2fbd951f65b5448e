"""Every command of docs/data.md runs, on small folders in the layouts that the page describes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from weakclip.cli import app
from weakclip.datasets import coco, voc
from weakclip.datasets.classes import COCO14, VOC12
from weakclip.segmenters.segmenter import SMALL, build_segmenter, save_segmenter
from weakclip.store.keys import ResultKey
from weakclip.store.manifest import Manifest
from weakclip.tools.init.folder import write_init

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]

VOC_CONFIG = """
data: {dataset: voc12, root: VOCdevkit/VOC2012}
retrain: {model: small}
evaluate: {inference: {scales: [1.0], crop: 64, stride: 64}}
device: cpu
"""


def write_coco(root: Path) -> None:
    categories = [{"id": i, "name": n} for i, n in zip(COCO14.ids[1:], COCO14.names[1:], strict=True)]
    for split, shade in (("train", 50), ("val", 150)):
        name = f"COCO_{split}2014_000000000001.jpg"
        (root / f"{split}2014").mkdir(parents=True)
        Image.new("RGB", (10, 8), (shade,) * 3).save(root / f"{split}2014" / name)
        mark = {"id": 1, "image_id": 1, "category_id": 90, "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
        content = {"images": [{"id": 1, "file_name": name, "height": 8, "width": 10}], "annotations": [mark]}
        (root / "annotations").mkdir(exist_ok=True)
        path = root / f"annotations/instances_{split}2014.json"
        path.write_text(json.dumps(content | {"categories": categories}))


@pytest.fixture
def place(voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the page's commands name; the small data sets are as large as published."""
    monkeypatch.setattr(voc, "OFFICIAL_SIZES", {"train_aug": 3, "val": 2, "trainval": 5, "test": 2})
    monkeypatch.setattr(coco, "OFFICIAL_SIZES", {"train": 1, "val": 1})
    lists = voc_root / "ImageSets" / "Segmentation"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    write_coco(tmp_path / "coco")
    for name in ("my_images/cat/one.png", "my_photos/two.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "my_photos/labels.csv").write_text("image,labels\ntwo,cat\n")
    run = tmp_path / "runs" / "voc12"
    manifest = Manifest.open(run)
    save_segmenter(build_segmenter(SMALL, VOC12), manifest.start("retrain", ResultKey()))
    manifest.finish("retrain", 1.0)
    (run / "config.yaml").write_text(VOC_CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_commands() -> None:
    """`score` wants a finished run: tests/tools/score runs it."""
    assert {line.split()[1] for line in COMMANDS} == {"data", "init", "run", "score", "submit", "tag"}


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.split()[1] != "score"])
@pytest.mark.usefixtures("place")
def test_a_command_of_the_page_runs(command: str) -> None:
    words = shlex.split(command)[1:]
    if words[0] in ("init", "tag"):
        words += ["--clip", "demo"]  # in place of a download
    if words[0] == "tag":
        Path("my_photos/labels.csv").unlink()
    if words[0] == "run":
        words += ["--limit-steps", "1", "--set", "device=cpu"]
    if command.endswith(".yaml") or words[0] == "run":
        write_init("my_images", "my_images.yaml", clip="demo")
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    if "--out" in words:
        assert Path(words[words.index("--out") + 1]).exists()


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    for numbers in (voc.OFFICIAL_SIZES, coco.OFFICIAL_SIZES):
        for split, count in numbers.items():
            assert f"{count:,}" in PAGE, split
