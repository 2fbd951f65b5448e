"""Masks of a run for a tool that asks for one image at a time: the run's own ones, and predicted ones of others."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import threading
from pathlib import Path

import numpy as np

from weakclip.annotations.entries import MaskEntry, annotation_labels
from weakclip.datasets.image_folder import ImageFolder, stem
from weakclip.datasets.images import mask_digest, read_mask, read_rgb, resize_mask
from weakclip.errors import BrokenFileError, DataError
from weakclip.pipeline.context import open_run
from weakclip.prediction import Predictor, load_predictor
from weakclip.store.layout import CONFIG, MANIFEST, MASKS
from weakclip.store.manifest import read_records
from weakclip.store.trees import AnyPath, Stamp, stamp_of
from weakclip.tools.annotate.corrected import image_finder
from weakclip.tools.annotate.exported import note_exported
from weakclip.tools.annotate.queue import queue
from weakclip.tools.annotate.run_masks import image_files

logger = logging.getLogger("weakclip")


class MaskSource:
    """Masks of a run, and of images that its network predicts.

    A run whose settings or results have changed, as by `weakclip run --redo`, is loaded anew.

    Args:
        run: a run folder with masks.
        images: a folder of further images; None for none.

    Raises:
        RunError: no run.
        DataError: a folder without images.
    """

    def __init__(self, run: Path | str, images: Path | None = None) -> None:
        self.run = Path(run)
        self._others: dict[str, Path] = {}
        if images is not None:
            found = ImageFolder(images)
            self._others = {stem(file): Path(str(found.folder)) / file for file in found.files}
        self._find_other = image_finder([*self._others])
        self._lock = threading.Lock()
        self._loaded = _LoadedRun(self.run)

    @property
    def version(self) -> str:
        """The name of these masks: other masks have another version."""
        record = read_records(self.run).get("pseudo_masks", {})
        return f"weakclip {str(record.get('key', 'without masks'))[:8]}"

    @property
    def labels(self) -> dict[str, int]:
        """Mask value of every label, as `annotation_labels`."""
        return annotation_labels(self._current().dataset.class_set)

    def name_of(self, address: str) -> str | None:
        """The image of the run that an address means; None where it means none."""
        return self._current().find(address)

    def named(self, address: str) -> MaskEntry | None:
        """The run's mask of the image that an address means, or the predicted one of a further image; None for others.

        The mask has the size of the image's file.

        Raises:
            WeakCLIPError: a mask, an image or the network cannot be read.
        """
        entry = self._current().entry(address)
        other = self._find_other(address)
        if entry is not None or other is None:
            return entry
        return MaskEntry(address, self.predicted(self._others[other]))

    def sent(self, content: bytes) -> MaskEntry:
        """The mask of an image that came without a name.

        Where it is the very file of an image of the run, it is the run's own mask, otherwise the predicted one.

        Raises:
            DataError: no image.
            WeakCLIPError: as `named`.
        """
        loaded = self._current()
        name = loaded.file_with(content)
        entry = None if name is None else loaded.entry(name)
        if entry is not None:
            return entry
        try:
            image = read_rgb(io.BytesIO(content))
        except BrokenFileError as error:
            raise DataError(f"the image that was sent: {str(error).partition(': ')[2]}") from None
        return MaskEntry("", self.predicted(image))

    def predicted(self, image: np.ndarray | Path) -> np.ndarray:
        """The network's mask of an image, `(H, W)` uint8; of one image at a time.

        Raises:
            WeakCLIPError: the image or the network cannot be read.
        """
        loaded = self._current()
        with self._lock:
            loaded.predictor = loaded.predictor or load_predictor(self.run)
            return loaded.predictor(image).mask

    def _current(self) -> _LoadedRun:
        with self._lock:
            if self._loaded.stamps != _stamps(self.run):
                logger.info("serve: %s has changed; it is loaded anew", self.run)
                self._loaded = _LoadedRun(self.run)
            return self._loaded


class _LoadedRun:
    """A run as it is at one time."""

    def __init__(self, run: Path) -> None:
        self.stamps = _stamps(run)
        self.predictor: Predictor | None = None
        context = open_run(run)
        self.run, self.dataset, self.masks = run, context.train, context.folder("pseudo_masks") / MASKS
        self.find = image_finder(self.dataset.names)
        self._files = image_files(self.dataset)
        self._doubts = {each.index: each for each in queue(context)}

    def entry(self, address: str) -> MaskEntry | None:
        """The mask of an image, noted as given away; None where there is none."""
        name = self.find(address)
        path = self.masks / f"{name}.png"
        if name is None or not path.is_file():
            return None
        index = self.dataset.index_of(name)
        mask, size = read_mask(path), self.dataset.stored_size(index)
        note_exported(self.run, {name: mask_digest(mask)})
        stored = mask if mask.shape == size else resize_mask(mask, size)
        return MaskEntry(self._files[index], stored, self._doubts[index].doubt, self._doubts[index].reason)

    def file_with(self, content: bytes) -> str | None:
        """The image whose file has this content."""
        for name, file in self._files_by_size.get(len(content), ()):
            if file.read_bytes() == content:
                return name
        return None

    @functools.cached_property
    def _files_by_size(self) -> dict[int, list[tuple[str, AnyPath]]]:
        found = dict[int, list[tuple[str, AnyPath]]]()
        for index, name in enumerate(self.dataset.names):
            file = self.dataset.image_file(index)
            with contextlib.suppress(OSError):  # a file that is gone is none that was sent
                if file is not None:
                    found.setdefault(stamp_of(file).size, []).append((name, file))
        return found


def _stamps(run: Path) -> list[Stamp | None]:
    files = (run / CONFIG, run / MANIFEST)
    return [stamp_of(file) if file.is_file() else None for file in files]
