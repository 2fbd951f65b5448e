"""A run folder as the review page sees it: images by their index, layers of masks, and marks."""

from __future__ import annotations

import dataclasses
import logging
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.config import load_run_config
from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.images import read_mask
from weakclip.datasets.looks import screen_palette
from weakclip.errors import DataError, RunError
from weakclip.pipeline.bad_files import broken_of, open_sound
from weakclip.pipeline.verdicts import mark_files, mark_labels, merged_marks
from weakclip.report.chosen import read_chosen
from weakclip.report.images import known_figures
from weakclip.review.approval import Approval
from weakclip.store.layout import MASKS, PREDICTIONS, SEED_MASKS, STAGE_FOLDERS
from weakclip.store.manifest import read_records
from weakclip.store.marks import MARKS, Mark, MarkFile, now
from weakclip.store.paths import check_run
from weakclip.store.standing import mixture

logger = logging.getLogger("weakclip")

SEED, PSEUDO, PREDICTION, TRUTH = ("seed", "pseudo mask", "prediction", "truth")
"""Masks that can be laid over an image."""

FILTERS = ("all", "unmarked", "good", "verified", "bad", "relabelled", "again")
"""Choices by mark; "again": marked when the image had another mask than it has now."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A mark that the page asks for.

    Args:
        image: index in the split.
        mark: "good", "verified", "bad", "relabel", or None to take the mark back.
        labels: class names in place of the data set's labels; None for those. Not read where `keep_labels`.
        keep_labels: whether the labels of an earlier mark stay.
        after: time of the mark that this one may replace, "" for none; None: whatever is there.
        truth_seen: whether the true mask was in view.
        undo: whether the state before the reviewer's last mark is given back.
    """

    image: int
    mark: str | None
    labels: tuple[str, ...] | None = None
    keep_labels: bool = False
    after: str | None = None
    truth_seen: bool = False
    undo: bool = False


class ReviewFolder:
    """The training split of a run, its masks and its marks.

    Args:
        run: the run folder.
        reviewer: the name that marks carry.

    Raises:
        RunError: no run folder, or one in which no masks are made yet.
        WeakCLIPError: its configuration, its data set or its marks cannot be read.
    """

    def __init__(self, run: Path | str, *, reviewer: str = "") -> None:
        self.run, self.reviewer = Path(run), reviewer
        check_run(self.run)
        if mixed := mixture(self.run):
            logger.warning("%s", mixed)
        config = load_run_config(self.run)
        data = config.data
        self.folders = {
            SEED: self.run / STAGE_FOLDERS["seeds"] / SEED_MASKS,
            PSEUDO: self.run / STAGE_FOLDERS["pseudo_masks"] / MASKS,
            PREDICTION: self.run / STAGE_FOLDERS["evaluate"] / PREDICTIONS / MASKS,
        }
        if not any(next(self.folders[layer].rglob("*.png"), None) for layer in (SEED, PSEUDO)):
            raise RunError(f"{run}: no masks are made yet; `weakclip run` makes them")
        self.dataset: ImageLabelDataset = open_sound(config, "train", broken_of(config, self.run), self.run)
        self.layers = [*self.folders, *([TRUTH] if self.dataset.has_masks else [])]
        self.given = [self.dataset.labels(index) for index in range(len(self.dataset))]
        own, files = self.run / MARKS, mark_files(data.marks, self.run)
        self._inherited = merged_marks([path for path in files if path != own])
        self._own = MarkFile(own)
        self._approval = Approval(self.run, self.dataset)
        for mark in merged_marks(files).values():
            mark_labels(mark, self.dataset, str(own))
        self._doubts = {name: of.doubt for name, of in known_figures(self.run).items()}
        self.network = read_chosen(self.run).line

    def marks(self) -> Mapping[str, Mark]:
        """The last mark on each image, those of `data.marks` among them."""
        own = self._own.current()
        return ChainMap(dict(own), self._inherited) if self._inherited else own

    def masks_key(self) -> str | None:
        """The key under which the manifest knows the pseudo masks; None where there are none."""
        key = read_records(self.run).get("pseudo_masks", {}).get("key")
        return key if isinstance(key, str) else None

    def describe(self) -> dict[str, Any]:
        """The facts about the run as a whole that the page shows."""
        class_set = self.dataset.class_set
        classes = zip(class_set.names, screen_palette(class_set)[: class_set.num_classes], strict=True)
        return {
            "name": self.run.resolve().name,
            "split": self.dataset.split,
            "total": len(self.dataset),
            "classes": [{"name": name, "color": "#{:02x}{:02x}{:02x}".format(*color)} for name, color in classes],
            "layers": ["image", *self.layers],
            "doubts": bool(self._doubts),
            "network": self.network,
            "reviewer": self.reviewer,
        }

    def choose(self, by_mark: str, by_class: int | None, by_name: str, *, by_doubt: bool) -> list[int]:
        """Indices of images.

        Args:
            by_doubt: the most doubtful first, by the report's order when the review was opened, and those that it does
                not know last; else in the order of the split.
            by_mark: one of `FILTERS`.
            by_class: only images whose labels, relabelled or not, name this class; None for all.
            by_name: only images whose name contains this text, in upper or lower case.
        """
        marks, key, text = self.marks(), self.masks_key(), by_name.casefold()
        found = [
            index
            for index, name in enumerate(self.dataset.names)
            if (not text or text in name.casefold())
            and by_mark in _kinds(marks.get(name), key)
            and (by_class is None or by_class in self._labels(index, marks.get(name)))
        ]
        if by_doubt:
            found.sort(key=lambda index: -self._doubts.get(self.dataset.names[index], -1.0))
        return found

    def counts(self) -> dict[str, int]:
        """How many images pass each filter."""
        marks, key = self.marks(), self.masks_key()
        counts = dict.fromkeys(FILTERS, 0)
        known = [marks[name] for name in self.dataset.names if name in marks]
        for mark in known:
            for kind in _kinds(mark, key):
                counts[kind] += 1
        fresh = len(self.dataset) - len(known)
        return counts | {"all": len(self.dataset), "unmarked": counts["unmarked"] + fresh}

    def items(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Images in words: name, labels, and the mark."""
        marks, own, key = self.marks(), self._own.current(), self.masks_key()
        return [self._item(index, marks.get(self.dataset.names[index]), own, key) for index in indices]

    def _item(self, index: int, mark: Mark | None, own: Mapping[str, Mark], key: str | None) -> dict[str, Any]:
        name = self.dataset.names[index]
        return {
            "index": index,
            "name": name,
            "labels": self._labels(index, mark),
            "given": self.given[index],
            "corrected": None if mark is None else mark.labels,
            "mark": None if mark is None else mark.mark,
            "again": "again" in _kinds(mark, key),
            "by": "" if mark is None or mark.undo else mark.reviewer,
            "verified": name in self._approval,
            "time": own[name].time if name in own else "",
        }

    def add(self, request: Request) -> dict[str, Any] | None:
        """Make a mark; the image's item afterwards, or None where it was marked by somebody else since `after`.

        Raises:
            DataError: a label that is no foreground class, "relabel" without labels, or a mask that cannot be verified.
            FolderInUseError: a run works in the folder, and the mark would change its verified masks.
            OSError, StorageError: the marks, or a verified mask, cannot be written.
        """
        name = self.dataset.names[request.image]
        before = self.marks().get(name)
        labels = request.labels
        if request.keep_labels:
            labels = before.labels if before else None
        if request.mark == "relabel" and labels is None:
            raise DataError("relabel: expected the image's labels")
        mark = Mark(
            image=name,
            mark=request.mark,
            labels=labels,
            time=now(),
            masks=self.masks_key(),
            truth_seen=request.truth_seen,
            reviewer=self.reviewer,
            undo=request.undo,
        )
        indices = mark_labels(mark, self.dataset, "marks")
        if indices is not None:
            mark = dataclasses.replace(mark, labels=tuple(self.dataset.class_set.names[each] for each in indices))
        mask = self._mask_path(request.image, PSEUDO)
        made = self._own.add(mark, after=request.after, prepare=lambda last, new: self._approval.apply(last, new, mask))
        return self.items([request.image])[0] if made else None

    def image(self, index: int) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB."""
        return self.dataset.image(index)

    def layer_version(self, index: int, layer: str) -> str:
        """Another text when the layer's mask was made anew; empty where there is none."""
        if layer == TRUTH:
            return TRUTH
        path = self._mask_path(index, layer)
        if path is None:
            return ""
        stat = path.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def layer(self, index: int, layer: str) -> np.ndarray:
        """`(H, W)` uint8 class indices, 255 where no class is given.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        if layer == TRUTH:
            mask = self.dataset.mask(index)
        else:
            path = self._mask_path(index, layer)
            mask = None if path is None else read_mask(path)
        if mask is None:
            raise DataError(f"{self.dataset.names[index]}: no {layer} yet")
        return mask

    def _mask_path(self, index: int, layer: str) -> Path | None:
        """The file of a mask if it is there and lies in the run folder, links followed."""
        path = self.folders[layer] / f"{self.dataset.names[index]}.png"
        inside = path.resolve().is_relative_to(self.run.resolve())
        return path if inside and path.is_file() else None

    def _labels(self, index: int, mark: Mark | None) -> tuple[int, ...]:
        corrected = None if mark is None else mark_labels(mark, self.dataset, MARKS)
        return self.given[index] if corrected is None else corrected


def _kinds(mark: Mark | None, key: str | None) -> tuple[str, ...]:
    """Which of `FILTERS` an image passes."""
    if mark is None:
        return ("all", "unmarked")
    kinds = ["all", "relabelled"] if mark.labels is not None else ["all"]
    if mark.mark is None:
        return (*kinds, "unmarked")
    kinds += [mark.mark] if mark.mark != "relabel" else []
    return (*kinds, "again") if mark.masks != key else tuple(kinds)
