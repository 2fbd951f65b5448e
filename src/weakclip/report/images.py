"""The images of a run and what is known of each one's masks: for the report, and for whoever else shows a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weakclip.errors import RunError
from weakclip.inference.mask_statistics import STATISTICS, ImageStatistics, read_statistics
from weakclip.report.doubts import ImageFigures, figures_of
from weakclip.report.folder import RunSummary, read_run
from weakclip.store.layout import CAPTIONS, STAGE_FOLDERS, STRIPS
from weakclip.store.untrusted_text import parse_json


@dataclass(frozen=True, kw_only=True)
class Strips:
    """Pictures of every image, side by side in one file an image.

    Args:
        folder: of the files, relative to the run folder.
        captions: of the pictures in a file, from left to right; they have equal widths.
    """

    folder: str
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunImages:
    """The training images of a run, in the order of the split.

    Args:
        classes: names and colours (`#rrggbb`) by class index; the background first.
        images: figures of each image; those of stages that have not run are absent.
        strips: where pictures of the images lie.
    """

    classes: tuple[tuple[str, str], ...]
    images: tuple[ImageStatistics, ...]
    strips: tuple[Strips, ...]


def known_figures(folder: Path | str) -> dict[str, ImageFigures]:
    """Image name → its figures among the others; empty where nothing is known of them yet, or can be read.

    The masks of a run of an earlier version, or of a damaged one, can be looked at all the same: the report says so.
    """
    try:
        return {image.statistics.name: image for image in figures_of(read_images(folder).images)}
    except RunError:
        return {}


def read_images(folder: Path | str, run: RunSummary | None = None) -> RunImages:
    """Figures of the training images of a run, finished or not.

    The figures come from the stages that made them; nothing is computed from masks here. Those of an evaluation whose
    inputs have changed since are left out. Before the first of these stages is finished, nothing is known.

    Args:
        folder: the run folder.
        run: what `read_run` said of it; read where left out.

    Raises:
        RunError: not a run folder, or an unreadable file in it.
    """
    folder, run = Path(folder), run or read_run(folder)
    fresh = [stage.folder for stage in run.stages if stage.name == "pseudo_masks"]
    fresh += [stage.folder for stage in run.stages if stage.name == "evaluate" and not stage.stale]
    found: dict[str, ImageStatistics] = {}
    for stage in fresh:
        for figures in read_statistics(folder / stage / STATISTICS):
            found[figures.name] = _joined(found.get(figures.name), figures)
    strips = (_strips(folder, stage) for stage in fresh)
    known = found.values() if run.classes else ()  # the first of these stages is being made: nobody has named classes
    images = tuple(_known(image, len(run.classes), folder) for image in known)
    return RunImages(classes=run.classes, images=images, strips=tuple(filter(None, strips)))


def _joined(made: ImageStatistics | None, later: ImageStatistics) -> ImageStatistics:
    """The later line has compared more masks; how a mask came about, only the stage that made it knows."""
    if made is None or later.confidence is not None:
        return later
    return dataclasses.replace(
        later,
        dense_shares=made.dense_shares,
        confidence=made.confidence,
        class_confidence=made.class_confidence,
        crf_change=made.crf_change,
        votes=made.votes,
    )


def _known(image: ImageStatistics, classes: int, folder: Path) -> ImageStatistics:
    compared = (image.seed_mask, image.mask_prediction, image.mask_truth)
    parts = (image.labels, image.shares, image.seed_shares, image.dense_shares, image.votes, *compared)
    highest = max((index for part in parts for index in part), default=0)
    if highest >= max(classes, 1):
        stages = [STAGE_FOLDERS[stage] for stage in ("pseudo_masks", "evaluate")]
        raise RunError(f"{folder}: {image.name} has class {highest}, but the run {classes}; delete {stages}, run again")
    return image


def _strips(folder: Path, stage: str) -> Strips | None:
    path = folder / stage / STRIPS / CAPTIONS
    if not path.is_file():
        return None
    try:
        captions = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        captions = None
    if not isinstance(captions, list) or not captions:
        raise RunError(f"{path}: not a list of captions; delete {folder / stage}, and run again")
    return Strips(folder=str(PurePosixPath(stage) / STRIPS), captions=tuple(map(str, captions)))
