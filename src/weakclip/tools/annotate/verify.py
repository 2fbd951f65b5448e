"""Masks that people corrected in an annotation tool become verified masks of their run (`pipeline/verified.py`)."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import mask_digest, read_mask, write_mask
from weakclip.inference.metrics import ConfusionMatrix, bootstrap_iou, iou_of
from weakclip.pipeline.context import RunContext, open_run
from weakclip.store.files import writing
from weakclip.store.layout import MASKS, VERIFIED
from weakclip.store.lock import FolderLock
from weakclip.store.untrusted_text import SHOWN, one_line, some
from weakclip.tools.annotate.corrected import Annotations, foreign_lines
from weakclip.tools.annotate.exported import read_exported

WAITING = ".verified.new"
"""In a run folder: masks of an import that is not complete."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the run's masks agree with those that were corrected: the score of masks that nobody had corrected yet.

    It is that of the images that were corrected. Where these were the most doubtful ones, the others are better.

    Args:
        images: how many images were compared.
        mean_iou: mean over the classes, 0…1.
        interval: 95 % interval of it, from a bootstrap over the images.
    """

    images: int
    mean_iou: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """The result of an import of verified masks.

    Args:
        verified: images that have a verified mask from the file.
        unchanged: images whose mask is the run's own, or one that it exported before, where the file does not say that
            a person approved it; and predictions that nobody has answered. They are not verified.
        empty: images without anything drawn, though their labels name classes and the run gave no mask of them to a
            tool, where the file does not say that a person approved this. They are not verified.
        foreign: images of the file that the run does not have, as the file names them; they are left out.
        relabelled: image → its new labels, where the drawn classes are others.
        replaced: images whose earlier verified mask had other pixels; it is no longer there.
        agreement: of the run's masks with the verified ones; None where the run had masks of none of them.
    """

    verified: int
    unchanged: int
    empty: tuple[str, ...]
    foreign: tuple[str, ...]
    relabelled: dict[str, tuple[str, ...]]
    replaced: tuple[str, ...]
    agreement: Agreement | None


def verified_lines(made: VerifyResult, source: Path, run: Path) -> list[str]:
    """The verified masks, their new labels, the score of the run's masks and the next command, for people."""
    lines = [f"{run / 'verified'}: {made.verified:,} masks of {source}"]
    if made.unchanged:
        lines.append(f"{made.unchanged:,} masks of the file are as {run} made them, and not verified")
    if made.empty:
        names = some(made.empty, SHOWN)
        lines.append(f"{len(made.empty):,} images have labels and nothing drawn, and are not verified: {names}")
    if made.replaced:
        names = some(made.replaced, SHOWN)
        lines.append(f"{len(made.replaced):,} images had another verified mask, which is replaced: {names}")
    for name, labels in [*made.relabelled.items()][:SHOWN]:
        lines.append(f"{one_line(name)} has other labels now: {', '.join(labels) or 'none, it is background'}")
    if len(made.relabelled) > SHOWN:
        lines.append(f"{len(made.relabelled) - SHOWN:,} more images have other labels now (--json lists all)")
    if made.agreement is not None:
        low, high = (100 * bound for bound in made.agreement.interval)
        lines.append(
            f"against them the run's own masks of {made.agreement.images:,} of these images score a mean IoU of "
            f"{100 * made.agreement.mean_iou:.1f} % (95 % interval {low:.1f} to {high:.1f}); "
            "images that nobody corrected are not in it"
        )
    command = shlex.join(["weakclip", "run", str(run / "config.yaml"), "--out", str(run), "--redo"])
    return [*lines, *foreign_lines(made.foreign, source, run), f"next: {command}"]


def verify_masks(source: Path | str, run: Path | str) -> VerifyResult:
    """Take the masks of an annotation file as verified masks of the run whose masks were exported.

    All of them or, after an error, none. An earlier verified mask of an image is replaced; those of images that the
    file does not name stay.

    Args:
        source: JSON of COCO or Label Studio, XML of CVAT, or a folder of YOLO, LabelMe, FiftyOne or masks.
        run: the run folder.

    Raises:
        RunError: no run, or another process works in it.
        DataError: as `import_masks`.
    """
    source = Path(source)
    context = open_run(run)
    with FolderLock(context.out):
        waiting = context.out / WAITING
        with writing(waiting):
            shutil.rmtree(waiting, ignore_errors=True)
        try:
            return _verify(source, context, waiting)
        finally:
            shutil.rmtree(waiting, ignore_errors=True)


def _verify(source: Path, context: RunContext, waiting: Path) -> VerifyResult:
    dataset, annotations = context.train, Annotations(source, context)
    exported = read_exported(context.out)
    taken, empty, replaced, overlaps = list[str](), list[str](), list[str](), list[np.ndarray]()
    for name, mask, image in annotations.masks():
        own, given = _own_mask(context, name), exported.get(name, ())
        same = mask_digest(mask) in given or (own is not None and np.array_equal(own, mask))
        if image.by_person is False or (image.by_person is None and same):
            continue
        if image.by_person is None and not given and not mask.any() and dataset.labels(dataset.index_of(name)):
            empty.append(name)
            continue
        write_mask(waiting / f"{name}.png", mask, dataset.class_set.palette)
        taken.append(name)
        if name in context.verified and not np.array_equal(context.verified.mask(name), mask):
            replaced.append(name)
        if own is None or own.shape != mask.shape or name in context.verified:
            continue
        decided = (mask != IGNORE_INDEX) & (own != IGNORE_INDEX)
        if decided.any():
            matrix = ConfusionMatrix(dataset.class_set.num_classes)
            matrix.update(np.where(decided, own, 0), np.where(decided, mask, IGNORE_INDEX))
            overlaps.append(matrix.overlaps())
    for name in taken:
        target = context.out / VERIFIED / f"{name}.png"
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(waiting / f"{name}.png", target)
    return VerifyResult(
        verified=len(taken),
        unchanged=len(annotations.drawn) - len(taken) - len(empty),
        empty=tuple(empty),
        foreign=tuple(annotations.foreign),
        relabelled=_relabelled(dataset, open_run(context.out).train, taken),
        replaced=tuple(replaced),
        agreement=_agreement(np.stack(overlaps)) if overlaps else None,
    )


def _own_mask(context: RunContext, name: str) -> np.ndarray | None:
    path = context.folder("pseudo_masks") / MASKS / f"{name}.png"
    mask = read_mask(path) if path.is_file() else None
    return None if mask is None or (mask == IGNORE_INDEX).all() else mask


def _relabelled(
    before: ImageLabelDataset, after: ImageLabelDataset, names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    labels = {name: after.labels(after.index_of(name)) for name in names}
    return {
        name: tuple(after.class_set.names[index] for index in each)
        for name, each in labels.items()
        if each != before.labels(before.index_of(name))
    }


def _agreement(overlaps: np.ndarray) -> Agreement:
    mean = float(np.nanmean(iou_of(overlaps.sum(axis=0))))
    low, high = np.percentile(np.nanmean(bootstrap_iou(overlaps), axis=1), [2.5, 97.5])
    return Agreement(images=len(overlaps), mean_iou=mean, interval=(float(low), float(high)))
