"""Laws of folders that nobody has put in order: photos in several classes, photos without labels, names in any case."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets.classes import voc_palette
from weakclip.datasets.folder import FolderDataset
from weakclip.datasets.images import write_mask
from weakclip.datasets.same_photos import same_photos
from weakclip.errors import DataError


def photos(root: Path, *names: str) -> Path:
    """Photos that differ."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return root


def copy(root: Path, first: str, second: str) -> None:
    (root / second).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / first, root / second)


def labelled(dataset: FolderDataset) -> dict[str, list[str]]:
    names = dataset.class_set.names
    return {name: [names[k] for k in dataset.labels(index)] for index, name in enumerate(dataset.names)}


def test_a_photo_in_two_class_folders_is_one_with_two_labels(tmp_path: Path) -> None:
    """Under one name or two; another photo of the same name is another photo."""
    photos(tmp_path, "cat/1.png", "cat/2.png", "dog/2.png", "dog/3.png", "owl/4.png")
    copy(tmp_path, "cat/1.png", "dog/1.png")
    copy(tmp_path, "dog/3.png", "owl/other name.png")
    dataset = FolderDataset(tmp_path, "train")
    assert labelled(dataset) == {
        **{"cat/1": ["cat", "dog"], "cat/2": ["cat"], "dog/2": ["dog"], "dog/3": ["dog", "owl"], "owl/4": ["owl"]}
    }
    assert dataset.notes == (
        "2 photos in several class folders are one image with all their labels: "
        "cat/1.png = dog/1.png; dog/3.png = owl/other name.png",
    )


def test_copies_in_one_class_folder_stay(tmp_path: Path) -> None:
    photos(tmp_path, "cat/1.png", "dog/2.png")
    copy(tmp_path, "cat/1.png", "cat/copy.png")
    assert FolderDataset(tmp_path).names == ("cat/1", "cat/copy", "dog/2")


def test_a_mask_or_list_may_name_either_of_the_two(tmp_path: Path) -> None:
    photos(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png")
    copy(tmp_path, "cat/1.png", "dog/1.png")
    write_mask(tmp_path / "masks/dog/1.png", np.ones((20, 30), np.uint8), voc_palette())
    dataset = FolderDataset(tmp_path)
    assert dataset.mask(0) is not None and len(dataset.notes) == 1
    (tmp_path / "val.txt").write_text("dog/1.png\n")
    assert labelled(FolderDataset(tmp_path, "val")) == {"cat/1": ["cat", "dog"]}
    assert FolderDataset(tmp_path, "train").names == ("cat/2", "dog/3")
    (tmp_path / "val.txt").write_text("cat/1.png\ndog/1.png\n")
    assert FolderDataset(tmp_path, "val").names == ("cat/1",)
    (tmp_path / "train.txt").write_text("cat/1.png\ncat/2.png\n")
    with pytest.raises(DataError, match=r"cat/1\.png is both in train\.txt and in val\.txt"):
        FolderDataset(tmp_path, "train")


def test_a_photo_of_two_splits_stays_in_both(tmp_path: Path) -> None:
    """`data check` tells of it: it is no question of labels."""
    photos(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png")
    copy(tmp_path, "train/cat/1.png", "val/dog/1.png")
    copy(tmp_path, "train/cat/1.png", "train/dog/1.png")
    assert labelled(FolderDataset(tmp_path, "train")) == {"train/cat/1": ["cat", "dog"], "train/dog/2": ["dog"]}
    assert labelled(FolderDataset(tmp_path, "val")) == {"val/cat/3": ["cat"], "val/dog/1": ["dog"]}


def test_same_photos_are_equal_to_the_last_byte(tmp_path: Path) -> None:
    content = bytes(20_000)
    for name, middle in (("a", b"x"), ("b", b"y"), ("c", b"x"), ("d", b""), ("e", b"")):
        (tmp_path / name).write_bytes(content[:10_000] + middle + content[10_000:])
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "dangling").symlink_to("nowhere")
    files = ("a", "b", "c", "d", "e", "empty", "pipe", "link", "dangling", "gone")
    assert same_photos(tmp_path, files) == [("a", "c"), ("b", "link"), ("d", "e")]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    photos(tmp_path, "images/a.JPG", "images/b.png", "images/deep/C.png")
    return tmp_path


def write(root: Path, *rows: str) -> Path:
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    return root


def test_untagged_photos_are_mistakes_or_named(table: Path) -> None:
    write(table, "a.JPG,cat", "b.png,")
    with pytest.raises(DataError, match=r"b\.png: image without labels; add a row .* \(and 1 more;"):
        FolderDataset(table, "train")
    dataset = FolderDataset(table, "train", untagged="skip")
    assert dataset.untagged == ("b", "deep/C") and labelled(dataset) == {"a": ["cat"], "b": [], "deep/C": []}
    (table / "val.txt").write_text("b\n")
    assert FolderDataset(table, "train", untagged="skip").untagged == ("deep/C",)
    assert FolderDataset(table, "val", untagged="skip").untagged == ()


def test_a_photo_whose_labels_have_a_mistake_is_not_untagged(table: Path) -> None:
    (table / "classes.yaml").write_text("names: [cat]\n")
    for rows in (("a,cat", "b,horse"), ("a,cat", "b,cat,dog"), ("a,cat", "b,cat", "b.png,cat")):
        write(table, *rows)
        with pytest.raises(DataError, match=r"labels\.csv, line"):
            FolderDataset(table, "train", untagged="skip")
        dataset = FolderDataset(table, "train", untagged="skip", lenient=True)
        assert dataset.names == ("a", "deep/C") and dataset.untagged == ("deep/C",), rows


def test_loose_photos_beside_class_folders_are_untagged(tmp_path: Path) -> None:
    photos(tmp_path, "cat/1.png", "dog/2.png", "cat/3.png", "loose.png")
    assert FolderDataset(tmp_path, untagged="skip").untagged == ("loose",)
    with pytest.raises(DataError, match=r"loose\.png: image without labels"):
        FolderDataset(tmp_path)
    photos(tmp_path, *(f"{number}.png" for number in range(4)))
    (tmp_path / "tags.xlsx").touch()
    with pytest.raises(DataError, match=r"class folder; name the table of labels with --labels \(is it .*tags"):
        FolderDataset(tmp_path, untagged="skip")


def test_a_table_beside_class_folders_is_noted(tmp_path: Path) -> None:
    photos(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / "notes.csv").touch()
    (note,) = FolderDataset(tmp_path).notes
    assert "labels are the class folders; not read, --labels names a table: notes.csv" in note


@pytest.mark.parametrize(
    "name", ["a.JPG", "a.jpg", "A", "a", "images/a.JPG", "images/A.jpg", "{name}/images/a.jpg", "{root}/images/a.JPG"]
)
def test_a_name_is_found_in_any_case_and_with_the_folders_own(table: Path, name: str) -> None:
    write(table, f"{name.format(name=table.name, root=table)},cat", "b,dog", "deep/c.PNG,dog")
    assert labelled(FolderDataset(table)) == {"a": ["cat"], "b": ["dog"], "deep/C": ["dog"]}


@pytest.mark.parametrize("name", ["photos/a.JPG", "images/images/a.JPG", "/elsewhere/images/a.JPG", "../images/a.JPG"])
def test_a_name_in_another_folder_is_not_guessed(table: Path, name: str) -> None:
    write(table, f"{name},cat", "b,dog", "deep/C,dog")
    with pytest.raises(DataError, match=r"line 2: (no image .* did you mean 'a\.JPG'\?|.* leads out of)"):
        FolderDataset(table)


def test_two_files_that_differ_in_case_are_both_proposed(tmp_path: Path) -> None:
    photos(tmp_path, "images/a.png", "images/A.PNG")
    if len(list((tmp_path / "images").iterdir())) < 2:
        pytest.skip("a file system that does not tell cases apart")
    write(tmp_path, "a.png,cat", "A.PNG,dog")
    assert labelled(FolderDataset(tmp_path)) == {"A": ["dog"], "a": ["cat"]}
    write(tmp_path, "a.Png,cat")
    with pytest.raises(DataError, match=r"did you mean 'A\.PNG' or 'a\.png'\?"):
        FolderDataset(tmp_path, untagged="skip")
