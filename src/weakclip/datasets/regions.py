"""Regions of the COCO format to pixel masks and back: polygons, and run lengths plain or compressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.store.untrusted_text import short

Region = tuple[int, Any]
"""Class index (255 for a crowd) and its area: polygons as arrays x0, y0, x1, y1 …, or a run-length code."""


FARTHEST_CORNER = 1e9
"""Pixels; beyond it, sums of coordinates lose the pixels' fractions."""

_FEWEST_CORNERS = 3


def draw_regions(regions: Sequence[Region], size: tuple[int, int]) -> np.ndarray:
    """One mask from regions that may overlap: crowds below, then single objects, the larger ones first.

    A small object on a large one (a cup on a table, a tie on a person) so stays visible. Of two objects with as many
    pixels, the later one lies above.

    Args:
        regions: class index (255 for a crowd) with polygons or a run-length code.
        size: height and width of the image.

    Returns:
        `(H, W)` uint8; 0 where no region lies.

    Raises:
        ValueError, KeyError, TypeError, IndexError: an area in no form of the COCO format.
    """
    drawn = [(index, region_pixels(area, size)) for index, area in regions]
    mask = np.zeros(size, dtype=np.uint8)
    for index, pixels in sorted(drawn, key=lambda item: (item[0] != IGNORE_INDEX, -np.count_nonzero(item[1]))):
        mask[pixels] = index
    return mask


def region_pixels(area: Any, size: tuple[int, int]) -> np.ndarray:
    """Pixels `(H, W)` bool of an area: polygons as lists or arrays x0, y0, x1, y1 …, or a run-length code.

    Raises:
        ValueError: an area in no form of the COCO format, one without any mask (a box), or of another size.
    """
    if isinstance(area, dict) and area:
        return _coded_pixels(area, size)
    if not isinstance(area, list | tuple | None) or (area and isinstance(area[0], int | float)):
        raise ValueError(f"its segmentation is {short(area)}; expected polygons [[x, y, x, y, …], …] or run lengths")
    polygons = [_corners(numbers) for numbers in area or ()]
    if not polygons:
        raise ValueError("it has no mask, or a box only; expected polygons or run lengths as its segmentation")
    most = max(map(len, polygons))
    if most < _FEWEST_CORNERS:  # beside a whole polygon, a line adds nothing
        raise ValueError(f"it is a polygon of {2 * most} numbers; expected 6 at least, x and y of three corners")
    pixels = np.zeros(size, dtype=bool)
    for corners in polygons:
        if len(corners):
            pixels |= fill_polygon(corners, size)
    return pixels


def _coded_pixels(area: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    if not {"size", "counts"} <= area.keys():
        raise ValueError(f"a run-length code has `size` and `counts`; found {short(list(area))}")
    if not isinstance(area["size"], list | tuple) or tuple(area["size"]) != size:
        raise ValueError(f"its run lengths are of height and width {short(area['size'])}; expected {list(size)}")
    return decode_runs(area["counts"], size)


def _corners(numbers: Any) -> np.ndarray:
    """`(n, 2)` of a polygon that is written x, y, x, y …"""
    if not isinstance(numbers, list | tuple | np.ndarray):
        raise ValueError(f"it has {short(numbers)} in the place of a polygon; expected a list of numbers")
    try:
        flat = np.asarray(numbers, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"it has a polygon {short(numbers)}; expected a list of numbers") from None
    if flat.ndim != 1 or flat.size % 2:
        found = f"{flat.size} numbers" if flat.ndim == 1 else f"shape {flat.shape}"
        raise ValueError(f"it has a polygon of {found}; expected x and y of each corner in turn")
    return flat.reshape(-1, 2)


def fill_polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside a polygon, by the even-odd rule.

    Each edge toggles, in every row whose centre it crosses, the pixels to the right of the crossing; a running sum
    along the row then counts the toggles.

    Args:
        corners: `(n, 2)` x, y in pixels; pixel `(row, column)` covers `[column, column + 1) × [row, row + 1)`.
        size: height and width of the mask.

    Returns:
        `(H, W)` bool.

    Raises:
        ValueError: no corners, ones that are not x and y, not finite, or beyond `FARTHEST_CORNER`.

    >>> fill_polygon(np.array([[1, 0], [3, 0], [3, 1], [1, 1]]), (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise ValueError(f"corners of shape {corners.shape}; expected x and y of each")
    if not (np.abs(corners) < FARTHEST_CORNER).all():
        raise ValueError("a corner of a polygon is no number, or lies nowhere near an image")
    mask = np.zeros(size, dtype=bool)
    left, top = np.floor(corners.min(axis=0)).clip(0, size[::-1]).astype(int)
    right, bottom = np.ceil(corners.max(axis=0)).clip(0, size[::-1]).astype(int)
    height, width = bottom - top, right - left
    x0, y0 = (corners - (left, top)).T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    upwards = y0 > y1  # an edge and its reverse cross the rows at the very same places
    x0, x1, y0, y1 = (np.where(upwards, *pair) for pair in ((x1, x0), (x0, x1), (y1, y0), (y0, y1)))
    first, last = (np.ceil(np.clip(y - 0.5, 0, height)).astype(int) for y in (np.minimum(y0, y1), np.maximum(y0, y1)))
    crossed = last - first
    edge = np.repeat(np.arange(len(corners)), crossed)
    rows = np.arange(len(edge)) - np.repeat(crossed.cumsum() - crossed - first, crossed)
    crossings = x0[edge] + (rows + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    columns = np.ceil(crossings - 0.5).clip(0, width).astype(int)
    toggles = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).reshape(height, width + 1)
    mask[top:bottom, left:right] = toggles.cumsum(axis=1)[:, :width] % 2
    return mask


def decode_runs(
    counts: Sequence[int] | str | bytes, size: tuple[int, int], *, order: Literal["C", "F"] = "F"
) -> np.ndarray:
    """Pixels of a run-length code: runs of outside and inside in turn.

    Args:
        counts: run lengths, or the string that the COCO tools pack them into.
        size: height and width.
        order: as of `encode_runs`.

    Returns:
        `(H, W)` bool.

    Raises:
        ValueError: the runs do not add up to the size.

    >>> decode_runs([1, 2, 3], (2, 3)).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    runs = unpack_runs(counts) if isinstance(counts, str | bytes) else _whole(counts)
    if sum(runs) != size[0] * size[1] or min(runs, default=0) < 0:
        raise ValueError(f"run lengths cover {sum(runs)} pixels; expected {size[1]}x{size[0]}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size, order=order)


def _whole(counts: Any) -> list[int]:
    """Run lengths as integers; 3.0 is 3."""
    listed = list(counts) if isinstance(counts, Sequence | np.ndarray) else [counts]
    runs = [int(run) if isinstance(run, float) and run.is_integer() else run for run in listed]
    wrong = next((run for run in runs if not isinstance(run, int | np.integer)), None)
    if wrong is not None:
        raise ValueError(f"run lengths are whole numbers in a list; found {short(wrong)}")
    return runs


def unpack_runs(packed: str | bytes) -> list[int]:
    """Run lengths from the string of the COCO tools: signed numbers of 5-bit groups, low group first, each character
    48 above its group (bit 5: more follow); from the fourth on, the difference to the run two before.

    Raises:
        ValueError: a character outside the code, or a number that is cut off.

    >>> unpack_runs("31`02?0TO")
    [3, 1, 16, 3, 31, 3, 3]
    """
    runs: list[int] = []
    value = shift = 0
    for character in packed.encode("latin-1") if isinstance(packed, str) else packed:
        group = character - 48
        if not 0 <= group < 64:
            raise ValueError(f"character {chr(character)!r} is not part of a run-length code")
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("run-length code is cut off")
    return runs


def encode_runs(pixels: np.ndarray, *, order: Literal["C", "F"] = "F") -> list[int]:
    """Runs of outside and inside in turn, the first one outside.

    Args:
        pixels: `(H, W)` bool.
        order: "F" down the columns, as COCO has it, or "C" along the rows.

    Returns:
        Run lengths that sum to H·W; the first is 0 where the first pixel lies inside.

    >>> encode_runs(np.array([[False, True, False], [True, False, False]]))
    [1, 2, 3]
    """
    line = pixels.ravel(order=order)
    borders = np.flatnonzero(line[1:] != line[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate([[0], borders, [line.size]])).tolist()
    return [0, *runs] if line.size and line[0] else runs


def pack_runs(runs: Sequence[int]) -> str:
    """The string of the COCO tools for run lengths: the opposite of `unpack_runs`.

    >>> pack_runs([3, 1, 16, 3, 31, 3, 3])
    '31`02?0TO'
    """
    packed: list[str] = []
    for position, run in enumerate(runs):
        value = run - runs[position - 2] if position > 2 else run
        while True:
            group, value = value & 0x1F, value >> 5
            more = value != (-1 if group & 0x10 else 0)
            packed.append(chr(48 + (group | 0x20 if more else group)))
            if not more:
                break
    return "".join(packed)
