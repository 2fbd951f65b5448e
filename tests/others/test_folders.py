"""Folders and tables of others: splits are no classes, joined labels are no class, and what looks the same is."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets.classes import voc_palette
from weakclip.datasets.folder import FolderDataset
from weakclip.datasets.folder_masks import MaskFolder
from weakclip.datasets.images import write_mask
from weakclip.errors import DataError
from weakclip.prediction.inputs import find_images
from weakclip.prediction.labels import read_labels
from weakclip.tools.init.survey import survey_folder


def photos(root: Path, *names: str) -> Path:
    """A folder of photos that differ."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "JPEG" if path.suffix.lower() in (".jfif", ".jpe", ".pjpeg") else None
        Image.new("RGB", (6, 4), (number, 0, 0)).save(path, format=kind)
    return root


def labelled(dataset: FolderDataset) -> dict[str, list[str]]:
    names = dataset.class_set.names
    return {name: [names[k] for k in dataset.labels(index)] for index, name in enumerate(dataset.names)}


def test_found_folders_of_splits_are_splits(cases: Path) -> None:
    root = cases / "image_folder_of_splits/train_val"
    assert labelled(FolderDataset(root, "train")) == {
        "train/cat/1": ["cat"],
        "train/cat/2": ["cat"],
        "train/dog/3": ["dog"],
    }
    assert labelled(FolderDataset(root, "val")) == {"val/cat/4": ["cat"], "val/dog/5": ["dog"]}
    assert survey_folder(root).splits == {"train": 3, "val": 2}


@pytest.mark.parametrize("below", ["", "images/"])
def test_folders_of_splits_under_other_names(below: str, tmp_path: Path) -> None:
    names = [f"{below}{file}" for file in ("Training_Set/cat/1.png", "validation/cat/a/2.png", "test/3.png")]
    photos(tmp_path, *names)
    assert labelled(FolderDataset(tmp_path, "train")) == {"Training_Set/cat/1": ["cat"]}
    assert labelled(FolderDataset(tmp_path, "val")) == {"validation/cat/a/2": ["cat"]}
    assert labelled(FolderDataset(tmp_path, "test")) == {"test/3": []}  # nothing is known, and nothing needed
    assert FolderDataset.splits(tmp_path) == ("train", "val", "test")


def test_folders_of_splits_beside_a_table(tmp_path: Path) -> None:
    photos(tmp_path, "images/train/1.png", "images/val/2.png")
    (tmp_path / "labels.csv").write_text("image,labels\ntrain/1,cat\nval/2,dog\n")
    assert labelled(FolderDataset(tmp_path, "train")) == {"train/1": ["cat"]}
    (tmp_path / "val.txt").write_text("train/1\n")  # lists go before folders
    assert labelled(FolderDataset(tmp_path, "train")) == {"val/2": ["dog"]}


def test_folders_of_splits_without_classes_are_refused(tmp_path: Path) -> None:
    photos(tmp_path, "train/1.png", "val/2.png")
    with pytest.raises(DataError, match="its folders are the splits train, val, without class folders in them; write"):
        FolderDataset(tmp_path, "train")
    photos(tmp_path / "more", "val/cat/1.png", "test/cat/2.png")
    with pytest.raises(DataError, match="its folders are the splits test, val, and none is for 'train'; add one"):
        FolderDataset(tmp_path / "more", "train")


def test_classes_that_are_called_like_splits(tmp_path: Path) -> None:
    """Trains, by themselves or among other vehicles."""
    photos(tmp_path / "one", "train/1.png", "train/2.png")
    assert FolderDataset(tmp_path / "one").class_set.names[1:] == ("train",)
    photos(tmp_path / "two", "train/1.png", "bus/2.png")
    assert FolderDataset(tmp_path / "two").class_set.names[1:] == ("bus", "train")


@pytest.mark.parametrize("folder", ["@eaDir", "__MACOSX", "#recycle", "@__thumb"])
def test_folders_of_file_servers_hold_no_images(folder: str, tmp_path: Path) -> None:
    photos(tmp_path, "cat/1.png", f"cat/{folder}/1.png/SYNOPHOTO_THUMB_M.jpg", f"{folder}/2.png", "dog/2.png")
    assert FolderDataset(tmp_path).names == ("cat/1", "dog/2")
    assert [image.file_name for image in find_images([str(tmp_path)])] == ["cat/1.png", "dog/2.png"]


def test_found_photos_of_other_endings(cases: Path) -> None:
    root = cases / "jfif/class_folders"
    assert FolderDataset(root).names == ("cat/1", "cat/4", "cat/5", "dog/2", "dog/3")
    assert len(find_images([str(root)])) == 5


def test_photos_of_other_endings(tmp_path: Path) -> None:
    names = ("a.jfif", "b.JPE", "c.pjpeg", "d.dib", "e.ppm")
    photos(tmp_path, *(f"images/{name}" for name in names))
    (tmp_path / "labels.csv").write_text("image,labels\na.jfif,cat\nb,cat\nc.pjpeg,dog\nd,dog\ne,dog\n")
    dataset = FolderDataset(tmp_path)
    assert dataset.names == ("a", "b", "c", "d", "e") and dataset[1].image.shape == (4, 6, 3)
    assert len(find_images([str(tmp_path)])) == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("10_pipe", r"labels\.csv, line 4: 'cat\|dog' looks like 2 classes; separate labels by ';'"),
        (
            "18_json_list_cell",
            r"labels\.csv, line 2: \"\['cat'\]\" is a list in one text; write labels with ';' between",
        ),
    ],
)
def test_found_labels_of_other_forms(cases: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FolderDataset(cases / "labels_of_other_forms" / name)


@pytest.mark.parametrize("joined", ["cat|dog", "cat+dog", "cat / dog", "dog & cat", "cat dog", "cat\\dog"])
@pytest.mark.parametrize("table", ["labels.csv", "labels.jsonl"])
@pytest.mark.parametrize("named", [False, True], ids=["classes of the labels", "classes of a file"])
def test_joined_labels_are_no_class(joined: str, table: str, named: bool, tmp_path: Path) -> None:
    photos(tmp_path, *(f"images/{name}.png" for name in "abc"))
    rows = (("a", "cat"), ("b", "dog"), ("c", joined))
    lines = ["image,labels", *(f"{image},{label}" for image, label in rows)]
    if table == "labels.jsonl":
        lines = [json.dumps({"image": image, "labels": [label]}) for image, label in rows]
    (tmp_path / table).write_text("\n".join(lines))
    if named:
        (tmp_path / "classes.yaml").write_text("names: [cat, dog]")
    with pytest.raises(DataError, match=r"labels are separated by ';'|looks like 2 classes; separate labels by ';'"):
        FolderDataset(tmp_path)


@pytest.mark.parametrize(
    "cell", ["['cat', 'dog']", '["cat"]', "('cat',)", "{'cat', 'dog'}", "[cat dog]", "['cat' 'dog']"]
)
def test_lists_in_a_cell_are_refused(cell: str, tmp_path: Path) -> None:
    photos(tmp_path, "images/a.png")
    (tmp_path / "labels.csv").write_text('image,labels\na.png,"{}"\n'.format(cell.replace('"', '""')))
    with pytest.raises(
        DataError, match=r"labels\.csv, line 2: .* is a list in one text; write labels with ';' between"
    ):
        FolderDataset(tmp_path)


def test_names_with_such_marks_are_classes(tmp_path: Path) -> None:
    photos(tmp_path, *(f"images/{name}.png" for name in "abc"))
    (tmp_path / "labels.csv").write_text("image,labels\na,tv/monitor\nb,c++\nc,(other)\n")
    assert FolderDataset(tmp_path).class_set.names[1:] == ("(other)", "c++", "tv/monitor")


def test_a_mark_in_the_name_of_another_column(cases: Path) -> None:
    expected = {"a": ["cat"], "b": ["dog"], "c": ["cat", "dog"]}
    assert labelled(FolderDataset(cases / "advice_that_misleads/header_with_semicolon")) == expected


@pytest.mark.parametrize(
    "text",
    [
        'image,labels,"a;b"\na.png,cat;dog,x\n',
        'image;labels;"a,b\tc"\na.png;"cat;dog";x\n',
        '"a;b"\timage\tlabels\nx\ta.png\tcat,dog\n',
    ],
)
def test_the_separator_is_the_one_that_gives_the_columns(text: str, tmp_path: Path) -> None:
    photos(tmp_path, "images/a.png")
    (tmp_path / "labels.csv").write_text(text)
    assert labelled(FolderDataset(tmp_path)) == {"a": ["cat", "dog"]}


@pytest.mark.parametrize("name", ["screenshot", "leading_space", "nfd"])
def test_found_names_that_look_alike(cases: Path, name: str) -> None:
    root = cases / "names_that_look_alike" / name
    dataset = FolderDataset(root, "train")
    assert sorted(map(tuple, labelled(dataset).values())) == [("cat",), ("dog",)]
    assert dataset.has_masks == (name == "nfd") and not dataset.notes
    images = find_images([str(root / "images")])
    assert set(read_labels(root / "labels.csv", images)) == set(images)


def test_found_endings_in_upper_case(cases: Path) -> None:
    root = cases / "names_that_look_alike/upper_ending"
    images = find_images([str(root / "images")])
    assert [read_labels(root / "labels.csv", images)[image] for image in images] == [("cat",), ("dog",)]
    assert sorted(labelled(FolderDataset(root)).values()) == [["cat"], ["dog"]]


ALIKE = {
    "a space of macOS": ("at 9.41\u202fAM.png", "at 9.41 AM.png"),
    "a space that does not break": ("a\u00a0b.png", "a b.png"),
    "a space before": (" a.png", " a.png"),
    "a space behind": ("a.png", "a.png "),
    "two signs of one letter": ("cafe\u0301.png", "caf\u00e9.png"),
    "one sign": ("caf\u00e9.png", "cafe\u0301.png"),
    "wide letters": ("Ａ.png", "A.png"),
}


@pytest.mark.parametrize(("file", "written"), ALIKE.values(), ids=ALIKE)
def test_names_that_look_alike_are_the_same(file: str, written: str, tmp_path: Path) -> None:
    photos(tmp_path, f"images/{file}")
    (tmp_path / "labels.csv").write_text(f'image,labels\n"{written}",cat\n')
    mask = np.ones((4, 6), np.uint8)
    write_mask(tmp_path / "masks" / f"{written.strip().removesuffix('.png')}.png", mask, voc_palette())
    dataset = FolderDataset(tmp_path, "train")
    assert labelled(dataset) == {file.removesuffix(".png"): ["cat"]} and not dataset.notes
    found = dataset.mask(0)
    assert found is not None and found.all()
    images = find_images([str(tmp_path / "images")])
    assert list(read_labels(tmp_path / "labels.csv", images).values()) == [("cat",)]


def test_two_files_that_look_alike_are_kept_apart(tmp_path: Path) -> None:
    names = ("a b", "a\u00a0b", unicodedata.normalize("NFC", "é"))
    photos(tmp_path, *(f"images/{name}.png" for name in names))
    (tmp_path / "labels.csv").write_text("image,labels\na b.png,cat\na\u00a0b.png,dog\né.png,cat\n")
    assert labelled(FolderDataset(tmp_path)) == {"a b": ["cat"], "a\u00a0b": ["dog"], "é": ["cat"]}
    (tmp_path / "labels.csv").write_text("image,labels\na\u202fb.png,cat\né.png,cat\na b.png,cat\n")
    with pytest.raises(DataError, match=r"labels\.csv, line 2: no image 'a.*b\.png' in"):
        FolderDataset(tmp_path)


def test_a_mask_that_is_called_like_one_image_is_of_no_other(tmp_path: Path) -> None:
    (tmp_path / "a b.png").touch()
    masks = MaskFolder(tmp_path, ["a b", "a  b"])
    assert [masks.find(name) for name in ("a b", "a  b")] == [tmp_path / "a b.png", None]
