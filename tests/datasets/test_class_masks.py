"""Masks that others have saved: an editor may put the colours of the palette into another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets import Sample
from weakclip.datasets.class_masks import ClassMasks
from weakclip.datasets.classes import ClassSet, voc_palette
from weakclip.datasets.images import write_mask
from weakclip.errors import DataError
from weakclip.seeds import ImportedMasks

CLASSES = ClassSet.from_foreground(["cat", "dog", "tree"])
MASK = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)


def save(path: Path, mask: np.ndarray, colors: list[tuple[int, int, int]]) -> Path:
    """A palette PNG with these colours and no others."""
    image = Image.fromarray(mask).convert("L")
    image.putpalette([value for color in colors for value in color])
    image.save(path)
    return path


def reordered(path: Path) -> Path:
    """As an editor saves the mask: the colours in the order of how often they are used."""
    order = np.array([1, 255, 3, 0, 2])
    indices = np.zeros(256, np.uint8)
    indices[order] = np.arange(5)
    return save(path, indices[MASK], [tuple(CLASSES.palette[value].tolist()) for value in order])


def test_the_runs_own_palette_is_read_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_mask(tmp_path / "a.png", MASK, CLASSES.palette)
    assert np.array_equal(ClassMasks(CLASSES, tmp_path).read(tmp_path / "a.png"), MASK)
    assert not caplog.text


def test_a_reordered_palette_goes_by_its_colours_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks = ClassMasks(CLASSES, tmp_path)
    for name in ("a.png", "b.png"):
        assert np.array_equal(masks.read(reordered(tmp_path / name)), MASK)
    assert caplog.text.count("the colours are followed (0 is 1, 1 is 255, 2 is 3, 3 is 0, 4 is 2)") == 1


@pytest.mark.parametrize("mode", ["L", "grey palette"])
def test_grey_goes_by_index(tmp_path: Path, mode: str) -> None:
    """The grey of index 128 is the colour of a VOC class."""
    classes = ClassSet.from_foreground([f"class {number}" for number in range(200)])
    mask = np.array([[0, 128, 255]], np.uint8)
    path = tmp_path / "a.png"
    if mode == "L":
        Image.fromarray(mask).save(path)
    else:
        save(path, mask, [(value, value, value) for value in range(256)])
    assert np.array_equal(ClassMasks(classes, tmp_path).read(path), mask)


@pytest.mark.parametrize("ignored", [(0, 0, 0), (255, 255, 255), (224, 224, 192)])
def test_255_is_255_whatever_its_colour_is(tmp_path: Path, ignored: tuple[int, int, int]) -> None:
    colors = [*map(tuple, voc_palette(255).tolist()), ignored]
    path = save(tmp_path / "a.png", MASK, colors)
    assert np.array_equal(ClassMasks(CLASSES, tmp_path).read(path), MASK)


def test_a_colour_of_no_class_is_one_line(tmp_path: Path) -> None:
    colors = [tuple(color) for color in CLASSES.palette.tolist()]
    colors[2] = (1, 2, 3)
    path = save(tmp_path / "a.png", MASK, colors)
    with pytest.raises(
        DataError, match=r"a\.png: index 2 of its palette has the colour #010203, of no class \(dog has"
    ):
        ClassMasks(CLASSES, tmp_path).read(path)
    colors[2] = colors[1]
    save(path, MASK, colors)
    with pytest.raises(DataError, match="two indices of its palette have the same colour"):
        ClassMasks(CLASSES, tmp_path).read(path)
    unused = np.where(MASK == 2, 1, MASK).astype(np.uint8)
    colors[2] = (1, 2, 3)
    assert np.array_equal(ClassMasks(CLASSES, tmp_path).read(save(path, unused, colors)), unused)


def test_a_short_palette_with_pixels_beyond_it_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 40]], np.uint8), [tuple(voc_palette(17)[0])] * 17)
    with pytest.raises(DataError, match=r"index 40 of its palette has the colour none|have the same colour"):
        ClassMasks(CLASSES, tmp_path).read(path)


def test_imported_seeds_go_by_the_colours_too(tmp_path: Path) -> None:
    reordered(tmp_path / "a.png")
    sample = Sample("a", np.zeros((2, 3, 3), np.uint8), (1, 2, 3))
    assert np.array_equal(ImportedMasks(tmp_path, CLASSES).masks(sample).seed, MASK)
