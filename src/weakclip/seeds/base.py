"""Seeds: from class activation maps to masks that say only what is sure.

One scheme, that of CLIP-ES (Lin et al., CVPR 2023, released code): the background scores `(1 - max_k CAM_k)^power`; all
scores are normalised to probabilities and sharpened by the dense CRF; a pixel becomes a seed of its most probable
class where that probability reaches a threshold, and 255 elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from weakclip.crf import COCO_CRF, Refinement, refine
from weakclip.datasets import Sample
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.errors import DataError
from weakclip.store.ranges import check_range

_FLOOR = 1e-5  # of a score, as in pydensecrf.utils.unary_from_softmax: no class is ever quite ruled out


@dataclass(frozen=True)
class CAM:
    """Class activation maps of one image.

    Args:
        classes: ascending indices of foreground classes, among the image's labels.
        maps: `(n, H, W)` float32, 0…1, one a class, at the size of the image.
        background_power: exponent of the background score that suits such maps; taken where the settings name none.
    """

    classes: tuple[int, ...]
    maps: np.ndarray
    background_power: float = 1.0


def mirrored_cam(cam: CAM) -> CAM:
    """The maps with left and right exchanged."""
    return dataclasses.replace(cam, maps=np.ascontiguousarray(cam.maps[:, :, ::-1]))


def mean_cam(cams: Sequence[CAM]) -> CAM:
    """The mean of several maps of one image and its classes; a single one stays as it is."""
    if len(cams) == 1:
        return cams[0]
    return dataclasses.replace(cams[0], maps=np.mean([cam.maps for cam in cams], axis=0))


@dataclass(frozen=True, kw_only=True)
class SeedSettings:
    """How class activation maps become a seed mask.

    Args:
        background_power: exponent of the background score `(1 - max CAM)^power`; larger means less background. None
            takes what suits the maps, as their method says: 1 for most.
        foreground_confidence: probability, 0…1, from which a foreground pixel is a seed (CLIP-ES: 0.95).
        background_confidence: the same for a background pixel (CLIP-ES: 0.95).
        crf: dense CRF, or PAR, on the probabilities, None for none (CLIP-ES: the parameters of `COCO_CRF`).
    """

    background_power: float | None = None
    foreground_confidence: float = 0.95
    background_confidence: float = 0.95
    crf: Refinement | None = COCO_CRF

    def __post_init__(self) -> None:
        check_range(self, "background_power", least=0)
        check_range(self, "foreground_confidence", "background_confidence", least=0, most=1)


@dataclass(frozen=True)
class SeedMasks:
    """Seeds of one image.

    Args:
        seed: `(H, W)` uint8, class indices where they are sure, 255 between: what training sees.
        dense: `(H, W)` uint8, the most probable class everywhere: what is scored.
    """

    seed: np.ndarray
    dense: np.ndarray


class SeedMethod(Protocol):
    """Anything that gives class activation maps of a sample.

    Those of this package keep nothing of a sample: on a CPU several threads ask for maps at once. An object of one's
    own (`run_pipeline(seed_method=…)`) gets one sample after the other.
    """

    def cam(self, sample: Sample) -> CAM:
        """Maps of the classes among the sample's labels."""
        ...


@runtime_checkable
class BatchedSeedMethod(SeedMethod, Protocol):
    """A seed method that is faster where it gets several samples at once."""

    @property
    def batch_size(self) -> int:
        """How many samples are worth giving to `cams` at once."""
        ...

    def cams(self, samples: Sequence[Sample]) -> list[CAM]:
        """The maps of several samples, as `cam` gives them; rounding may differ."""
        ...


def attention_bytes(image: np.ndarray) -> int:
    """About what the attention maps of an image `(H, W, 3)` take in memory: four of 12 heads, patches of 16 pixels.

    >>> attention_bytes(np.zeros((384, 512, 3), np.uint8))
    113246208
    """
    patches = image.shape[0] * image.shape[1] // 256
    return 4 * 12 * 4 * patches**2


def seed_probabilities(cam: CAM, background_power: float = 1.0) -> np.ndarray:
    """Probabilities of the background and of the classes of `cam`, before any CRF.

    Args:
        cam: maps of `n` classes.
        background_power: exponent of `(1 - max CAM)^power`.

    Returns:
        `(1+n, H, W)` float32, the background first, summing to 1 over the first axis.
    """
    return normalized_scores(np.concatenate([background_score(cam, background_power), cam.maps]))


def background_score(cam: CAM, power: float) -> np.ndarray:
    """`(1 - max CAM)^power`, `(1, H, W)` float32, 0…1; 1 throughout where there is no class."""
    strongest = cam.maps.max(axis=0, keepdims=True, initial=0.0)
    score: np.ndarray = ((1 - strongest) ** power).astype(np.float32)
    return score


def normalized_scores(scores: np.ndarray) -> np.ndarray:
    """Scores, 0 and up, as probabilities: floored a little above 0 and summing to 1 over the first axis, float32."""
    floored = scores + _FLOOR
    probabilities: np.ndarray = (floored / floored.sum(axis=0, keepdims=True)).astype(np.float32)
    return probabilities


def seed_masks(sample: Sample, cam: CAM, settings: SeedSettings, *, device: str = "cpu") -> SeedMasks:
    """Seed mask of one image: confident foreground, confident background, 255 between.

    Args:
        sample: the image and its labels.
        cam: its class activation maps; a sample without labels has none and is background throughout.
        settings: thresholds and the dense CRF.
        device: where PAR runs, if the settings ask for it.

    Returns:
        `SeedMasks` at the size of the image.

    Raises:
        DataError: maps of another size than the image, or of classes that the labels do not name.
    """
    size = sample.image.shape[:2]
    if cam.maps.shape != (len(cam.classes), *size):
        raise DataError(f"{sample.name}: CAMs {cam.maps.shape} do not fit {len(cam.classes)} classes and image {size}")
    if not set(cam.classes) <= set(sample.labels):
        raise DataError(f"{sample.name}: CAMs of classes {cam.classes}, but the labels are {sample.labels}")
    power = cam.background_power if settings.background_power is None else settings.background_power
    return sharpened_masks(sample, seed_probabilities(cam, power), cam.classes, settings, device=device)


def sharpened_masks(
    sample: Sample, probabilities: np.ndarray, classes: tuple[int, ...], settings: SeedSettings, *, device: str = "cpu"
) -> SeedMasks:
    """Seeds from probabilities: the dense CRF, where the settings name one, and then `masks_from_probabilities`."""
    if settings.crf is not None and classes:
        probabilities = refine(sample.image, probabilities, settings.crf, device=device)
    return masks_from_probabilities(probabilities, classes, settings)


def masks_from_probabilities(probabilities: np.ndarray, classes: tuple[int, ...], settings: SeedSettings) -> SeedMasks:
    """Seeds where the most probable class is sure enough.

    Args:
        probabilities: `(1+n, H, W)`, the background first.
        classes: the `n` foreground class indices.
        settings: thresholds.
    """
    indices = np.array([0, *classes], dtype=np.uint8)
    dense = indices[probabilities.argmax(axis=0)]
    needed = np.where(dense == 0, settings.background_confidence, settings.foreground_confidence)
    seed = np.where(probabilities.max(axis=0) >= needed, dense, IGNORE_INDEX).astype(np.uint8)
    return SeedMasks(seed=seed, dense=dense)
