"""Laws of reading and writing images: what goes in comes out, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import weakclip
from weakclip.datasets.classes import VOC12, voc_palette
from weakclip.datasets.image_files import FORMATS
from weakclip.datasets.images import (
    atomic_write,
    image_size,
    read_mask,
    read_rgb,
    reduced_size,
    resize_mask,
    resize_rgb,
    write_mask,
    write_png,
)
from weakclip.errors import DataError
from weakclip.store.files import write_json

RGB = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (7, 11), (64, 3)])
def test_a_mask_comes_back_with_every_index(tmp_path: Path, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    write_mask(tmp_path / "m.png", mask, VOC12.palette)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image.convert("RGB")), VOC12.palette[mask])


def test_a_grey_png_and_a_binary_one_are_masks_too(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [255, 20]], np.uint8)
    write_png(tmp_path / "grey.png", mask)
    assert np.array_equal(read_mask(tmp_path / "grey.png"), mask)
    Image.fromarray(mask > 0).save(tmp_path / "binary.png")
    assert np.array_equal(read_mask(tmp_path / "binary.png"), mask > 0)


def test_colour_images_are_no_masks(tmp_path: Path) -> None:
    write_png(tmp_path / "rgb.png", RGB)
    with pytest.raises(DataError, match=r"rgb\.png: a mask is a palette or 8-bit grey image .*; found RGB"):
        read_mask(tmp_path / "rgb.png")


@pytest.mark.parametrize("bad", [RGB, np.zeros((3, 3), np.int64)])
def test_writing_what_is_no_mask_is_a_programmers_error(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(TypeError):
        write_mask(tmp_path / "m.png", bad, VOC12.palette)
    assert not any(tmp_path.iterdir())


def test_every_mode_is_read_as_rgb_without_a_warning(tmp_path: Path) -> None:
    grey = RGB[..., 0]
    palette = Image.fromarray(grey).convert("L")
    palette.putpalette(voc_palette().tobytes())
    cases = {
        "rgb.png": (Image.fromarray(RGB), RGB),
        "grey.png": (Image.fromarray(grey), np.stack([grey] * 3, axis=2)),
        "rgba.png": (Image.fromarray(np.dstack([RGB, grey])), RGB),
        "palette.png": (palette, voc_palette()[grey]),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), np.stack([grey] * 3, axis=2)),
        "binary.png": (Image.fromarray(grey > 99), np.stack([(grey > 99) * np.uint8(255)] * 3, axis=2)),
    }
    for name, (image, _) in cases.items():
        image.save(tmp_path / name)
    palette.save(tmp_path / "clear.png", transparency=bytes([0] * 256))
    cases["clear.png"] = cases["palette.png"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, (_, expected) in cases.items():
            assert np.array_equal(read_rgb(tmp_path / name), expected), name


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_and_the_size_agrees(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    gradient = np.zeros((20, 33, 3), np.uint8)
    gradient[:10, :16] = 250
    Image.fromarray(gradient).save(path, exif=exif)
    upright = read_rgb(path)
    assert read_rgb(path, longest_side=16).shape[:2] == reduced_size(upright.shape[:2], 16)
    assert image_size(path) == upright.shape[:2] == ((33, 20) if orientation > 4 else (20, 33))
    height, width = upright.shape[:2]
    corners = {"left top": (4, 4), "right top": (4, -4), "right bottom": (-4, -4), "left bottom": (-4, 4)}
    bright = max(corners, key=lambda name: upright[corners[name]].sum())
    stored = {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}
    assert bright == list(corners)[stored[orientation]]
    assert height * width == 20 * 33


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_its_image_is(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name in ("image.png", "mask.png"):
        Image.fromarray(mask).save(tmp_path / name, exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "image.png")[..., 0], read_mask(tmp_path / "mask.png"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 128, 255], [0, 128, 255]),  # 8 bits in a deeper file
        ([0, 2048, 4095], [0, 128, 255]),  # 12 bits, as cameras and microscopes give them
        ([0, 8192, 16383], [0, 128, 255]),
        ([0, 32768, 65535], [0, 128, 255]),
    ],
)
def test_deep_grey_is_scaled_by_the_bits_it_uses(tmp_path: Path, values: list[int], expected: list[int]) -> None:
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(np.array([values], np.uint16)).save(tmp_path / name)
        assert read_rgb(tmp_path / name)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, 0.2, 1.0]], np.float32),
        np.array([[-7.5, -4.5, 7.5]], np.float32),
        np.array([[0, 200_000, 1_000_000]], np.int32),
        np.array([[-100, -60, 100]], np.int32),
    ],
)
def test_fractions_and_numbers_beyond_16_bits_are_stretched(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "deep.tif")
    assert read_rgb(tmp_path / "deep.tif")[0, :, 1].tolist() == [0, 51, 255]


def test_deep_images_without_contrast_or_with_holes_are_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 3), -5.0, np.float32)).save(tmp_path / "flat.tif")
    assert not read_rgb(tmp_path / "flat.tif").any()
    Image.fromarray(np.array([[np.nan, 0.0, 2.0, np.inf]], np.float32)).save(tmp_path / "holes.tif")
    assert read_rgb(tmp_path / "holes.tif")[0, :, 0].tolist() == [0, 0, 255, 0]


def test_cmyk_is_read_in_its_colours(tmp_path: Path) -> None:
    """Red, green, blue, white and black in ink, exactly in a TIFF and nearly so in a JPEG."""
    inks = [(0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 0), (0, 0, 0, 255)]
    light = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
    for ink, expected in zip(inks, light, strict=True):
        for name, tolerance in (("print.tif", 0), ("print.jpg", 8)):
            Image.new("CMYK", (16, 16), ink).save(tmp_path / name)
            assert np.abs(read_rgb(tmp_path / name).astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif"])
@pytest.mark.parametrize("size", [(1, 1), (3, 500), (301, 200), (64, 64)])
def test_a_reduced_image_looks_like_the_whole_one(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    down, right = np.mgrid[: size[0], : size[1]]
    Image.fromarray((40 + 150 * down // size[0] + 50 * right // size[1]).astype(np.uint8)).save(path)
    whole = read_rgb(path)
    assert read_rgb(path, longest_side=1).shape == (1, 1, 3)
    for longest in (12, 64, 1000):
        reduced = read_rgb(path, longest_side=longest)
        assert reduced.shape[:2] == reduced_size(size, longest)
        assert max(reduced.shape[:2]) <= longest
        assert np.abs(reduced.astype(int) - resize_rgb(whole, reduced.shape[:2])).mean() < 4
    assert np.array_equal(read_rgb(path, longest_side=max(size)), whole)


MEASURE = """
import resource, sys
from weakclip.datasets.images import image_size, read_rgb
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = read_rgb(sys.argv[1], longest_side=512)
print(image.shape, image_size(sys.argv[1]), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


@pytest.mark.parametrize(("suffix", "mebibytes"), [("jpg", 60), ("png", 650)])
def test_100_megapixels_are_read_small_in_bounded_memory_and_without_a_warning(
    tmp_path: Path, suffix: str, mebibytes: int
) -> None:
    """A JPEG is decoded at 1/8; of a PNG the pixels must be whole once (4 bytes each in Pillow), but not twice."""
    path = tmp_path / f"huge.{suffix}"
    Image.new("RGB", (12500, 8000), (200, 30, 30)).save(path)
    source = str(Path(weakclip.__file__).parents[1])
    answer = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
        check=True,
    )
    assert answer.stderr == ""
    assert answer.stdout.startswith("(328, 512, 3) (8000, 12500) ")
    assert int(answer.stdout.split()[-1]) < mebibytes


def test_the_import_leaves_the_filters_of_warnings_as_they_are() -> None:
    script = "import warnings, PIL.Image,  weakclip.datasets.images\n"
    script += "assert not [each for each in warnings.filters if each[2] is PIL.Image.DecompressionBombWarning]"
    environment = {**os.environ, "PYTHONPATH": str(Path(weakclip.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_as_pillow_reads_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.any"
    Image.fromarray(np.repeat(np.repeat(RGB, 9, axis=0), 7, axis=1)).save(path, kind)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_rgb(path), expected)
    assert image_size(path) == expected.shape[:2]


def test_more_pixels_than_pillow_takes_are_refused_with_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    header = b"IHDR" + (20_000).to_bytes(4) + (20_000).to_bytes(4) + bytes([1, 0, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + header + zlib.crc32(header).to_bytes(4) + bytes(4) + b"IDAT"
    )
    for read in (read_rgb, read_mask, image_size):
        with pytest.raises(DataError, match=r"bomb\.png: more than 178 megapixels; make it smaller, or cut it"):
            read(path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    Image.fromarray(RGB).resize((300, 300)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    for read in (read_rgb, read_mask, image_size):
        with pytest.raises(DataError, match=r"text\.jpg: not an image"):
            read(tmp_path / "text.jpg")
        with pytest.raises(DataError, match=r"none\.jpg: no such file"):
            read(tmp_path / "none.jpg")
        with pytest.raises(DataError, match="cannot be read as an image"):
            read(tmp_path)
    with pytest.raises(DataError, match=r"cut\.jpg: cannot be read as an image"):
        read_rgb(tmp_path / "cut.jpg")
    assert image_size(tmp_path / "cut.jpg") == (300, 300)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(["png", "jpg", "gif", "bmp", "webp", "tif"]))
def test_damaged_files_give_an_image_or_a_clear_error(tmp_path: Path, data: st.DataObject, suffix: str) -> None:
    path = tmp_path / f"damaged.{suffix}"
    Image.fromarray(RGB).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (read_rgb, read_mask, image_size):
            with contextlib.suppress(DataError):
                assert read(path) is not None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_write(target, "w") as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_write_makes_folders_and_ordinary_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    target = tmp_path / "deep/er" / ("ü" * 120 + ".txt")
    with atomic_write(target, "w") as file:
        file.write("grüße")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "grüße"
    assert os.stat(target).st_mode == os.stat(plain).st_mode


def test_json_is_strict_and_plain(tmp_path: Path) -> None:
    value = {"iou": np.array([0.5, np.nan]), "n": np.int64(3), "best": float("inf"), "name": "ü", "pair": (1, None)}
    write_json(tmp_path / "m.json", value)
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"iou": [0.5, None], "n": 3, "best": None, "name": "ü", "pair": [1, None]}
    assert "NaN" not in text
    with pytest.raises(TypeError):
        write_json(tmp_path / "m.json", {"what": object()})
    assert (tmp_path / "m.json").read_text(encoding="utf-8") == text


def test_resizing_keeps_constants_and_indices() -> None:
    assert (resize_rgb(np.full((5, 6, 3), 77, np.uint8), (13, 4)) == 77).all()
    mask = np.array([[3, 255], [0, 20]], np.uint8)
    assert resize_rgb(RGB, (3, 9)).shape == (3, 9, 3)
    assert np.array_equal(resize_mask(mask, (4, 6)), mask.repeat(2, axis=0).repeat(3, axis=1))
    assert np.array_equal(resize_mask(resize_mask(mask, (4, 6)), (2, 2)), mask)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_damaged_pixels_of_a_png_are_refused_and_not_black(share: float, tmp_path: Path) -> None:
    """Zeros in the place of the compressed pixels, as after a lost block of a disk."""
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    first = max(60, int(share * len(content)))
    path.write_bytes(content[:first] + bytes(len(content) - first))
    for read in (read_rgb, read_mask, lambda path: read_rgb(path, longest_side=32)):
        with pytest.raises(DataError, match=r"a\.png: cannot be read as an image \(broken data stream"):
            read(path)
