"""Parts that the formats share: a mask to be written, an annotated image that was read, and the names of the labels.

The background has no label: it is where nothing is drawn. Pixels of 255, which belong to no class, have one of their
own, so that a person can say of a place that it is not to be learned from.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
from weakclip.datasets.contours import mask_polygons
from weakclip.datasets.regions import fill_polygon
from weakclip.errors import DataError
from weakclip.store.ranges import check_range
from weakclip.store.trees import AnyPath
from weakclip.store.untrusted_text import one_line, short

logger = logging.getLogger("weakclip")

UNDECIDED = "undecided"
"""Label of the pixels that belong to no class (255 in a mask)."""

_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class MaskEntry:
    """A mask to be written.

    Args:
        file_name: the image, by its path below the image folder.
        mask: `(H, W)` uint8, class indices and 255.
        doubt: 0…1, how doubtful the mask is; None where that is not known.
        reason: what speaks most against it, in words.
        photo: the image's file, or what draws it, `(H, W, 3)` uint8; for formats that keep images beside their masks.
    """

    file_name: str
    mask: np.ndarray
    doubt: float | None = None
    reason: str = ""
    photo: AnyPath | Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class AnnotatedImage:
    """An image that was read from an annotation file.

    Args:
        file_name: the image, as the file names it.
        size: its height and width; None where the file does not say.
        regions: label and pixels, `(H, W)` bool; later ones lie above earlier ones. The readers draw each when it is
            asked for, so that a file that lies about sizes reserves nothing.
        by_person: whether a person drew it; False for a prediction that nobody has answered, None where the file does
            not say.
    """

    file_name: str
    size: tuple[int, int] | None
    regions: Iterable[tuple[str, np.ndarray]]
    by_person: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The form in which regions are written.

    Args:
        kind: "masks", which say of every pixel what it is, or "polygons", which are easier to bend.
        tolerance: for polygons, how far they may stray from the pixels' outline, pixels.
    """

    kind: Literal["masks", "polygons"] = "masks"
    tolerance: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "tolerance", least=0)

    def polygons(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Polygons `(n, 2)` of x, y round the pixels."""
        return mask_polygons(pixels, tolerance=self.tolerance)


def annotation_labels(class_set: ClassSet) -> dict[str, int]:
    """Mask value of every label: the foreground classes in their order, and `UNDECIDED`.

    Raises:
        DataError: a class of that very name.
    """
    if UNDECIDED in class_set.names:
        raise DataError(f"class {UNDECIDED!r}: the name is kept for pixels without a class; rename the class")
    return {**{name: index for index, name in enumerate(class_set.names) if index}, UNDECIDED: IGNORE_INDEX}


def label_colors(class_set: ClassSet) -> dict[str, str]:
    """`#rrggbb` of every label."""
    return {
        name: "#{:02x}{:02x}{:02x}".format(*class_set.palette[value])
        for name, value in annotation_labels(class_set).items()
    }


def labelled_regions(mask: np.ndarray, labels: Mapping[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Label and pixels `(H, W)` bool of everything in a mask but the background."""
    present = np.bincount(mask.ravel(), minlength=256) > 0
    for name, value in labels.items():
        if present[value]:
            yield name, mask == value


def without_small(mask: np.ndarray, min_area: int) -> np.ndarray:
    """A mask whose regions of fewer pixels are background; a region is pixels of one value that touch at edges.

    Args:
        mask: `(H, W)` uint8, class indices and 255; it stays as it is.
        min_area: pixels; 0 or 1 keeps all regions.

    >>> without_small(np.array([[1, 1, 0, 1]], np.uint8), 2).tolist()
    [[1, 1, 0, 0]]
    """
    if min_area <= 1:
        return mask
    kept = mask.copy()
    for value in np.unique(mask[mask > 0]).tolist():
        for polygon in mask_polygons(mask == value):
            x, y = polygon.T.astype(np.int64)
            if abs(int(x @ np.roll(y, -1) - y @ np.roll(x, -1))) < 2 * min_area:
                kept[fill_polygon(polygon, (mask.shape[0], mask.shape[1]))] = 0
    return kept


def tight_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of the pixels, of which there is one at least."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def draw_image(
    image: AnnotatedImage, labels: Mapping[str, int], size: tuple[int, int], source: Path | str
) -> np.ndarray:
    """The mask of an annotated image: 0 where nothing is drawn.

    Regions without a pixel, and labels that other regions cover wholly, are named in the log.

    Args:
        image: as a reader gives it.
        labels: mask value of every label.
        size: height and width of the photo.
        source: the annotation file, for messages.

    Returns:
        `(H, W)` uint8.

    Raises:
        DataError: another size, an unknown label, or a region that cannot be drawn.
    """
    name = shown(image.file_name)
    if image.size is not None and image.size != size:
        found, expected = (shown(f"{width}x{height}") for height, width in (image.size, size))
        raise DataError(f"{source}: {name} is annotated at {found} pixels; the image has {expected}")
    mask, empty, drawn = np.zeros(size, dtype=np.uint8), list[str](), set[str]()
    for label, pixels in image.regions:
        if label not in labels:
            raise DataError(f"{source}: {name} has the unknown label {short(label)}; expected {', '.join(labels)}")
        mask[pixels] = labels[label]
        if pixels.any():
            drawn.add(label)
        else:
            empty.append(label)
    if empty:
        logger.warning(
            "%s: %s: %d regions cover no pixel and are not drawn (%s); they lie outside the image, are smaller than a "
            "pixel, or are not in pixels",
            *(source, name, len(empty), ", ".join(sorted(set(empty)))),
        )
    hidden = sorted(label for label in drawn if not (mask == labels[label]).any())
    if hidden:
        logger.warning(
            "%s: %s: other regions cover all of %s, of which nothing is left; put it above them",
            *(source, name, ", ".join(hidden)),
        )
    return mask


@contextlib.contextmanager
def naming_region(source: Path | str, image: str, region: str) -> Iterator[None]:
    """Turn an error in reading or drawing a region into one line that names the file, the image and the region.

    Raises:
        DataError: the region lacks a value, or has one of another kind.
    """
    try:
        yield
    except KeyError as error:
        reason = f"it lacks {short(error.args[0])}"
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        reason = str(error)
    else:
        return
    raise DataError(f"{source}, {shown(image)}: {shown(region)} cannot be drawn: {shown(reason)}")


def shown(text: object) -> str:
    """The text of a file for a message: one short line."""
    line = one_line(str(text))
    return line if len(line) <= _LONGEST_SHOWN else f"{line[:_LONGEST_SHOWN]}…"
