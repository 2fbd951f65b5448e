"""From a folder of tagged photos, in each of the forms in which people keep them, to masks; nothing is edited."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.config import load_config
from weakclip.datasets.images import read_mask

PHOTOS = {"a": ["cat"], "b": ["cat", "dog"], "c": ["dog"], "d": ["traffic light"], "e": ["cat", "traffic light"]}
SMALL = ("device=cpu", "train.batch_size=2", "pseudo_masks.inference.scales=[1.0]", "retrain.model=null")
QUICK = ("--limit-steps", "1", *(word for setting in SMALL for word in ("--set", setting)))


def photo(path: Path) -> None:
    """Another one for each letter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(ord(path.stem[0])).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def table_of_labels(root: Path) -> list[str]:
    """images/ and labels.csv, with names as a spreadsheet has them; nobody has tagged f."""
    for name in (*PHOTOS, "f"):
        photo(root / "images" / f"{name}.png")
    rows = [f"{name.upper()}.PNG;{', '.join(labels)}" for name, labels in PHOTOS.items()]
    (root / "labels.csv").write_text("\n".join(["Filename;Tags", *rows, "f.png;"]))
    return [*PHOTOS]


def class_folders(root: Path) -> list[str]:
    """A photo of two classes lies in both folders."""
    for name, labels in PHOTOS.items():
        for label in labels:
            photo(root / label / f"{name}.png")
    return ["cat/a", "cat/b", "cat/e", "dog/c", "traffic light/d"]


def one_hot_table(root: Path) -> list[str]:
    """A column a class, and others."""
    classes = ["cat", "dog", "traffic light"]
    for name in PHOTOS:
        photo(root / "images" / f"{name}.png")
    with (root / "labels.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["image_id", "width", *classes])
        table.writerows([name, 50, *(int(label in labels) for label in classes)] for name, labels in PHOTOS.items())
    return [*PHOTOS]


def workbook(root: Path) -> list[str]:
    """One row a label, in a workbook of another name beside the photos."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["path", "class"])
    for name, labels in PHOTOS.items():
        photo(root / f"{name}.png")
        for label in labels:
            book.active.append([f"{root.name}/{name}.png", label])
    book.save(root / "tags.xlsx")
    return [*PHOTOS]


def folders_of_splits(root: Path) -> list[str]:
    """train/CLASS and val/CLASS."""
    for name, labels in PHOTOS.items():
        for label in labels:
            photo(root / "train" / label / f"{name}.png")
    photo(root / "val/cat/z.png")
    return [f"train/{name}" for name in ("cat/a", "cat/b", "cat/e", "dog/c", "traffic light/d")]


@pytest.mark.parametrize("make", [table_of_labels, class_folders, one_hot_table, workbook, folders_of_splits])
def test_from_files_to_masks_in_five_commands(
    make: Callable[[Path], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three: look, check, run."""
    monkeypatch.chdir(tmp_path)
    root = Path("my photos")
    names = make(root)
    before = sorted(path.as_posix() for path in root.rglob("*"))
    labels = ("--labels", root / "tags.xlsx") if (root / "tags.xlsx").exists() else ()
    assert call("init", root, "--clip", "demo", "--out", "my.yaml", *labels) == 0, capsys.readouterr().err
    assert call("data", "check", "my.yaml") == 0, capsys.readouterr().out
    train = load_config("my.yaml").data.open("train", None)
    shown = dict(zip(train.names, map(train.labels, range(len(train))), strict=True))
    assert sorted(shown) == sorted([*names, *(["f"] if make is table_of_labels else [])])
    for name, labels in shown.items():
        assert [train.class_set.names[label] for label in labels] == PHOTOS.get(name.rpartition("/")[2], [])
    if make in (table_of_labels, folders_of_splits):  # the data set is all that a run knows of the form
        assert call("run", "my.yaml", "--out", "runs/mine", *QUICK) == 0, capsys.readouterr().err
        masks = Path("runs/mine/3_pseudo_masks/masks")
        made = {path.relative_to(masks).with_suffix("").as_posix(): read_mask(path) for path in masks.rglob("*.png")}
        assert sorted(made) == sorted(names)
        for name, mask in made.items():
            assert mask.shape == (40, 50) and set(np.unique(mask)) <= {0, *shown[name]}
        assert Path("runs/mine/untagged.txt").exists() == (make is table_of_labels)
    assert sorted(path.as_posix() for path in root.rglob("*")) == before


def test_untagged_photos_take_one_command_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(Path("sorted"))
    for path in Path("sorted").rglob("*.png"):
        Path("photos").mkdir(exist_ok=True)
        shutil.copy(path, Path("photos") / path.name)
    tag = ("tag", "photos", "--clip", "demo", "--device", "cpu", "--classes", "cat,dog", "--threshold", "0.001")
    assert call(*tag) == 0
    assert "threshold: 0.001; rows without a class from there on, left empty: " in capsys.readouterr().out
    assert call("init", "photos", "--clip", "demo") == 0, capsys.readouterr().err
    assert call("data", "check", "photos.yaml") == 0
    assert call("run", "photos.yaml", "--out", "run", *QUICK) == 0
    assert list(Path("run/3_pseudo_masks/masks").glob("*.png"))
