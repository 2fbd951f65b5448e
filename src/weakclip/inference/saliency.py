"""Saliency: maps of what stands out in each image, made elsewhere, tell objects from what is around them.

Networks of salient objects (U²-Net, Qin et al., Pattern Recognition 2020) are taught with pixel masks of objects of no
class: with their maps a run has more supervision than image-level labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from weakclip.datasets.base import ImageLabelDataset, Sample
from weakclip.datasets.image_files import opened_image
from weakclip.datasets.images import upright
from weakclip.errors import BrokenFileError, ConfigError, DataError
from weakclip.store.files import expand_home
from weakclip.store.untrusted_text import short

DOUBT = 0.05
"""Probability that a map is wrong where it is surest."""

SALIENT = 0.5
"""Share of the highest class's mean saliency from which a class stands out."""

KNOWN = 0.1
"""The least mean saliency of the highest class: with less, the map does not know the image's classes."""


@dataclass(frozen=True, kw_only=True)
class SaliencySettings:
    """Where saliency maps come from, and how much they count.

    Args:
        folder: grey PNGs `NAME.png`, 0…255 of 8 bits, of the size of the images' files.
        weight: power of the maps, beside probabilities that `temperature` has divided; above 0.
    """

    folder: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"saliency: a weight above 0 expected; found {self.weight}")


class SaliencyMaps:
    """The maps of a folder. An image without one has none.

    Raises:
        DataError: no such folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = expand_home(folder)
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder; expected saliency maps (pseudo_masks.saliency.folder)")

    def missing(self, names: Sequence[str]) -> list[str]:
        """The images without a map.

        Raises:
            DataError: none of them has one: another folder was meant, or other names.
        """
        without = [name for name in names if not (self.folder / f"{name}.png").is_file()]
        if names and len(without) == len(names):
            found = sorted(path.name for path in self.folder.iterdir())[:3]
            said = f"; found {short(found)}" if found else ""
            raise DataError(f"{self.folder}: maps of none of the {len(names):,} images; expected {names[0]}.png{said}")
        return without

    def of_sample(self, dataset: ImageLabelDataset, sample: Sample) -> np.ndarray | None:
        """`(H, W)` float32, 0…1, at the size that the image is read with.

        Raises:
            BrokenFileError: a map of another size than the image's file.
            DataError: it cannot be read, or has colours.
        """
        path, stored = self.folder / f"{sample.name}.png", dataset.stored_size(dataset.index_of(sample.name))
        if not path.is_file():
            return None
        values = _grey(path)
        if values.shape != stored:
            raise BrokenFileError(f"{path}: a map of {values.shape}; expected the size of the image, {stored}")
        height, width = sample.image.shape[:2]
        resized = Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.float32) / 255


def _grey(path: Path) -> np.ndarray:
    """`(H, W)` uint8, 0…255: a grey image, also one that a program has stored with fewer bits or as a palette of greys.

    Raises:
        BrokenFileError: it cannot be read, has colours, or no value above 1, as class indices and shares 0…1 have.
    """
    with opened_image(path) as image:
        image.load()
        turned = upright(image)
        greys = turned.mode in ("1", "L")
        if turned.mode == "P":
            colours = np.array(turned.getpalette("RGB") or [0, 0, 0], dtype=np.uint8).reshape(-1, 3)
            greys = bool((colours == colours[:, :1]).all())
        if not greys:
            kind = "a palette of colours" if turned.mode == "P" else turned.mode
            raise BrokenFileError(f"{path}: {kind}; expected a saliency map, grey, 0 to 255 of 8 bits; convert it")
        values = np.array(turned.convert("L"))
    if values.max() == 1:
        raise BrokenFileError(f"{path}: no value above 1; expected a saliency map, 0 to 255; multiply it by 255")
    return values


def with_saliency(rows: np.ndarray, saliency: np.ndarray, weight: float, *, known: bool = True) -> np.ndarray:
    """Probabilities after a saliency map has been heard: a product of two experts.

    Each class stands out or is around what stands out. The background is around. Another class stands out where its
    mean saliency, `sum(P_k s) / sum(P_k)` over the image, is at least `SALIENT` of the highest: a sofa behind a cat is
    around. Then `P_k s^w` for classes that stand out and `P_k (1 - s)^w` for the others, divided by their sum, with `s`
    held within `DOUBT` of 0 and 1. A map with less than `KNOWN` for the highest class changes nothing.

    Args:
        rows: `(n, H, W)` float, probabilities of the classes, the background first.
        saliency: `(H, W)` float, 0…1.
        weight: `w`, above 0.
        known: whether the image is known to show all of these classes; otherwise the highest is sought among those that
            win a pixel, for the others' few probabilities may lie anywhere.

    Returns:
        `(n, H, W)` float32, summing to 1.

    >>> rows = np.full((2, 1, 2), 0.5)
    >>> with_saliency(rows, np.array([[0.0, 0.8]]), 1.0)[1].round(2).tolist()
    [[0.05, 0.8]]
    """
    if len(rows) < 2:
        return rows
    means = (rows * saliency).sum(axis=(1, 2)) / rows.sum(axis=(1, 2))
    shown = np.arange(len(rows)) if known else np.unique(rows.argmax(axis=0))
    highest = means[shown[shown > 0]].max(initial=0)
    if highest < KNOWN:
        return rows
    around = means < SALIENT * highest
    around[0] = True
    held = saliency.clip(DOUBT, 1 - DOUBT).astype(np.float32)
    logs = np.log(np.stack([1 - held, held])) * np.float32(weight)
    of_around, of_salient = np.exp(logs - logs.max(axis=0))  # the larger is 1: a great weight leaves no sum of 0
    heard: np.ndarray = rows * np.where(around[:, None, None], of_around, of_salient)
    return heard / heard.sum(axis=0, keepdims=True)
