"""Masks that people corrected in an annotation tool, back as seeds for `seeds.method: imported_masks`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from weakclip.annotations import FORMATS, AnnotatedImage, Format, KnownImages, annotation_labels, draw_image
from weakclip.annotations.entries import shown
from weakclip.annotations.forms import flat_name
from weakclip.annotations.yolo import LIST
from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.image_names import ImageNames
from weakclip.datasets.images import resize_mask, write_mask
from weakclip.errors import DataError, RunError
from weakclip.pipeline.context import RunContext, open_run
from weakclip.store.files import check_inside, copy_file, write_json, writing
from weakclip.store.layout import MASKS
from weakclip.store.marks import MARKS
from weakclip.store.progress import track
from weakclip.store.untrusted_text import SHOWN, some

MARK = "import.json"
"""In the folder of imported masks: where they come from."""


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


def import_settings(run: Path, out: Path) -> list[str]:
    """The settings of a run that takes the folder as its seeds, `KEY=VALUE` each."""
    settings = ["seeds.method=imported_masks", f"seeds.folder={out}"]
    if (run / MARKS).is_file():
        settings.append(f"data.marks={run / MARKS}")  # the labels that a review has corrected
    return settings


def import_lines(made: ImportResult, source: Path, run: Path, out: Path) -> list[str]:
    """How many masks there are, and the command of a run that takes them as its seeds, for people."""
    changes = [word for setting in import_settings(run, out) for word in ("--set", setting)]
    command = shlex.join(["weakclip", "run", str(run / "config.yaml"), *changes, "--out", f"runs/{out.name}"])
    return [
        f"{out}: {made.drawn:,} masks of {source}, {made.kept:,} as {run} had them",
        *foreign_lines(made.foreign, source, run),
        f"next: {command}",
    ]


def foreign_lines(foreign: Sequence[str], source: Path, run: Path) -> list[str]:
    """The images of an annotation file that a run does not have, for people."""
    named = some(foreign, SHOWN, more=", … (--json lists all)")
    return [f"{source}: left out, for {run} has no such images: {len(foreign):,}, {named}"] if foreign else []


def import_masks(source: Path | str, run: Path | str, out: Path | str) -> ImportResult:
    """Draw the masks of an annotation file, one palette PNG an image of the run's training split.

    The formats are told apart by their content. An image that the file does not name
    gets the run's own pseudo mask, so that the folder is whole though a part was corrected.

    Args:
        source: the file or folder.
        run: the run whose masks were exported; it has the classes, the images and their sizes.
        out: the folder; a new or empty one, or one of an earlier import, whose masks are replaced.

    Raises:
        RunError: no run, or a foreign folder.
        StorageError: a place that cannot be written.
        DataError: a file that cannot be read, an unknown label, an image of another size or twice, or none of the run.
    """
    source, out = Path(source), Path(out)
    context = open_run(run)
    dataset, annotations = context.train, Annotations(source, context)
    _claim(out, source, context.out)
    for name, mask, _ in annotations.masks():
        write_mask(out / f"{name}.png", mask, dataset.class_set.palette)
    kept = _keep_rest(dataset, annotations.drawn, context.folder("pseudo_masks") / MASKS, out)
    return ImportResult(drawn=len(annotations.drawn), kept=kept, foreign=tuple(annotations.foreign))


class Annotations:
    """The masks of an annotation file for the images of a run.

    Args:
        source: the file or folder.
        context: the run.

    Attributes:
        drawn: images of the run → how the file names them, as far as it was read.
        foreign: names of the file's other images, as far as it was read.

    Raises:
        DataError: a file that cannot be read.
    """

    def __init__(self, source: Path, context: RunContext) -> None:
        self._source, self._context, self._format = source, context, _format(source)
        self.drawn: dict[str, str] = {}
        self.foreign: list[str] = []

    def masks(self) -> Iterator[tuple[str, np.ndarray, AnnotatedImage]]:
        """Each image of the run: its name, its mask `(H, W)` uint8 at the size that the run reads it with, its entry.

        Raises:
            DataError: an unknown label, an image of another size or twice, or none of the run.
        """
        dataset, source = self._context.train, self._source
        find, labels = image_finder(dataset.names), annotation_labels(dataset.class_set)

        def size_of(file_name: str) -> tuple[int, int] | None:
            name = find(file_name)
            return None if name is None else dataset.stored_size(dataset.index_of(name))

        known = KnownImages(size_of=size_of, class_set=dataset.class_set)
        for image in track(self._format.read(source, known), "importing", total=len(dataset)):
            name = find(image.file_name)
            if name is None:
                self.foreign.append(shown(image.file_name))
                continue
            if name in self.drawn:
                both = f"as {self.drawn[name]} and as {shown(image.file_name)}"
                raise DataError(f"{source}: image {name} is annotated twice, {both}; keep one of the two")
            index = dataset.index_of(name)
            mask = draw_image(image, labels, dataset.stored_size(index), source)
            if mask.shape != dataset.size(index):
                mask = resize_mask(mask, dataset.size(index))
            yield name, mask, image
            self.drawn[name] = shown(image.file_name)
        if not self.drawn:
            found = f"none of its {len(self.foreign):,} images is of {self._context.out}: {', '.join(self.foreign[:3])}"
            expected = f"give the run that was exported, with images such as {dataset.names[0]}"
            raise DataError(f"{source}: {found}; {expected}")


def image_finder(names: Sequence[str]) -> Callable[[str], str | None]:
    """From the name of a file in annotations to the image of the run, whether folders are part of the name or not."""
    known, flat = ImageNames(names), dict[str, str | None]()
    for name in names:
        flat[flat_name(name)] = None if flat_name(name) in flat else name

    def find(file_name: str) -> str | None:
        name = flat.get(PurePosixPath(file_name).stem)
        return name if name is not None and "/" in name else known.find(file_name)

    return find


def _format(source: Path) -> Format:
    try:
        found = next((each for each in FORMATS.values() if each.is_at(source)), None)
        if not source.is_dir():
            source.open("rb").close()
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); give the file of the annotation tool") from None
    if found is not None:
        return found
    if source.is_dir():
        raise DataError(
            f"{source}: no {LIST}, JSON or PNG in it; expected a folder of YOLO, LabelMe or FiftyOne, or masks"
        )
    raise DataError(f"{source}: neither JSON nor XML; expected a file of COCO, Label Studio or CVAT, unpacked")


def _claim(out: Path, source: Path, run: Path) -> None:
    """Make the folder, unless somebody else's files are in it."""
    mark = out / MARK
    with writing(out):
        if out.exists() and not mark.is_file() and any(out.iterdir()):
            raise RunError(f"{out}: is not empty and no folder of imported masks (no {MARK}); choose a new folder")
        write_json(mark, {"source": str(source), "run": str(run)})


def _keep_rest(dataset: ImageLabelDataset, drawn: Container[str], masks: Path, out: Path) -> int:
    rest = [name for name in dataset.names if name not in drawn]
    for name in rest:
        path = masks / f"{name}.png"
        if not path.is_file():
            raise RunError(f"{path}: no such mask, and none for {name} in the annotation file; finish the run first")
        check_inside(path, masks)
        copy_file(path, out / f"{name}.png")
    return len(rest)
