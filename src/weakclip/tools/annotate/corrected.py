"""Masks that people corrected in an annotation tool, back as seeds for `seeds.method: imported_masks`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from weakclip.annotations import (
    AnnotatedImage,
    annotation_labels,
    draw_image,
    read_coco,
    read_cvat,
    read_label_studio,
)
from weakclip.annotations.entries import shown
from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.image_names import ImageNames
from weakclip.datasets.images import resize_mask, write_mask
from weakclip.errors import DataError, RunError
from weakclip.pipeline.context import open_run
from weakclip.store.files import atomic_write, check_inside, write_json
from weakclip.store.layout import MASKS
from weakclip.store.progress import track

MARK = "import.json"
"""In the folder of imported masks: where they come from."""

Reader = Callable[[Path], Iterator[AnnotatedImage]]

_READERS: dict[str, Reader] = {"{": read_coco, "[": read_label_studio, "<": read_cvat}
"""By the first character of a file."""


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Args:
        drawn: images whose masks come from the annotation file.
        kept: images that the file does not name, whose masks are the run's own pseudo masks.
        foreign: images of the file that the run does not have, as the file names them; they are left out.
    """

    drawn: int
    kept: int
    foreign: tuple[str, ...]


def import_masks(source: Path | str, run: Path | str, out: Path | str) -> ImportResult:
    """Draw the masks of an annotation file, one palette PNG an image of the run's training split.

    COCO's and Label Studio's JSON and CVAT's XML are told apart by their content. An image that the file does not name
    gets the run's own pseudo mask, so that the folder is whole though a part was corrected.

    Args:
        source: the file.
        run: the run whose masks were exported; it has the classes, the images and their sizes.
        out: the folder; a new or empty one, or one of an earlier import, whose masks are replaced.

    Raises:
        RunError: no run, a foreign folder, or a place that cannot be written.
        DataError: a file that cannot be read, an unknown label, an image of another size or twice, or none of the run.
    """
    source, out = Path(source), Path(out)
    context = open_run(run)
    dataset, labels = context.train, annotation_labels(context.train.class_set)
    names, drawn, foreign = ImageNames(dataset.names), dict[str, str](), list[str]()
    read = _reader(source)
    _claim(out, source, context.out)
    for image in track(read(source), "importing", total=len(dataset)):
        name = names.find(image.file_name)
        if name is None:
            foreign.append(shown(image.file_name))
            continue
        if name in drawn:
            both = f"as {drawn[name]} and as {shown(image.file_name)}"
            raise DataError(f"{source}: image {name} is annotated twice, {both}; keep one of the two")
        index = dataset.index_of(name)
        mask = draw_image(image, labels, dataset.stored_size(index), source)
        if mask.shape != dataset.size(index):
            mask = resize_mask(mask, dataset.size(index))
        write_mask(out / f"{name}.png", mask, dataset.class_set.palette)
        drawn[name] = shown(image.file_name)
    if not drawn:
        found = f"none of its {len(foreign):,} images is of {context.out}: {', '.join(foreign[:3])}"
        raise DataError(f"{source}: {found}; give the run that was exported, with images such as {dataset.names[0]}")
    kept = _keep_rest(dataset, drawn, context.folder("pseudo_masks") / MASKS, out)
    return ImportResult(drawn=len(drawn), kept=kept, foreign=tuple(foreign))


def _reader(source: Path) -> Reader:
    try:
        with source.open(encoding="utf-8-sig") as file:
            first = file.read(4096).lstrip()[:1]
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); give the file of the annotation tool") from None
    except UnicodeDecodeError:
        first = ""
    if first not in _READERS:
        raise DataError(f"{source}: neither JSON nor XML; expected a file of COCO, Label Studio or CVAT, unpacked")
    return _READERS[first]


def _claim(out: Path, source: Path, run: Path) -> None:
    """Make the folder, unless somebody else's files are in it."""
    mark = out / MARK
    try:
        if out.exists() and not mark.is_file() and any(out.iterdir()):
            raise RunError(f"{out}: is not empty and no folder of imported masks (no {MARK}); choose a new folder")
        write_json(mark, {"source": str(source), "run": str(run)})
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror}); choose another folder") from None


def _keep_rest(dataset: ImageLabelDataset, drawn: Container[str], masks: Path, out: Path) -> int:
    rest = [name for name in dataset.names if name not in drawn]
    for name in rest:
        path = masks / f"{name}.png"
        if not path.is_file():
            raise RunError(f"{path}: no such mask, and none for {name} in the annotation file; finish the run first")
        check_inside(path, masks)
        with path.open("rb") as content, atomic_write(out / f"{name}.png") as file:
            shutil.copyfileobj(content, file)
    return len(rest)
