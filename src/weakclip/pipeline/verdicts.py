"""Applies the marks of a review to a run: other labels for some images, and masks that nothing is trained on.

A relabelled image's labels take the place of the data set's in stages 1 to 3. A bad mask is left out of stage 4's
training and of nothing else: were its image left out of stage 2, WeakCLIP would be another, and with it every mask that
was reviewed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakclip.datasets import ImageLabelDataset
from weakclip.errors import DataError
from weakclip.pipeline.data import SomeImages
from weakclip.store.files import expand_home
from weakclip.store.marks import MARKS, Mark, read_marks

logger = logging.getLogger("weakclip")


class ReviewedImages(SomeImages):
    """Some images of a data set, some of them with other labels.

    Args:
        whole: the data set.
        labels: image name → ascending foreground indices, in place of the data set's.
        left_out: names of images that are not in this one.
    """

    def __init__(
        self,
        whole: ImageLabelDataset,
        *,
        labels: Mapping[str, tuple[int, ...]] | None = None,
        left_out: Iterable[str] = (),
    ) -> None:
        absent = set(left_out)
        super().__init__(whole, [index for index, name in enumerate(whole.names) if name not in absent])
        self._labels = dict(labels or {})

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending foreground indices: the review's, or else the data set's."""
        name = self.names[index]
        return self._labels[name] if name in self._labels else super().labels(index)


@dataclass(frozen=True, kw_only=True)
class Review:
    """The marks that change something.

    Args:
        labels: image name → ascending foreground indices, where they differ from the data set's.
        bad: names of the images whose masks are marked bad, in the data set's order → the mark.
        approved: names of the images whose masks are marked verified.
        truth_seen: how many of these marks were made with the true mask in view.
    """

    labels: Mapping[str, tuple[int, ...]]
    bad: Mapping[str, Mark]
    approved: tuple[str, ...]
    truth_seen: int


def merged_marks(paths: Sequence[Path]) -> dict[str, Mark]:
    """The last mark on each image; a later file wins.

    Raises:
        DataError: as `read_marks`.
    """
    marks: dict[str, Mark] = {}
    for path in paths:
        found, torn = read_marks(path)
        if torn:
            logger.info("%s: %d lines are no JSON (cut short, perhaps); passed over", path, torn)
        marks |= found
    return marks


def read_review(dataset: ImageLabelDataset, paths: Sequence[Path]) -> Review:
    """Reads marks for a data set, and tells what they change; a later file wins.

    Raises:
        DataError: a file that cannot be read, no mark in a line, or a label that is no class.
    """
    marks = merged_marks(paths)
    where = ", ".join(map(str, paths))
    known = {name: marks[name] for name in dataset.names if name in marks}
    if len(known) < len(marks):
        logger.info("%s: %d marks are on no image of %s; passed over", where, len(marks) - len(known), dataset.split)
    labels: dict[str, tuple[int, ...]] = {}
    for name, mark in known.items():
        corrected = mark_labels(mark, dataset, where)
        if corrected is not None and corrected != dataset.labels(dataset.index_of(name)):
            labels[name] = corrected
    bad = {name: mark for name, mark in known.items() if mark.mark == "bad"}
    approved = tuple(name for name, mark in known.items() if mark.mark == "verified")
    used = {*labels, *bad, *approved}
    truth_seen = sum(known[name].truth_seen for name in used)
    review = Review(labels=labels, bad=bad, approved=approved, truth_seen=truth_seen)
    if used:
        logger.info(
            "%s: %d images have other labels, %d masks are marked bad, %d verified",
            *(where, len(labels), len(bad), len(approved)),
        )
    if review.truth_seen:
        logger.warning(
            "%s: %d of these marks were made with the true mask in view; this run's results have used pixel labels",
            where,
            review.truth_seen,
        )
    return review


def mark_labels(mark: Mark, dataset: ImageLabelDataset, where: str) -> tuple[int, ...] | None:
    """The indices of a mark's labels; None where the data set's stay.

    Raises:
        DataError: a label that is no class of the data set.
    """
    if mark.labels is None:
        return None
    try:
        return dataset.class_set.foreground_indices(mark.labels)
    except DataError as error:
        raise DataError(f"{where}: image {mark.image!r}: {error}") from None


def mark_files(named: str | None, out: Path) -> list[Path]:
    """The files with marks that a run reads, a later one winning: the one that its settings name, and its own.

    Raises:
        DataError: no such file.
    """
    own = out / MARKS
    if named is None:
        return [own] if own.is_file() else []
    path = expand_home(named)
    if not path.is_file():
        raise DataError(f"{path}: no such file; data.marks is a {MARKS} that `weakclip review` wrote, or null")
    return [path, own] if own.is_file() and own.resolve() != path.resolve() else [path]
