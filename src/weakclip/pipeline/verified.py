"""Masks that a person has drawn or approved: they are kept as they are, and every pixel of them is a sure seed.

They lie as `NAME.png` in the folder `verified` of a run, or in the folder that `data.verified` names.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.base import check_mask, missing_classes
from weakclip.datasets.class_masks import ClassMasks
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.folder_masks import MaskFolder
from weakclip.datasets.images import mask_digest, resize_mask
from weakclip.errors import BrokenFileError, DataError
from weakclip.pipeline.data import digest_if_any
from weakclip.pipeline.verdicts import Review
from weakclip.seeds import SeedMasks
from weakclip.store.files import check_inside
from weakclip.store.layout import VERIFIED
from weakclip.store.marks import Mark
from weakclip.store.progress import track
from weakclip.store.untrusted_text import some

logger = logging.getLogger("weakclip")

_TOLD: set[Path] = set()
"""Masks that this process has warned of: it may read a folder many times."""


class VerifiedMasks:
    """The verified masks of a data set's images, read when asked for.

    Args:
        dataset: the images, with the labels of the data set and of a review.
        folders: folders of `NAME.png`, found as `MaskFolder` finds them; a later one wins.
        marked_bad: image name → the mark of those that a review marked bad. A verified mask that such a mark was made
            on counts no more; one that was drawn since then does.

    Attributes:
        names: the images that have one, in the order of the data set.
        rejected: the images whose verified mask is marked bad.
        labels: image name → ascending foreground indices: the classes that the mask shows. Where it has pixels of 255
            the labels that the image had before stay, too.

    Raises:
        DataError: a file that is no mask, a mask of another size than its image, or one with an unknown class.
    """

    def __init__(
        self, dataset: ImageLabelDataset, folders: Sequence[Path] = (), *, marked_bad: Mapping[str, Mark] | None = None
    ) -> None:
        self._dataset = dataset
        self._read = ClassMasks(dataset.class_set, Path(VERIFIED)).read
        self._paths: dict[str, Path] = {}
        for folder in folders:
            self._paths |= _masks_in(folder, dataset)
        bad = {name: mark for name, mark in (marked_bad or {}).items() if name in self._paths}
        self.rejected = tuple(name for name, mark in bad.items() if self._is_judged(name, mark))
        for name in self.rejected:
            del self._paths[name]
        self.names = tuple(name for name in dataset.names if name in self._paths)
        read = track(self.names, "verified masks", total=len(self)) if self.names else ()
        self.labels = {name: self._labels(name) for name in read}

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Digest of all masks; empty where there are none."""
        return digest_if_any(f"{name} {self.digest(name)}" for name in self.names)

    def digest(self, name: str) -> str:
        """Digest of the file of an image; empty where it has none."""
        return hashlib.sha256(self._paths[name].read_bytes()).hexdigest() if name in self else ""

    def mask(self, name: str) -> np.ndarray:
        """`(H, W)` uint8 class indices and 255, of the size that the run reads the image with.

        Raises:
            DataError: as the class.
        """
        path, index = self._paths[name], self._dataset.index_of(name)
        size = self._dataset.size(index)
        try:
            mask = self._read(path)
            if mask.shape != size:  # drawn on the photo itself, where the run reads large photos reduced
                check_mask(mask, self._dataset.stored_size(index), self._dataset.class_set.num_classes, path)
                mask = resize_mask(mask, size)
            check_mask(mask, size, self._dataset.class_set.num_classes, path)
        except BrokenFileError as error:
            raise DataError(f"{error}; correct this verified mask, or remove it") from None
        return mask

    def seeds(self, name: str) -> SeedMasks:
        """A verified mask as seeds; in `dense`, which is scored, pixels of 255 count as background."""
        mask = self.mask(name)
        return SeedMasks(seed=mask, dense=np.where(mask == IGNORE_INDEX, 0, mask).astype(np.uint8))

    def tell_scored(self, names: Iterable[str]) -> None:
        """Say in the log how many of some images, whose masks are scored, have a verified one."""
        count = sum(name in self for name in names)
        if count:
            logger.warning(
                "%d scored images of %s have a verified mask; once the run has taken it over, it counts in the score",
                count,
                self._dataset.split,
            )

    def _is_judged(self, name: str, mark: Mark) -> bool:
        """Whether a mark is about this verified mask. Where it names no pixels, a mark that is older is not."""
        if mark.pixels is not None:
            return mark.pixels == mask_digest(self.mask(name))
        try:
            made = datetime.fromisoformat(mark.time)
        except ValueError:
            return True
        made = made if made.tzinfo else made.replace(tzinfo=UTC)
        return made.timestamp() >= self._paths[name].stat().st_mtime

    def _labels(self, name: str) -> tuple[int, ...]:
        mask = self.mask(name)
        shown = set(np.unique(mask).tolist())
        before = self._dataset.labels(self._dataset.index_of(name)) if IGNORE_INDEX in shown else ()
        if shown == {0, IGNORE_INDEX} and before and _TOLD.isdisjoint(self._paths.values()):
            _TOLD.add(self._paths[name])
            said = missing_classes(mask, before, self._dataset.class_set)
            logger.warning("%s: %s (said of the first such mask)", self._paths[name], said)
        return tuple(sorted((shown | set(before)) - {0, IGNORE_INDEX}))


def _masks_in(folder: Path, dataset: ImageLabelDataset) -> dict[str, Path]:
    """The masks of a folder by the names of their images; files that are none of them are told in the log."""
    masks = MaskFolder(folder, dataset.names)
    for note in masks.notes():
        logger.warning("verified masks of %s: %s", dataset.split, note)
    found = {name: path for name in dataset.names if (path := masks.find(name)) is not None}
    for path in found.values():
        check_inside(path, folder)
    return found


def tell_marks(verified: VerifiedMasks, review: Review) -> None:
    """Say in the log which marks of a review and which verified masks stand against each other."""
    if verified.rejected:
        logger.warning(
            "%d verified masks are marked bad and are not used, as if they were not there (`weakclip review` takes the "
            "marks back): %s",
            *(len(verified.rejected), some(verified.rejected)),
        )
    passed = [
        name
        for name in verified.names
        if name in review.bad or review.labels.get(name, verified.labels[name]) != verified.labels[name]
    ]
    if passed:
        logger.info("%d marks are passed over, for their images have verified masks: %s", len(passed), some(passed))
    absent = [name for name in review.approved if name not in verified]
    if absent:
        logger.warning(
            "%d images are marked verified, but no folder of verified masks has a mask of them: %s; mark them again in "
            "`weakclip review`, or name the folder in data.verified",
            *(len(absent), some(absent)),
        )
