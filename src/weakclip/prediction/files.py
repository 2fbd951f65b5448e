"""Masks of many image files, into a folder: resumed, in batches of equal size, and past images that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from weakclip.annotations import MaskEntry, Shapes, write_coco
from weakclip.datasets.base import check_name
from weakclip.datasets.images import read_mask, read_rgb, write_mask
from weakclip.datasets.looks import overlay, screen_palette
from weakclip.errors import ConfigError, DataError
from weakclip.inference.windows import SharedNetwork, probabilities_bytes
from weakclip.prediction.batches import equal_sizes
from weakclip.prediction.folder import PredictionFolder, error_line, error_name
from weakclip.prediction.inputs import InputImage
from weakclip.prediction.predictor import Prediction, Predictor
from weakclip.store.files import atomic_write, writing
from weakclip.store.jobs import Again, Steps, work_through
from weakclip.store.keys import ResultKey, flat
from weakclip.store.layout import ERRORS
from weakclip.store.lines import LineLog
from weakclip.store.outputs import sending
from weakclip.store.progress import track
from weakclip.store.share import Shard, current
from weakclip.store.trees import AnyPath
from weakclip.store.untrusted_text import is_plain

Labels = Mapping[InputImage, Sequence[str]] | None
"""Names of the classes of every image, where they are known."""

LONGEST_NAME = 255 - len(".json")
"""Bytes of a name without its ending, on most file systems."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Files that are written beside the masks.

    Args:
        overlays: photos with the colours of the classes laid over them.
        coco: COCO files of all images, of run lengths (`annotations.masks.json`) and of polygons
            (`annotations.polygons.json`).
    """

    overlays: bool = False
    coco: tuple[Shapes, ...] = ()

    @classmethod
    def named(cls, names: Collection[str]) -> Outputs:
        """Those that `--also` names: "overlays", "coco-masks", "coco-polygons".

        >>> Outputs.named(["coco-masks"]).coco[0].kind
        'masks'
        """
        kinds = {"coco-masks": Shapes(kind="masks"), "coco-polygons": Shapes(kind="polygons")}
        return cls(overlays="overlays" in names, coco=tuple(shapes for name, shapes in kinds.items() if name in names))


@dataclass(frozen=True)
class PredictionSummary:
    """The result of a call.

    Args:
        out: the folder, or where it is at a URL.
        images: how many were named; of a shard, how many are its own.
        predicted: how many were predicted now.
        kept: how many were done already.
        failed: how many could not be read, or have no labels that fit; `errors.jsonl` lists them.
    """

    out: AnyPath
    images: int
    predicted: int
    kept: int
    failed: int


def predict_files(
    predictor: Predictor,
    images: Sequence[InputImage],
    out: Path | str,
    *,
    fingerprint: str,
    outputs: Outputs | None = None,
    labels: Labels = None,
    redo: bool = False,
    load: Callable[[str], Predictor] | None = None,
) -> PredictionSummary:
    """Write `masks/NAME.png` (palette) and `json/NAME.json` of every image, and what else is asked for.

    What is there already, made by the same network with the same settings of the same file, is kept. An image that
    cannot be read is passed over and listed in `errors.jsonl`. A shard (`weakclip.store.share`) makes its own images,
    and processes that work together share them; `merge_predictions` proves that all shards are there.

    Args:
        predictor: the network.
        images: from `find_images`.
        out: the folder; a new one, or one of an earlier call.
        fingerprint: of the network's files.
        outputs: what is written beside masks and JSON; nothing where left out.
        labels: names of the classes of every image: no others are drawn; an image without any is an error of its own.
        redo: whether predictions of another network, with other settings, or of another image that had the same name
            in an earlier call, are replaced.
        load: loads the same network in another process, from the device that process has, for an engine
            (`weakclip.store.jobs.working_by`); can be pickled.

    Raises:
        RunError: a foreign folder, or other predictions and no `redo`.
        StorageError: a place that cannot be written; the masks so far are kept.
        FolderInUseError: another process works in the folder.
        ConfigError: COCO files of a shard.
    """
    folder, outputs = PredictionFolder(Path(out)), outputs or Outputs()
    if outputs.coco and isinstance(current(), Shard):
        raise ConfigError(
            "--also coco-…: has all images; leave it out with --shard, and give the same command with it and without "
            "--shard when all shards are there"
        )
    settings = flat(predictor.settings, "predict")
    del settings["predict.device"]
    with writing(out), folder.lock():
        folder.begin(ResultKey(settings=settings, inputs={"network": fingerprint}), images, redo=redo)
        work = partial(_Work, folder=folder, outputs=outputs, labels=labels, redo=redo)
        with sending():
            return work(predictor).run(images, None if load is None else partial(_steps, work, load))


def _steps(
    work_of: Callable[[Predictor], _Work], load: Callable[[str], Predictor], device: str
) -> Steps[Any, Any, Any]:
    return work_of(load(device)).steps()


class _Work:
    """The steps of one call."""

    def __init__(
        self, predictor: Predictor, folder: PredictionFolder, outputs: Outputs, labels: Labels, *, redo: bool
    ) -> None:
        self.predictor, self.folder, self.outputs, self.labels, self.redo = predictor, folder, outputs, labels, redo
        self.log = LineLog(folder.path / ERRORS)

    def run(self, images: Sequence[InputImage], again: Again | None) -> PredictionSummary:
        """Predict what is not done, add overlays where they are missing, and write the COCO files."""
        share = current()
        own = [images[position] for position in share.positions(len(images))]
        done = {image for image in own if self.folder.is_done(image, self.labels_of(image))}
        work_through(
            images,
            is_done=done.__contains__,
            make=self.steps().from_items,
            finish=self.write,
            description="predicting",
            bytes_of=lambda each: each[2].nbytes,
            again=again,
        )
        self.log.refresh()
        failed = sum(error_name(image) in self.log for image in own)
        if self.outputs.overlays:
            work_through(
                images,
                is_done=lambda image: image not in done or self.folder.overlay(image).is_file(),
                make=iter,
                finish=self.add_overlay,
                description="overlays",
            )
        share.once(lambda: self.close(images))
        counts = np.array([len(own), len(own) - len(done) - failed, len(done), failed])
        return PredictionSummary(self.folder.path, *share.sum(counts).tolist())

    def close(self, images: Sequence[InputImage]) -> None:
        """Write the files of all images: the errors in the order of the images, and the COCO files."""
        self.log.refresh()
        failed = {image for image in images if error_name(image) in self.log}
        self.folder.close(self.log, [image for image in images if image in failed])
        good = [image for image in images if image not in failed]
        for shapes in self.outputs.coco:
            entries = (MaskEntry(image.file_name, read_mask(self.folder.mask(image))) for image in good)
            path = self.folder.path / f"annotations.{shapes.kind}.json"
            write_coco(path, track(entries, path.name, total=len(good)), self.predictor.class_set, shapes)

    def labels_of(self, image: InputImage) -> Sequence[str] | None:
        """The classes of an image; None where all may be drawn."""
        return None if self.labels is None else self.labels.get(image, ())

    def steps(self) -> Steps[InputImage, tuple[InputImage, np.ndarray | DataError], Any]:
        """The parts of the work on an image; as many threads read as there are cores, for photos are large."""
        in_turn, device = not isinstance(self.predictor.logits_of, SharedNetwork), self.predictor.device
        return Steps(self.read, self.predicted, self.write, device, readers=None, in_turn=in_turn, bytes_of=self._bytes)

    def predicted(
        self, images: Iterable[tuple[InputImage, np.ndarray | DataError]]
    ) -> Iterator[tuple[InputImage, np.ndarray, np.ndarray]]:
        """Each image that can be read, with its pixels and probabilities.

        On a CPU, where a batch gains nothing, images go one by one: their bits do not depend on those beside them.
        """
        on_cpu = torch.device(self.predictor.device).type == "cpu"
        together = 1 if on_cpu else self.predictor.settings.inference.batch_size
        for batch in equal_sizes(self._readable(images), together):
            probs = self.predictor.probabilities([pixels for _, pixels in batch])
            for image, pixels in batch:
                yield image, pixels, probs.pop(0)  # kept here, they would lie beside those of the next batch

    def _bytes(self, read: tuple[InputImage, np.ndarray | DataError]) -> int:
        pixels = read[1]
        return 0 if isinstance(pixels, DataError) else probabilities_bytes(pixels, self.predictor.class_set.num_classes)

    def read(self, image: InputImage) -> tuple[InputImage, np.ndarray | DataError]:
        """The pixels of an image, or why it has no prediction."""
        other = self.folder.other_image(image)
        try:
            if not is_plain(str(image.path)):
                raise DataError(f"{image.path}: the name has a control character or is no UTF-8; rename it")
            check_name(image.name)
            if len(os.fsencode(Path(image.name).name)) > LONGEST_NAME:
                raise DataError(f"{image.path}: the name is too long for its results; rename it")
            if other is not None and not self.redo:
                raise DataError(
                    f"{image.path}: would replace the mask of {other}; name both in one call, choose another --out, "
                    "or add --redo"
                )
            if self.labels is not None:
                names = self.labels.get(image)
                if names is None:
                    raise DataError(f"{image.path}: no labels of this image; add a row to the labels file")
                self._check(image, names)
            return image, read_rgb(image.path)
        except DataError as error:
            return image, error

    def _check(self, image: InputImage, names: Sequence[str]) -> None:
        try:
            self.predictor.class_set.foreground_indices(names)
        except DataError as error:
            raise DataError(f"{image.path}: {error}; correct the labels file") from None

    def _readable(
        self, read: Iterable[tuple[InputImage, np.ndarray | DataError]]
    ) -> Iterator[tuple[InputImage, np.ndarray]]:
        for image, pixels in read:
            if isinstance(pixels, DataError):
                self.log.add(error_line(image, pixels))
            else:
                yield image, pixels

    def write(self, made: tuple[InputImage, np.ndarray, np.ndarray]) -> None:
        """The files of one image."""
        image, pixels, probs = made
        names, class_set = self.labels_of(image), self.predictor.class_set
        indices = None if names is None else class_set.foreground_indices(names)
        prediction: Prediction = self.predictor.finish(pixels, probs, indices)
        self.folder.forget(image)
        write_mask(self.folder.mask(image), prediction.mask, class_set.palette)
        if self.outputs.overlays:
            self._write_overlay(image, pixels, prediction.mask)
        self.folder.write_facts(image, prediction, class_set, names)

    def add_overlay(self, image: InputImage) -> None:
        """The overlay of an image whose mask is there."""
        self._write_overlay(image, read_rgb(image.path), read_mask(self.folder.mask(image)))

    def _write_overlay(self, image: InputImage, pixels: np.ndarray, mask: np.ndarray) -> None:
        shown = overlay(pixels, mask, screen_palette(self.predictor.class_set))
        with atomic_write(self.folder.overlay(image)) as file:
            Image.fromarray(shown).save(file, format="JPEG", quality=90)
