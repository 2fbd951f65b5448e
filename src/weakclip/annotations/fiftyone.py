"""FiftyOne's `ImageSegmentationDirectory`: images in `data/`, masks of class indices in `labels/`, of the same names.

The masks are grey PNGs: FiftyOne takes the colours of a palette for the pixels. The names of the indices are in
`mask_targets.json`, for `dataset.default_mask_targets`, since the layout itself has none. Any folder of masks is read
in the same way, with or without `labels/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from weakclip.annotations.entries import AnnotatedImage, MaskEntry, Shapes, annotation_labels
from weakclip.annotations.forms import (
    Format,
    KnownImages,
    annotations_below,
    files_below,
    flat_name,
    place_photo,
    tell_strays,
)
from weakclip.datasets.class_masks import ClassMasks
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError, DataError
from weakclip.store.files import atomic_folder, write_json
from weakclip.store.untrusted_text import parse_json

TARGETS = "mask_targets.json"
"""Index → name of the class, as JSON has it: the keys are text."""

_DATA, _LABELS = "data", "labels"


def write_fiftyone(path: Path, entries: Iterable[MaskEntry], class_set: ClassSet, shapes: Shapes) -> int:
    """Write masks as a folder for FiftyOne, as class indices and 255; arguments as `Format.write`.

    Raises:
        ConfigError: polygons are asked for, which the layout does not have.
    """
    if shapes.kind != "masks":
        raise ConfigError("fiftyone: this layout has masks only; leave --shapes polygons out")
    count = 0
    with atomic_folder(path) as folder:
        (folder / _LABELS).mkdir()
        labels = annotation_labels(class_set)
        write_json(folder / TARGETS, {"0": class_set.names[0], **{str(value): name for name, value in labels.items()}})
        for entry in entries:
            name = PurePosixPath(flat_name(entry.file_name))
            Image.fromarray(entry.mask).save(folder / _LABELS / f"{name.stem}.png")
            place_photo(entry, folder / _DATA / name)
            count += 1
    return count


def read_fiftyone(path: Path, known: KnownImages) -> Iterator[AnnotatedImage]:
    """The masks of a folder, those in `labels/` where there is one.

    Grey masks are read by index, after `mask_targets.json` where it is there; of palette images, the colours tell the
    classes (`ClassMasks`).

    Raises:
        DataError: a mask that cannot be read, or an index or a colour without a class.
    """
    folder = path / _LABELS if (path / _LABELS).is_dir() else path
    targets = _targets(path / TARGETS)
    masks, files = ClassMasks(known.class_set, folder), annotations_below(folder, ".png")
    tell_strays(folder, (*files, TARGETS))
    for name in files:
        if known.size_of(name) is None:
            yield AnnotatedImage(name, None, ())
            continue
        mask, by_colour = masks.read_either(folder / name)
        own = {value: name for name, value in annotation_labels(known.class_set).items()}
        labels = own if by_colour or targets is None else targets
        strange = sorted(set(np.unique(mask).tolist()) - labels.keys() - {0})
        if strange:
            where = TARGETS if labels is targets else "the classes of the run"
            raise DataError(f"{folder / name}: holds {strange[0]}, which is of no class in {where}")
        yield AnnotatedImage(name, (mask.shape[0], mask.shape[1]), _regions(mask, labels, known.class_set.names[0]))


def _regions(mask: np.ndarray, labels: dict[int, str], background: str) -> Iterator[tuple[str, np.ndarray]]:
    for value in np.unique(mask).tolist():
        if labels.get(value, background) != background:
            yield labels[value], mask == value


def _targets(path: Path) -> dict[int, str] | None:
    if not path.is_file():
        return None
    try:
        return {int(value): str(name) for value, name in parse_json(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read as index: name of each class ({error})") from None


def _is_folder_of_masks(path: Path) -> bool:
    """Masks below `labels`, or PNGs without a JSON beside them, which would be LabelMe's images."""
    if (path / _LABELS).is_dir() and files_below(path / _LABELS, ".png"):
        return True
    return path.is_dir() and bool(files_below(path, ".png")) and not files_below(path, ".json", but=(TARGETS,))


FIFTYONE = Format(name="fiftyone", ending="", write=write_fiftyone, is_at=_is_folder_of_masks, read=read_fiftyone)
