"""The mark "verified": the mask that was looked at lies among the run's verified masks, as long as the mark stands.

The mark remembers whether it has put the mask there. The next mark on the image, an undo or "take back" removes that
copy and no other mask: what a person has drawn stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.folder_masks import MaskFolder
from weakclip.datasets.images import mask_digest, read_mask
from weakclip.errors import DataError
from weakclip.store.files import copy_file, writing
from weakclip.store.layout import VERIFIED
from weakclip.store.lock import FolderLock
from weakclip.store.marks import Mark

JUDGED = ("verified", "bad")
"""Marks that are about the pixels of a mask: they remember its digest."""


class Approval:
    """The verified masks of a run folder, as marks change them.

    Args:
        run: the run folder.
        dataset: its training split.
    """

    def __init__(self, run: Path, dataset: ImageLabelDataset) -> None:
        self.run, self.dataset = run, dataset
        self.folder = run / VERIFIED

    def __contains__(self, name: object) -> bool:
        return (self.folder / f"{name}.png").is_file()

    def apply(self, before: Mark | None, mark: Mark, mask: Path | None) -> Mark:
        """Make the folder fit a mark that is about to be written.

        Args:
            before: the image's mark until now.
            mark: its new one.
            mask: the file of the image's pseudo mask; None where there is none.

        Returns:
            The mark with the digest of what it judges, and whether it has put the mask there.

        Raises:
            DataError: no mask, or one that a person has drawn is there and looks otherwise.
            FolderInUseError: a run works in the folder.
            StorageError: the mask cannot be written.
        """
        ours = before.pixels if before is not None and before.copied else None
        if mark.mark not in JUDGED and ours is None:
            return mark
        pixels = mask_digest(read_mask(mask)) if mask is not None and mark.mark in JUDGED else None
        mark = dataclasses.replace(mark, pixels=pixels)
        if mark.mark != "verified" and ours is None:
            return mark
        if mark.mark == "verified" and (mask is None or pixels is None):
            raise DataError(f"{mark.image}: no pseudo mask yet that could be verified")
        self._check_place(mark.image)
        with FolderLock(self.run):
            there = MaskFolder(self.folder, self.dataset.names).find(mark.image)
            known = mask_digest(read_mask(there)) if there is not None else None
            own = known is not None and known == ours
            if mark.mark == "verified" and known == pixels:
                return dataclasses.replace(mark, copied=own)
            if mark.mark == "verified" and known is not None and not own:
                raise DataError(
                    f"{mark.image}: {there} is another verified mask, which a person has drawn; `weakclip run --redo` "
                    "takes it over, or remove it first"
                )
            if mark.mark == "verified" and mask is not None:
                copy_file(mask, self.folder / f"{mark.image}.png")
                return dataclasses.replace(mark, copied=True)
            if own and there is not None:
                self._remove(there)
        return mark

    def _check_place(self, name: str) -> None:
        """Write through no link that leads out of the run folder."""
        if not (self.folder / f"{name}.png").parent.resolve().is_relative_to(self.run.resolve()):
            raise DataError(f"{self.folder}: leads out of the run folder; verified masks are not changed there")

    def _remove(self, path: Path) -> None:
        """Remove a mask, and the folders that are empty then."""
        with writing(path):
            path.unlink()
        for folder in path.parents:
            if not folder.is_relative_to(self.folder):
                break
            with contextlib.suppress(OSError):
                folder.rmdir()
