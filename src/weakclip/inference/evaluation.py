"""Scores of masks and networks against the true masks. Nothing of what `weakclip run` trains reads them, but `--full`.

Every score says what it is about: the split, how many images, and whether dense CRF and several scales were used.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weakclip.crf import Refinement, describe_refinement
from weakclip.datasets.base import ImageLabelDataset, Sample
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import read_mask, write_mask
from weakclip.errors import DataError
from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.inference.metrics import ConfusionMatrix
from weakclip.inference.pseudo_masks import PseudoMaskSettings, RefinedMask
from weakclip.inference.windows import InferenceSettings, LogitsFunction
from weakclip.store.files import write_json
from weakclip.store.layout import MASKS
from weakclip.store.progress import track
from weakclip.store.share import current

NOT_USED = "no"

WITHOUT_CRF = "masks_without_crf"
"""Folder of a network's predictions before the dense CRF, beside `masks`."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One row of the results: what was scored, on what, and how it was made.

    Args:
        subject: what was scored ("seeds", "pseudo masks", "WeakCLIP", "retrained network", …).
        split: the list of images it was scored on.
        images: how many images.
        crf: the dense CRF it went through, in words; "no" where there was none.
        multi_scale: the scales and the flip it was averaged over, in words; "no" where there was one pass.
        mean_iou: mean over the classes that occur in prediction or truth, 0…1.
        pixel_accuracy: share of right pixels, 0…1.
        iou: per class name, 0…1; None where the class occurs neither in prediction nor in truth.
        precision: per class name, 0…1; None where the class is never predicted.
        recall: per class name, 0…1; None where the class never occurs.
    """

    subject: str
    split: str
    images: int
    crf: str
    multi_scale: str
    mean_iou: float
    pixel_accuracy: float
    iou: dict[str, float | None]
    precision: dict[str, float | None]
    recall: dict[str, float | None]


def describe_crf(params: Refinement | None) -> str:
    """A dense CRF in a few words.

    >>> from weakclip.crf import VOC_CRF
    >>> describe_crf(VOC_CRF)
    'sxy 3 weight 3, sxy 83 srgb 5 weight 3, 10 iterations'
    """
    return NOT_USED if params is None else describe_refinement(params)


def describe_scales(settings: InferenceSettings) -> str:
    """The passes of an inference in a few words.

    >>> describe_scales(InferenceSettings(scales=(1.0,), flip=True))
    'scales 1 and flip'
    >>> describe_scales(InferenceSettings(scales=(1.0,), flip=False))
    'no'
    """
    if settings.scales == (1.0,) and not settings.flip:
        return NOT_USED
    scales = f"scales {', '.join(f'{scale:g}' for scale in settings.scales)}{' and flip' if settings.flip else ''}"
    return scales + (", mean of logits" if settings.average == "logits" else "")


def score_masks(
    folder: Path | str,
    dataset: ImageLabelDataset,
    *,
    subject: str,
    crf: str = NOT_USED,
    multi_scale: str = NOT_USED,
    verified: Container[str] = (),
) -> tuple[Scores, ...]:
    """Score `folder/NAME.png` against the true masks, in one confusion matrix over the data set.

    Processes that work together count the pixels of their images each; the sums are exact, and the same in all.
    Every pixel of a scored mask has a class. Maps with 255 between confident seeds are for training; of those the
    dense map is scored. Images without a true mask are left out and not counted.

    Args:
        folder: one palette or grey PNG an image.
        dataset: with true masks.
        subject: what is scored, in words.
        crf: the dense CRF behind the masks, in words (`describe_crf`).
        multi_scale: the passes behind the masks, in words (`describe_scales`).
        verified: images whose masks a person has drawn; in these 255 counts as background, as in the dense maps.

    Returns:
        The row of the whole data set. Where it has a `labelled_list` and images without labels, the row of those with
        labels after it.

    Raises:
        DataError: no true masks, a mask that is missing or of another size, or another one that holds 255.
    """
    folder, share = Path(folder), current()
    labelled, whole = (ConfusionMatrix(dataset.class_set.num_classes) for _ in range(2))
    counts = np.zeros(2, dtype=np.int64)  # of images with true masks: without labels that count twice, and with them
    own = share.positions(len(dataset))
    for index in track(own, f"scoring {subject}", total=len(own)) if share.is_main else own:
        target = dataset.mask(index)
        if target is not None:
            name = dataset.names[index]
            counts_twice = bool(dataset.labelled_list and dataset.labels(index))
            matrix = labelled if counts_twice else whole
            _add(matrix, folder / f"{name}.png", target, undecided=name in verified)
            counts[int(counts_twice)] += 1
    labelled.matrix, whole.matrix, counts = map(share.sum, (labelled.matrix, whole.matrix, counts))
    whole.merge(labelled)
    if not whole.matrix.any():
        raise DataError(f"split {dataset.split!r} has no true masks with classes; nothing to score {subject} against")
    lists = [(dataset.split, whole, int(counts.sum()))]
    lists += [(dataset.labelled_list, labelled, int(counts[1]))] if counts.all() else []
    row = functools.partial(Scores, subject=subject, crf=crf, multi_scale=multi_scale)
    names = dataset.class_set.names
    return tuple(row(split=split, images=images, **_numbers(matrix, names)) for split, matrix, images in lists)


def score_network(
    logits_of: LogitsFunction,
    dataset: ImageLabelDataset,
    folder: Path | str,
    settings: PseudoMaskSettings,
    *,
    subject: str = "network",
    device: str | torch.device = "cpu",
) -> tuple[Scores, ...]:
    """Predict every image of a split and score the predictions; image-level labels are not used.

    The predictions are in `folder/masks`; where a dense CRF sharpens them, those before it are in
    `folder/masks_without_crf`. What is there already is taken as it is.

    Args:
        logits_of: the network in evaluation mode, `(B, 3, h, w)` uint8 to logits `(B, K, h', w')`.
        dataset: with true masks.
        folder: gets the predictions as palette PNGs.
        settings: inference and dense CRF; any class may be drawn, whatever they say of labels.
        subject: what is scored, in words.
        device: where the network is.

    Returns:
        The row without a dense CRF, and after it, unless the settings have none, the row with it; two rows each where
        the data set has two lists (`score_masks`).

    Raises:
        DataError: as `score_masks`.
    """
    folder = Path(folder)
    before = folder / WITHOUT_CRF

    def keep(sample: Sample, refined: RefinedMask) -> None:
        write_mask(before / f"{sample.name}.png", refined.network_mask, dataset.class_set.palette)

    def make_way() -> None:
        for name in dataset.names:
            if not (before / f"{name}.png").is_file():
                (folder / MASKS / f"{name}.png").unlink(missing_ok=True)  # made again, both of them

    crf = settings.crf
    if crf is not None:
        current().once(make_way)
    settings = dataclasses.replace(settings, restrict_to_labels=False, confidence=False)
    note = f"predicting {dataset.split}"
    observe = None if crf is None else keep
    write_pseudo_masks(logits_of, dataset, folder, settings, device=device, description=note, observe=observe)
    scales = describe_scales(settings.inference)
    if crf is None:
        return score_masks(folder / MASKS, dataset, subject=subject, multi_scale=scales)
    plain = score_masks(before, dataset, subject=subject, multi_scale=scales)
    return plain + score_masks(folder / MASKS, dataset, subject=subject, crf=describe_crf(crf), multi_scale=scales)


def write_scores(path: Path | str, scores: Sequence[Scores], *, notes: Mapping[str, Any] | None = None) -> None:
    """Write `{"scores": [...]}`, and notes beside it; what has no value is null."""
    write_json(path, {"scores": [dataclasses.asdict(score) for score in scores], **(notes or {})})


def _add(matrix: ConfusionMatrix, path: Path, target: np.ndarray, *, undecided: bool) -> None:
    mask = read_mask(path)
    if undecided:
        mask[mask == IGNORE_INDEX] = 0
    if mask.shape != target.shape:
        raise DataError(f"{path}: mask of {mask.shape}, but the true mask has {target.shape}; make the masks again")
    if (mask == IGNORE_INDEX).any():
        raise DataError(f"{path}: holds {IGNORE_INDEX}, no class; a map for training is not scored, its dense map is")
    try:
        matrix.update(mask, target)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _numbers(matrix: ConfusionMatrix, names: Sequence[str]) -> dict[str, Any]:
    def by_name(values: np.ndarray) -> dict[str, float | None]:
        known = (None if math.isnan(value) else round(value, 6) for value in values.tolist())
        return dict(zip(names, known, strict=True))

    return {
        "mean_iou": round(matrix.mean_iou(), 6),
        "pixel_accuracy": round(matrix.pixel_accuracy(), 6),
        "iou": by_name(matrix.iou()),
        "precision": by_name(matrix.precision()),
        "recall": by_name(matrix.recall()),
    }
