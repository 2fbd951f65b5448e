"""The commands of docs/predict_and_export.md run, in the order of the page."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
import yaml
from PIL import Image

from weakclip.clip import FrozenCLIP
from weakclip.datasets.images import read_mask, write_mask
from weakclip.modeling import build_weakclip, save_weakclip
from weakclip.pipeline.context import open_run
from weakclip.segmenters.segmenter import build_segmenter, save_segmenter

PAGE = (Path(__file__).parents[1] / "docs" / "predict_and_export.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def page_folder(
    make_tiny_clip: Callable[..., FrozenCLIP], clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with what the page takes for granted: `runs/mine`, `photos`, `labels.csv`."""
    monkeypatch.chdir(tmp_path)
    Path("my_images/images").mkdir(parents=True)
    Path("photos").mkdir()
    rows = "image,labels\none.jpg,cat\ntwo.jpg,cat;dog\n"
    for place in ("my_images/images", "photos"):
        for number, name in enumerate(("one", "two")):
            noise = np.random.default_rng(number).integers(0, 256, (40 + number, 51, 3), dtype=np.uint8)
            Image.fromarray(noise).save(Path(place) / f"{name}.jpg")
    for path in ("my_images/labels.csv", "labels.csv"):
        Path(path).write_text(rows)
    run = Path("runs/mine")
    run.mkdir(parents=True)
    inference = {"scales": [1.0], "flip": False, "crop": 64, "stride": 64, "fit_crop": False}
    settings = {
        "data": {"dataset": "folder", "root": "my_images", "class_file": "classes.yaml", "longest_side": 45},
        "clip": {"source": str(clip_folder)},
        "pseudo_masks": {"inference": inference},
        "evaluate": {"inference": inference},
    }
    Path("classes.yaml").write_text("names: [dog, cat]\n")  # not in the order of the alphabet
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    class_set = open_run(run).train.class_set
    for name, height in (("one", 35), ("two", 36)):
        mask = np.random.default_rng(0).integers(0, 3, (height, 45), dtype=np.uint8)
        write_mask(run / f"3_pseudo_masks/masks/{name}.png", mask, class_set.palette)
    torch.manual_seed(0)
    clip = make_tiny_clip()
    clip.source = str(clip_folder)
    save_weakclip(build_weakclip(clip, class_set, co_attention_width=8, decoder_channels=8), run / "2_train")
    save_segmenter(build_segmenter("small", class_set), run / "4_retrain")
    return tmp_path


def run_line(call: Callable[..., int], line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    piped, _, command = line.rpartition(" | ")
    if piped:
        listed = "".join(f"{path}\n" for path in sorted(Path().glob(piped.removeprefix("ls "))))
        monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    return call(*shlex.split(command)[1:])


def test_the_commands_run(call: Callable[..., int], page_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)  # which would wait for Ctrl-C
    for line in LINES:
        if " export onnx " in line or line.startswith("weakclip run"):
            continue
        assert run_line(call, line, monkeypatch) == 0, line
    for folder in ("masks", "masks_jpg", "masks_weakclip", "masks_listed"):
        assert sorted(path.name for path in Path(folder, "masks").iterdir()) == ["one.png", "two.png"]
    assert Path("masks_listed/annotations.polygons.json").is_file() and Path("masks_jpg/overlays/one.jpg").is_file()
    for name in ("one", "two"):
        assert np.array_equal(
            read_mask(f"corrected/{name}.png"), read_mask(f"runs/mine/3_pseudo_masks/masks/{name}.png")
        )
    (again,) = [line for line in LINES if line.startswith("weakclip run") and "corrected" in line]
    assert run_line(call, again.replace("weakclip run", "weakclip seeds"), monkeypatch) == 0
    values = read_mask("runs/corrected/1_seeds/masks/two.png")  # which shows all classes
    assert np.array_equal(values, read_mask("corrected/two.png"))


@pytest.mark.slow
def test_the_onnx_command_runs(call: Callable[..., int], page_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    (line,) = [line for line in LINES if " export onnx " in line]
    assert run_line(call, line, monkeypatch) == 0
    assert Path("net.onnx").is_file()
