"""Figures and a strip of small pictures of every training image, for the report: made beside the masks, and resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from weakclip.datasets import ImageLabelDataset, Sample
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import read_mask
from weakclip.inference.mask_statistics import STATISTICS, class_means, compare_masks, statistics_line
from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.inference.pseudo_masks import PseudoMaskSettings, RefinedMask
from weakclip.inference.windows import InferenceSettings, LogitsFunction
from weakclip.pipeline.pictures import write_strip
from weakclip.store.files import write_json
from weakclip.store.jobs import work_through
from weakclip.store.layout import CAPTIONS, MASKS, PREDICTIONS, STRIPS, strip_path
from weakclip.store.lines import LineLog
from weakclip.store.share import current


class MaskRecorder:
    """Writes down every pseudo mask as it is made: one line in `statistics.jsonl`, one strip of image, seed and mask.

    Args:
        dataset: the training split.
        seeds: folder of the seed masks.
        dense: folder of the dense seeds.
        folder: the stage's folder.
    """

    def __init__(self, dataset: ImageLabelDataset, *, seeds: Path, dense: Path, folder: Path) -> None:
        self.dataset, self.seeds, self.dense, self.folder = dataset, seeds, dense, folder
        self.log = LineLog(folder / STATISTICS)

    def add(self, sample: Sample, refined: RefinedMask) -> None:
        """Note one mask and how it came about; any thread may call this."""
        self._record(sample, refined.mask, refined)

    def finish(self) -> None:
        """Note the masks that were made without being noted, from their files, and put the lines in order: in one
        process, when all masks are there."""
        write_json(self.folder / STRIPS / CAPTIONS, ["image", "seed", "pseudo mask"])
        self.log.refresh()
        for index, name in enumerate(self.dataset.names):
            if name not in self.log or not strip_path(self.folder, name).is_file():
                self._record(self.dataset[index], read_mask(self.folder / MASKS / f"{name}.png"), None)
        self.log.finish(self.dataset.names)

    def _record(self, sample: Sample, mask: np.ndarray, refined: RefinedMask | None) -> None:
        seed, dense = (read_mask(folder / f"{sample.name}.png") for folder in (self.seeds, self.dense))
        statistics = compare_masks(sample.name, sample.labels, {"seed": seed, "dense": dense, "mask": mask})
        if refined is not None:
            statistics = dataclasses.replace(
                statistics,
                confidence=round(float(refined.network_confidence.mean()), 4),
                class_confidence=class_means(refined.network_confidence, mask),
                crf_change=round(float((refined.network_mask != mask).mean()), 4),
                votes=refined.votes,
            )
        self.log.add(statistics_line(statistics))
        write_strip(strip_path(self.folder, sample.name), sample.image, (None, seed, mask), self.dataset.class_set)


def compare_stages(
    dataset: ImageLabelDataset,
    folder: Path,
    logits_of: LogitsFunction,
    inference: InferenceSettings,
    *,
    seeds: Path,
    masks: Path,
    device: str,
) -> None:
    """Predict the training split without labels, one pass an image; compare seed, mask and prediction.

    True masks, where there are any, are compared too, and change nothing else. Writes `statistics.jsonl`, strips and
    `train_predictions/masks`; what is there already is passed over.

    Args:
        dataset: the training split.
        folder: the evaluation's folder.
        logits_of: the network that the run hands over.
        inference: how it predicts, but for scales and flip: the comparison is worth one pass.
        seeds: folder of the seed masks.
        masks: folder of the pseudo masks.
        device: where the network is.
    """
    one_pass = dataclasses.replace(inference, scales=(1.0,), flip=False)
    settings = PseudoMaskSettings(inference=one_pass, crf=None, restrict_to_labels=False)
    predictions, note = folder / PREDICTIONS, f"predicting {dataset.split}"
    write_pseudo_masks(logits_of, dataset, predictions, settings, device=device, description=note)
    folders = {"seed": seeds, "mask": masks, "prediction": predictions / MASKS}
    log = LineLog(folder / STATISTICS)

    def is_done(index: int) -> bool:
        return dataset.names[index] in log and strip_path(folder, dataset.names[index]).is_file()

    work_through(
        range(len(dataset)),
        is_done=is_done,
        make=iter,
        finish=lambda index: _compare(dataset, index, folders, log),
        description="comparing",
    )

    def close() -> None:
        log.finish(dataset.names)
        write_json(folder / STRIPS / CAPTIONS, ["prediction", "truth"] if dataset.has_masks else ["prediction"])

    current().once(close)


def _compare(dataset: ImageLabelDataset, index: int, folders: dict[str, Path], log: LineLog) -> None:
    name, truth, image = dataset.names[index], dataset.mask(index), dataset.image(index)
    masks = {kind: read_mask(where / f"{name}.png") for kind, where in folders.items()}
    if truth is not None:
        masks["truth"] = truth
    log.add(statistics_line(compare_masks(name, dataset.labels(index), masks)))
    shown = [masks["prediction"]]
    if dataset.has_masks:
        shown.append(masks.get("truth", np.full(image.shape[:2], IGNORE_INDEX, np.uint8)))
    write_strip(strip_path(log.path.parent, name), image, shown, dataset.class_set)
