"""The augmentation of DeiT, with which MCTformer+ is trained: random resized crop, flip, RandAugment, random erasing.

References:
    Touvron et al., "Training data-efficient image transformers & distillation through attention" (DeiT), ICML 2021.
    Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", NeurIPS 2020.
    Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.
    github.com/xulianuwa/MCTformer, datasets.py and main.py, which takes timm's `rand-m9-mstd0.5-inc1`: fifteen
    operations, of which each is left out with probability 1/2, and whose strength grows with the magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from weakclip.clip.hub_files import IMAGENET_MEAN, IMAGENET_STD
from weakclip.errors import ConfigError
from weakclip.store.ranges import check_range

FILL = (124, 116, 104)
"""RGB of what a turned or shifted image leaves open: the mean colour."""

TRIES = 10
RATIO = (3 / 4, 4 / 3)
LARGEST, DEVIATION = 10.0, 0.5
"""Of a magnitude: the scale's end, and the standard deviation around the one that is set."""

ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)


@dataclass(frozen=True, kw_only=True)
class DeiTAugmentSettings:
    """Numbers of the augmentation; the defaults are those of the released MCTformer+.

    Args:
        crop_size: side of the square result, pixels.
        area: range of the share of the image that the crop shows, above 0, at most 1.
        flip: probability of a left-right flip, 0…1.
        operations: how many operations of RandAugment are drawn.
        magnitude: mean strength of an operation, 0…10.
        erase: probability that a rectangle is replaced by noise, 0…1.
    """

    crop_size: int = 448
    area: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    operations: int = 2
    magnitude: float = 9.0
    erase: float = 0.25

    def __post_init__(self) -> None:
        check_range(self, "crop_size", least=1)
        check_range(self, "operations", least=0)
        check_range(self, "flip", "erase", least=0, most=1)
        check_range(self, "magnitude", least=0, most=LARGEST)
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ConfigError(f"augmentation: area is two shares in order; found {self.area}")


def deit_augment(image: np.ndarray, settings: DeiTAugmentSettings, rng: np.random.Generator) -> np.ndarray:
    """One random view of an image; a function of the arguments and the state of `rng`.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        settings: what is drawn, and how far.
        rng: source of every random number.

    Returns:
        `(crop_size, crop_size, 3)` uint8.
    """
    side = settings.crop_size
    box = crop_box(image.shape[0], image.shape[1], settings.area, rng)
    view = Image.fromarray(image).crop(box).resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < settings.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for number in rng.integers(len(OPERATIONS), size=settings.operations).tolist():
        if rng.random() < 0.5:
            strength = min(max(rng.normal(settings.magnitude, DEVIATION), 0.0), LARGEST) / LARGEST
            view = OPERATIONS[number](view, strength, 1 if rng.random() < 0.5 else -1)
    pixels = np.array(view)
    if rng.random() < settings.erase:
        erase(pixels, rng)
    return pixels


def crop_box(height: int, width: int, area: tuple[float, float], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random part of an image: left, top, right, bottom. Its sides have a ratio of 3:4 to 4:3.

    Where no part of the drawn area fits ten times, the largest one in the middle whose ratio is allowed.
    """
    for _ in range(TRIES):
        size, ratio = rng.uniform(*area) * height * width, _log_uniform(RATIO, rng)
        w, h = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def erase(pixels: np.ndarray, rng: np.random.Generator) -> None:
    """Replace a rectangle by noise, normal in each normalised channel, cut to 8 bits.

    Args:
        pixels: `(H, W, 3)` uint8, changed in place; left as it is where no rectangle fits ten times.
        rng: source of every random number.
    """
    height, width = pixels.shape[:2]
    for _ in range(TRIES):
        size, ratio = rng.uniform(*ERASED_AREA) * height * width, _log_uniform(ERASED_RATIO, rng)
        h, w = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if h < height and w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            noise = 255 * (np.array(IMAGENET_MEAN) + np.array(IMAGENET_STD) * rng.standard_normal((h, w, 3)))
            pixels[top : top + h, left : left + w] = np.rint(noise).clip(0, 255)
            return


def _log_uniform(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))


def _moved(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=FILL
    )


def _table(image: Image.Image, values: np.ndarray) -> Image.Image:
    return image.point(values.clip(0, 255).astype(np.uint8).tolist() * 3)


_LEVELS = np.arange(256)

OPERATIONS: tuple[Callable[[Image.Image, float, int], Image.Image], ...] = (
    lambda image, strength, sign: ImageOps.autocontrast(image),
    lambda image, strength, sign: ImageOps.equalize(image),
    lambda image, strength, sign: ImageOps.invert(image),
    lambda image, strength, sign: image.rotate(sign * strength * 30, resample=Image.Resampling.BICUBIC, fillcolor=FILL),
    lambda image, strength, sign: _table(image, _LEVELS & ~(2 ** (4 + int(4 * strength)) - 1)),  # fewer bits
    lambda image, strength, sign: ImageOps.solarize(image, 256 - int(256 * strength)),
    lambda image, strength, sign: _table(image, np.where(_LEVELS < 128, _LEVELS + int(110 * strength), _LEVELS)),
    lambda image, strength, sign: ImageEnhance.Color(image).enhance(1 + sign * 0.9 * strength),
    lambda image, strength, sign: ImageEnhance.Contrast(image).enhance(1 + sign * 0.9 * strength),
    lambda image, strength, sign: ImageEnhance.Brightness(image).enhance(1 + sign * 0.9 * strength),
    lambda image, strength, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.9 * strength),
    lambda image, strength, sign: _moved(image, (1, sign * 0.3 * strength, 0, 0, 1, 0)),
    lambda image, strength, sign: _moved(image, (1, 0, 0, sign * 0.3 * strength, 1, 0)),
    lambda image, strength, sign: _moved(image, (1, 0, sign * 0.45 * strength * image.width, 0, 1, 0)),
    lambda image, strength, sign: _moved(image, (1, 0, 0, 0, 1, sign * 0.45 * strength * image.height)),
)
"""RandAugment's operations: image, strength 0…1 and sign to an image of the same size."""
