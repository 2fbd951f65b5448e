"""The archive for the evaluation server holds every image, at its size, with classes alone; or there is no archive."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets import VOC12Dataset
from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import write_mask
from weakclip.errors import DataError
from weakclip.tools.submit.archive import ARCHIVE_FOLDER, check_archive, write_archive


@pytest.fixture
def dataset(voc_root: Path) -> VOC12Dataset:
    return VOC12Dataset(voc_root, "test")


@pytest.fixture
def masks(dataset: VOC12Dataset, tmp_path: Path) -> Path:
    for index, name in enumerate(dataset.names):
        write_mask(tmp_path / f"masks/{name}.png", np.full(dataset.size(index), 20 * index, np.uint8), VOC12.palette)
    return tmp_path / "masks"


def test_the_archive_is_what_the_server_expects(dataset: VOC12Dataset, masks: Path, tmp_path: Path) -> None:
    write_archive(masks, dataset, tmp_path / "results.tgz")
    with tarfile.open(tmp_path / "results.tgz", "r:gz") as archive:
        assert archive.getnames() == [
            f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in sorted(dataset.names)
        ]
        for index, entry in enumerate(archive.getmembers()):
            image = Image.open(archive.extractfile(entry))
            assert (image.format, image.mode) == ("PNG", "P")
            assert image.size[::-1] == dataset.size(index)
            assert image.getpalette()[:63] == VOC12.palette[:21].ravel().tolist()
            assert np.unique(np.array(image)).tolist() == [20 * index]


def test_the_same_masks_give_the_same_bytes(dataset: VOC12Dataset, masks: Path, tmp_path: Path) -> None:
    for name in ("one.tgz", "two.tgz"):
        write_archive(masks, dataset, tmp_path / name)
    assert (tmp_path / "one.tgz").read_bytes() == (tmp_path / "two.tgz").read_bytes()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((14, 13), np.uint8), "is 13x14 pixels; its image is 12x14"),
        (np.full((14, 12), 255, np.uint8), "holds 255; expected classes 0 to 20"),
        (np.full((14, 12), 21, np.uint8), "holds 21; expected classes 0 to 20"),
        (None, r"2007_000006\.png: no such mask"),
    ],
)
def test_a_wrong_mask_makes_no_archive(
    dataset: VOC12Dataset, masks: Path, tmp_path: Path, mask: np.ndarray | None, message: str
) -> None:
    path = masks / "2007_000006.png"
    path.unlink() if mask is None else write_mask(path, mask, VOC12.palette)
    with pytest.raises(DataError, match=message):
        write_archive(masks, dataset, tmp_path / "results.tgz")
    assert not list(tmp_path.glob("*results.tgz*"))


def test_a_mask_that_is_no_png_makes_no_archive(dataset: VOC12Dataset, masks: Path, tmp_path: Path) -> None:
    (masks / "2007_000006.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2007_000006\.png: is no palette or grey PNG"):
        write_archive(masks, dataset, tmp_path / "results.tgz")


def packed(files: dict[str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    file.seek(0)
    return file


def test_archives_of_others_are_checked(dataset: VOC12Dataset, masks: Path) -> None:
    folder = ARCHIVE_FOLDER.format(split="test")
    files = {f"{folder}/{name}.png": (masks / f"{name}.png").read_bytes() for name in dataset.names}
    check_archive(packed(files), dataset, name="theirs.tgz")
    first, *_ = files
    with pytest.raises(DataError, match=r"theirs\.tgz: 1 of 2 masks are missing"):
        check_archive(packed({first: files[first]}), dataset, name="theirs.tgz")
    with pytest.raises(DataError, match=r"comp5_test_cls/a\.png is not of split 'test'"):
        check_archive(packed(files | {"results/VOC2012/Segmentation/comp5_test_cls/a.png": b""}), dataset, name="x")
    for content in (b"", b"no archive", packed(files).getvalue()[:-200]):
        with pytest.raises(DataError, match=r"not a \.tgz archive|missing|is no palette"):
            check_archive(io.BytesIO(content), dataset, name="x")
