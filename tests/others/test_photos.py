"""Photos and masks of others: what every viewer shows is read, upright and with its values."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets.classes import ClassSet
from weakclip.datasets.folder import FolderDataset
from weakclip.datasets.images import image_size, read_mask, read_rgb, write_mask
from weakclip.errors import DataError
from weakclip.seeds import ImportedMasks
from weakclip.tools.check.dataset import check_split

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
MASK = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)


@pytest.mark.parametrize("name", ["14_exif_rational.jpg", "ex_negative_signed_in_xres.jpg", "21_png_exif_garbage.png"])
def test_a_photo_with_odd_exif_is_read(cases: Path, name: str) -> None:
    path = cases / "exif_that_cannot_be_written" / name
    pixels = read_rgb(path)
    assert pixels.shape[:2] == image_size(path) and pixels.std() > 0


def exif(tag: int, kind: int, value: bytes, orientation: int = 6) -> bytes:
    """EXIF with an orientation and, after it, one value of eight bytes."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation) + struct.pack("<HHII", tag, kind, 1, 38)
    return b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0\0\0\0" + value


ODD_EXIF = {
    "a signed resolution": exif(0x011A, 10, struct.pack("<ii", -72, 1)),
    "a signed time of exposure": exif(0x829A, 10, struct.pack("<ii", -1, 50)),
    "a tag of no kind": exif(0x011A, 99, bytes(8)),
}


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("content", ODD_EXIF.values(), ids=ODD_EXIF)
def test_an_odd_tag_leaves_the_orientation(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(RGB).save(path, exif=content, quality=95)
    assert image_size(path) == (8, 6) and read_rgb(path).shape == (8, 6, 3)


@pytest.mark.parametrize("content", [b"Exif\0\0garbage", b"Exif\0\0", b"II*\0\xff\xff\xff\xff", b"\0" * 40])
def test_exif_that_cannot_be_read_is_no_orientation(content: bytes, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "photo.jpg", exif=content)
    Image.fromarray(RGB).save(tmp_path / "photo.png", exif=content)
    for name in ("photo.jpg", "photo.png"):
        assert image_size(tmp_path / name) == (6, 8) and read_rgb(tmp_path / name).shape == (6, 8, 3)


def chunk(kind: bytes, content: bytes, *, sound: bool = True) -> bytes:
    check = zlib.crc32(kind + content) ^ (0 if sound else 1)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


CHUNKS = {
    "a text with a wrong sum": chunk(b"tEXt", b"Comment\0hello", sound=False),
    "a text that unpacks to megabytes": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))),
    "an international text cut short": chunk(b"iTXt", b"Comment\0\1"),
    "a packed text that is none": chunk(b"zTXt", b"Comment\0\0garbage"),
    "a profile with a wrong sum": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"y"), sound=False),
    "a resolution cut short": chunk(b"pHYs", b"\0"),
    "EXIF with a wrong sum": chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0", sound=False),
}


@pytest.mark.parametrize("late", [False, True], ids=["before the pixels", "after them"])
@pytest.mark.parametrize("odd", CHUNKS.values(), ids=CHUNKS)
def test_a_broken_chunk_beside_the_pixels_is_passed_over(odd: bytes, late: bool, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, format="PNG")
    content = file.getvalue()
    at = content.index(b"IEND") - 4 if late else content.index(b"IDAT") - 4
    (tmp_path / "photo.png").write_bytes(content[:at] + odd + content[at:])
    assert np.array_equal(read_rgb(tmp_path / "photo.png"), RGB)
    assert image_size(tmp_path / "photo.png") == (6, 8)


def test_a_broken_chunk_leaves_a_mask_and_its_orientation(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_mask(path, MASK, ClassSet.from_foreground(["a", "b", "c"]).palette)
    content = path.read_bytes()
    at = content.index(b"IDAT") - 4
    orientation = chunk(b"eXIf", ODD_EXIF["a signed resolution"].removeprefix(b"Exif\0\0"))
    path.write_bytes(content[:at] + CHUNKS["a text with a wrong sum"] + orientation + content[at:])
    assert np.array_equal(read_mask(path), np.rot90(MASK, -1))


def test_damaged_pixels_are_still_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, format="PNG")
    content = file.getvalue()
    (tmp_path / "cut.png").write_bytes(content[: content.index(b"IDAT") + 20])
    (tmp_path / "head.png").write_bytes(content.replace(b"IHDR", b"IHDX"))
    for name in ("cut.png", "head.png"):
        with pytest.raises(DataError, match=name):
            read_rgb(tmp_path / name)


def test_a_tiff_whose_white_is_zero(cases: Path) -> None:
    folder = cases / "tiff_white_is_zero"
    assert np.array_equal(
        read_rgb(folder / "40_grey16_whiteiszero.tif"), read_rgb(folder / "same_picture_black_is_zero.tif")
    )


@pytest.mark.parametrize("size", [(3, 4), (5, 7)])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiffs_whose_white_is_zero_equal_those_whose_black_is(
    size: tuple[int, int], compression: str | None, tmp_path: Path
) -> None:
    values = np.random.default_rng(1).integers(0, 65536, size, dtype=np.uint16)
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / "black.tif", compression=compression)
    Image.fromarray(~values).save(tmp_path / "white.tif", compression=compression, tiffinfo={262: 0})
    grey = (values >> 8).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "eight.tif", tiffinfo={262: 0})  # Pillow inverts what it writes
    black = read_rgb(tmp_path / "black.tif")
    assert np.array_equal(black[..., 0], grey)
    assert np.array_equal(read_rgb(tmp_path / "white.tif"), black)
    assert np.array_equal(read_rgb(tmp_path / "eight.tif"), black)


def png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2, 4 or 8 bits, written from the standard."""
    height, width = values.shape
    padded = np.zeros((height, -(-width * bits // 8) * 8 // bits), np.uint8)
    padded[:, :width] = values
    spread = np.unpackbits(padded[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(spread, axis=1))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_mask_of_few_bits_holds_the_values_of_its_file(bits: int, tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 2**bits, (5, 7), dtype=np.uint8)
    (tmp_path / "mask.png").write_bytes(png(values, bits))
    assert np.array_equal(read_mask(tmp_path / "mask.png"), values)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_few_bits_is_its_indices(bits: int, tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 2**bits, (5, 7), dtype=np.uint8)
    image = Image.fromarray(values).convert("P")
    image.putpalette(bytes(range(3 * 2**bits)))
    image.save(tmp_path / "mask.png", bits=bits)
    assert np.array_equal(read_mask(tmp_path / "mask.png"), values)


def test_found_masks_of_one_and_four_bits(cases: Path) -> None:
    for name, folder in (("a", "one_bit"), ("b", "one_bit"), ("a", "grey_4_bit"), ("b", "grey_4_bit")):
        mask = read_mask(cases / "binary_masks" / folder / "masks" / f"{name}.png")
        assert np.unique(mask).max() == (2 if (name, folder) == ("b", "grey_4_bit") else 1)


def test_found_masks_of_0_and_255_are_told(cases: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = cases / "binary_masks/zero_255"
    dataset = FolderDataset(folder, "train")
    found = check_split(dataset, needs_labels=True).findings
    assert [finding.image for finding in found] == ["a", "b"]
    assert "it holds 0 and 255 only, and 255 is of no class; where it means the object, write the" in found[0].detail
    caplog.clear()
    seeds = ImportedMasks(folder / "masks", dataset.class_set)
    for sample in dataset:
        seeds.masks(sample)
    (record,) = caplog.records
    assert "a.png: it holds 0 and 255 only" in record.getMessage() and "cat (1)" in record.getMessage()


@pytest.mark.parametrize(("value", "said"), [(255, "it holds 0 and 255 only"), (2, "it holds 0, 2 and no pixel of")])
def test_masks_without_a_class_of_their_image_are_told(
    value: int, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.fromarray(RGB).save(tmp_path / "images" / f"{name}.png")
        mask = np.zeros(RGB.shape[:2], np.uint8)
        mask[2:] = value if name == "a" else 2
        write_mask(tmp_path / "masks" / f"{name}.png", mask, ClassSet.from_foreground(["cat", "dog"]).palette)
    (tmp_path / "labels.csv").write_text("image,labels\na,cat\nb,dog\n")
    dataset = FolderDataset(tmp_path, "train")
    for _ in range(2):  # the first is told, once
        assert dataset.mask(0) is not None and dataset.mask(1) is not None
    (record,) = caplog.records
    assert said in record.getMessage() and record.getMessage().startswith(str(tmp_path / "masks/a.png"))
    (finding, *_) = check_split(dataset, needs_labels=True).findings
    assert finding.detail.startswith(f"cat; {said}" if value == 255 else "cat")
