"""Laws of the check's warnings: they name what makes poor masks or no score, and change no exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.config import FolderData
from weakclip.datasets.classes import voc_palette
from weakclip.datasets.images import write_mask
from weakclip.tools.check.dataset import Kind
from weakclip.tools.check.run import check_data


def photos(root: Path, **classes: int) -> Path:
    """As many photos of each class as asked for, in class folders."""
    for number, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for each in range(count):
            Image.new("RGB", (6, 5), (number, each, 0)).save(root / name / f"{each}.png")
    return root


def warnings(root: Path, *splits: str, val_split: str | None = None, **settings: str) -> tuple[str, ...]:
    return check_data(FolderData(root=str(root), val_split=val_split, **settings), splits).warnings  # type: ignore[arg-type]


def test_classes_with_few_images_are_named(tmp_path: Path) -> None:
    photos(tmp_path, cat=10, dog=9, owl=1)
    (tmp_path / "classes.yaml").write_text("names: [cat, dog, owl, ox]\n")
    first, _ = warnings(tmp_path)
    assert first.startswith("train: fewer than 10 images of dog (9), owl (1), ox (0); ")


def test_no_validation_split_is_said(tmp_path: Path) -> None:
    photos(tmp_path, cat=10)
    (line,) = warnings(tmp_path)
    assert line.startswith("no validation split: ") and "weakclip init DIR --val 0.1" in line
    (tmp_path / "val.txt").write_text("cat/1\n")
    photos(tmp_path, dog=10, cat=12)
    assert warnings(tmp_path, val_split="val") == ()


def test_classes_that_are_validated_and_never_trained_are_named(tmp_path: Path) -> None:
    """By label or by mask."""
    photos(tmp_path, cat=12, dog=1, owl=10)
    (tmp_path / "classes.yaml").write_text("names: [cat, dog, owl, ox]\n")
    (tmp_path / "val.txt").write_text("cat/1\ndog/0\n")
    mask = np.full((5, 6), 4, np.uint8)
    write_mask(tmp_path / "masks/cat/1.png", mask, voc_palette())
    few, never = warnings(tmp_path, val_split="val")
    assert "dog (0), ox (0)" in few
    assert never.startswith("val: classes that no image of train is labelled with: dog, ox; ")


def test_classes_called_by_numbers_are_told(tmp_path: Path) -> None:
    photos(tmp_path, **{"0": 10, "1": 10, "cat": 10, "4x4": 10})
    assert warnings(tmp_path)[0].startswith("classes called by numbers: 0, 1; CLIP is asked for words")


def test_words_for_no_label_are_told(tmp_path: Path) -> None:
    photos(tmp_path, none=10, cat=10, nonesuch=10)
    assert warnings(tmp_path)[0].startswith("classes called 'none': where that means no label, leave the cell empty")


def test_warnings_are_printed_and_written_and_code_0(
    tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "mine", cat=3)
    assert call("data", "check", tmp_path / "mine", "--out", tmp_path / "check.json") == 0
    shown = capsys.readouterr().out
    assert "warning: train: fewer than 10 images of cat (3)" in shown and "findings: 0" in shown
    assert len(json.loads((tmp_path / "check.json").read_text())["warnings"]) == 2


def test_untagged_images_are_all_named(
    tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    root = photos(tmp_path / "mine", images=30)
    (root / "labels.csv").write_text("image,labels\n0,cat\n1,\n")
    assert call("data", "check", root, "--out", tmp_path / "check.json") == 0
    shown = capsys.readouterr().out.splitlines()
    assert "train: images without labels, left out: 29" in shown
    assert {f"    {number}" for number in range(1, 30)} <= set(shown) and "    0" not in shown
    assert len(json.loads((tmp_path / "check.json").read_text())["splits"][0]["untagged"]) == 29
    assert call("data", "check", root, "--set", "data.untagged=stop") == 1
    assert "image without labels; add a row to the labels file, list it in val.txt" in capsys.readouterr().out


def test_an_image_of_both_splits_is_found_where_others_are_left_out(tmp_path: Path) -> None:
    root = photos(tmp_path / "mine", images=4)
    shutil.copy(root / "images/0.png", root / "images/9.png")
    (root / "labels.csv").write_text("image,labels\n0,cat\n1,\n2,cat\n")
    (root / "val.txt").write_text("9\n")
    (finding,) = check_data(FolderData(root=str(root))).findings
    assert (finding.kind, finding.image, finding.detail) == (Kind.SHARED, "9", "is 0 of train")


def test_a_verified_mask_is_a_label(tmp_path: Path) -> None:
    root = photos(tmp_path / "mine", images=3)
    (root / "labels.csv").write_text("image,labels\n0,cat\n1,\n")
    write_mask(tmp_path / "drawn/1.png", np.ones((5, 6), np.uint8), voc_palette())
    check = check_data(FolderData(root=str(root), val_split=None, verified=str(tmp_path / "drawn")))
    assert check.findings == () and check.splits[0].untagged == ("2",)
    assert check.splits[0].images_of_classes()["cat"][0] == 2


def test_saliency_maps_that_are_missing_are_told(
    tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of some images a warning; of all of them, or a folder that is not there, a finding."""
    root, maps = photos(tmp_path / "photos", cat=10), tmp_path / "maps"
    words = ("data", "check", root, "--set", f"pseudo_masks.saliency.folder={maps}")
    assert call(*words) == 1
    assert f"{Kind.BESIDE}: 1" in (said := capsys.readouterr().out) and f"{maps}: no such folder; expected" in said
    (maps / "cat").mkdir(parents=True)
    assert call(*words) == 1
    assert "maps of none of the 10 images; expected cat/0.png" in capsys.readouterr().out
    for number in range(8):
        shutil.copy(root / f"cat/{number}.png", maps / "cat")
    assert call(*words) == 0
    assert f"warning: {maps}: no saliency map of 2 of 10 images (cat/8, cat/9); their" in capsys.readouterr().out
