"""Laws of finding images: what is one is found by any spelling of its name, and what is none is left out and named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from weakclip.datasets.image_folder import ImageFolder
from weakclip.errors import DataError
from weakclip.store.untrusted_text import is_plain


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(path)


NAMES = ("a.jpg", "B.PNG", "with space/two  spaces.jpeg", "ü ß 日本.webp", "v1.2.tif", "..dots.png", 'quote\'s "x".jpg')


def test_names_of_every_kind_are_found_with_and_without_extension(tmp_path: Path) -> None:
    for name in NAMES:
        touch(tmp_path / "images" / name)
    images = ImageFolder(tmp_path)
    visible = [name for name in NAMES if not name.startswith(".")]
    assert images.files == sorted(visible)
    for name in visible:
        assert images.find(name) == images.find(name.rsplit(".", 1)[0]) == name
        assert images.find(name.replace("/", "\\")) == name
    assert images.twins() == images.notes() == []


def test_results_of_a_run_inside_the_folder_are_no_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "runs/mine/3_pseudo_masks/masks/a.png", "masks/a.png", ".hidden/b.jpg"):
        touch(tmp_path / name)
    for name in ("config.yaml", "manifest.json"):
        (tmp_path / "runs/mine" / name).write_text("{}")
    assert ImageFolder(tmp_path).files == ["a.jpg"]


def test_photos_of_kinds_that_are_not_read_are_counted(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    for name in ("b.HEIC", "c.heic", "d.nef", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (note,) = ImageFolder(tmp_path).notes()
    assert "convert them to JPEG or PNG: 2 .heic, 1 .nef" in note
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"no images; expected .*; left out, convert them .*2 \.heic"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"two\nlines.png", b"\x1b[2J.png"])
def test_names_that_no_text_file_can_hold_are_left_out_and_noted(tmp_path: Path, name: bytes) -> None:
    touch(tmp_path / "a.jpg")
    shutil.copy(tmp_path / "a.jpg", os.fsencode(tmp_path) + b"/" + name)
    images = ImageFolder(tmp_path)
    (note,) = images.notes()
    assert images.files == ["a.jpg"] and "rename them: 1 with" in note and is_plain(note)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"no images; expected .*; left out, rename them: 1"):
        ImageFolder(tmp_path)


def test_a_file_and_nothing_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(DataError, match=r"a\.yaml: is a file; expected a folder of images"):
        ImageFolder(tmp_path / "a.yaml")
    with pytest.raises(DataError, match="no such folder"):
        ImageFolder(tmp_path / "nowhere")


def test_every_pair_of_twins_is_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.gif", "b.bmp"):
        touch(tmp_path / name)
    assert len(ImageFolder(tmp_path).twins()) == 2
