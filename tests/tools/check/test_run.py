"""`weakclip data check`: exit codes, the tables, and the JSON file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from weakclip.config import ScenesData, VOC12Data
from weakclip.tools.check.dataset import Kind
from weakclip.tools.check.run import check_data, finding_lines


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small VOC folder is as large as published."""
    monkeypatch.setattr("weakclip.datasets.voc.OFFICIAL_SIZES", {"train_aug": 3, "val": 2, "test": 2})


def check(call: Callable[..., int], root: Path, *more: str | Path) -> int:
    return call("data", "check", "voc12", "--set", f"data.root={root}", *more)


@pytest.mark.usefixtures("published")
def test_a_sound_root_is_code_0(voc_root: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert check(call, voc_root) == 0
    shown = capsys.readouterr().out
    assert "findings: 0" in shown and "encoder: openai/clip-vit-base-patch16 suits" in shown
    assert "train_aug: image-level labels from Annotations" in shown
    assert "train_aug: true masks: masks of SegmentationClass\n" in shown


def test_another_number_of_images_is_said_and_code_1(
    voc_root: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(call, voc_root) == 1
    assert "3 images; the published split has 10,582" in capsys.readouterr().out


@pytest.mark.usefixtures("published")
def test_findings_are_shown_and_written_and_code_1(
    voc_root: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    photo = voc_root / "JPEGImages/2007_000002.jpg"
    photo.write_bytes(photo.read_bytes()[:-50])
    shutil.copy(voc_root / "JPEGImages/2007_000001.jpg", voc_root / "JPEGImages/2007_000006.jpg")
    assert check(call, voc_root, "--out", tmp_path / "check.json") == 1
    shown = capsys.readouterr().out
    assert "2007_000002" in shown
    assert "findings: 1" in shown
    report: dict[str, Any] = json.loads((tmp_path / "check.json").read_text())
    (finding,) = report["findings"]
    assert (finding["kind"], finding["image"]) == ("image that cannot be read", "2007_000002")
    assert [(each["split"], each["images"], each["published_images"]) for each in report["splits"]] == [
        ("train_aug", 3, 3),
        ("val", 2, 2),
    ]
    assert report["splits"][0]["truth"] == "masks of SegmentationClass"
    assert report["splits"][0]["classes"]["aeroplane"] == {"labels": 1, "masks": 1}


@pytest.mark.usefixtures("published")
def test_splits_may_be_chosen(voc_root: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert check(call, voc_root, "--split", "test", "--split", "val") == 0
    assert "train_aug" not in capsys.readouterr().out


@pytest.mark.usefixtures("published")
def test_a_validation_image_among_the_training_images_is_found(voc_root: Path) -> None:
    shutil.copy(voc_root / "JPEGImages/2007_000001.jpg", voc_root / "JPEGImages/2007_000004.jpg")
    shutil.copy(voc_root / "SegmentationClass/2007_000001.png", voc_root / "SegmentationClass/2007_000004.png")
    shutil.copy(voc_root / "Annotations/2007_000001.xml", voc_root / "Annotations/2007_000004.xml")
    settings = VOC12Data(root=str(voc_root), train_split="train_aug")
    (finding,) = check_data(settings).findings
    assert (finding.split, finding.image, finding.detail) == ("val", "2007_000004", "is 2007_000001 of train_aug")


@pytest.mark.usefixtures("published")
def test_images_of_several_given_splits_are_held_against_each_other(
    voc_root: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """By name and by content, for each two splits, whatever the configuration's own are."""
    lists = voc_root / "ImageSets/Segmentation"
    (lists / "mine.txt").write_text("2007_000005\n2007_000001\n")
    shutil.copy(voc_root / "JPEGImages/2007_000006.jpg", voc_root / "JPEGImages/2007_000004.jpg")
    splits = [part for split in ("mine", "train", "val", "test") for part in ("--split", split)]
    assert check(call, voc_root, *splits, "--out", voc_root / "check.json") == 1
    found = json.loads((voc_root / "check.json").read_text())["findings"]
    shared = [(each["split"], each["image"], each["detail"]) for each in found if each["kind"].endswith("split too")]
    assert shared == [
        ("train", "2007_000001", "is 2007_000001 of mine"),
        ("val", "2007_000005", "is 2007_000005 of mine"),
        ("test", "2007_000006", "is 2007_000004 of val"),
    ]
    assert "test: image of another split too: 1" in capsys.readouterr().out


@pytest.fixture
def in_root(voc_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(voc_root)
    return voc_root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "private"), "no list private.txt"),
        (("--set", "data.root=./no/such/root"), "no PASCAL VOC 2012 here"),
        (("--set", "data.rot=x"), "unknown key"),
        (("--out", "."), "cannot be written"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_code_2(
    in_root: Path,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert check(call, in_root, *arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weakclip: ")]
    assert message in line


def test_missing_photos_are_one_line_and_code_2(
    voc_root: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (voc_root / "JPEGImages/2007_000002.jpg").unlink()
    assert check(call, voc_root) == 2
    assert "1 of the 3 images of train_aug.txt are missing, the first is 2007_000002.jpg" in capsys.readouterr().err


def test_a_name_that_is_listed_twice_is_one_line_and_code_2(
    voc_root: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (voc_root / "ImageSets/Segmentation/val.txt").write_text("2007_000004\n2007_000005\n2007_000004\n")
    assert check(call, voc_root) == 2
    assert "split 'val' names '2007_000004' more than once" in capsys.readouterr().err


def test_many_findings_are_three_and_a_number(voc_root: Path) -> None:
    for photo in (voc_root / "JPEGImages").iterdir():
        photo.write_bytes(b"")
    (voc_root / "ImageSets/Segmentation/mine.txt").write_text("\n".join(f"2007_00000{n}" for n in range(1, 6)))
    lines = finding_lines(check_data(VOC12Data(root=str(voc_root)), ["mine"]))
    assert lines[0] == "mine: image that cannot be read: 5"
    assert lines[-2].startswith("    … and 2 more")
    assert lines[-1].startswith("    → save it anew")
    assert len(lines) == 6


def test_scenes_are_checked_too() -> None:
    check = check_data(ScenesData(scene_size=64, train_limit=2, val_limit=2), ["val"])
    assert [len(each.facts) for each in check.splits] == [200]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images with labels, in which nothing is wrong."""
    root = tmp_path / "my photos"
    (root / "images").mkdir(parents=True)
    for grey, name in enumerate("abc"):
        Image.new("RGB", (6, 5), (grey,) * 3).save(root / f"images/{name}.png")
    (root / "labels.csv").write_text("image,labels\na,cat\nb,dog\nc,dog\n")
    return root


def test_a_folder_of_images_is_checked_by_its_path(
    photos: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("data", "check", photos) == 0
    assert "val, masks" not in capsys.readouterr().out
    (photos / "val.txt").write_text("c\n")
    assert call("data", "check", photos) == 0
    assert "val, masks" in capsys.readouterr().out


def test_a_shipped_configuration_goes_before_a_folder_of_its_name(
    tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("voc12").mkdir()
    assert call("data", "check", "voc12", "--set", "data.root=./nowhere") == 2
    assert "no PASCAL VOC 2012 here" in capsys.readouterr().err


def test_all_mistakes_in_labels_are_shown_and_written_with_a_mend(
    photos: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"missing{number},cat" for number in range(12)]
    (photos / "labels.csv").write_text("\n".join(["image,labels", "a,cat", "a,dog", *lines]))
    (photos / "val.txt").write_text("c\n")
    assert call("data", "check", photos, "--out", tmp_path / "check.json") == 1
    shown = capsys.readouterr().out
    assert "no image … in " in shown and "take the line out: 12 times: " in shown
    assert "labels.csv, line 4 ('missing0'); line 5 ('missing1'); line 6 ('missing2'); …" in shown
    assert "labelled twice" in shown
    assert "→ correct the lines that are named" in shown
    assert "findings: 2" in shown
    report = json.loads((tmp_path / "check.json").read_text())
    assert report["splits"] == []
    assert [len(finding["lines"]) for finding in report["findings"]] == [12, 1] or report
    assert all(finding["advice"] for finding in report["findings"])


def test_every_kind_of_finding_is_shown_with_its_mend(
    photos: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "images/a.png").write_bytes(b"no image")
    (photos / "labels.csv").write_text("image,labels\na,cat\nb,dog\nc,Dog\n")
    assert call("data", "check", photos) == 1
    shown = capsys.readouterr().out
    for kind in (Kind.IMAGE, Kind.NEAR_NAMES):
        assert f"{kind}: 1" in shown
        assert f"→ {kind.advice}" in shown
