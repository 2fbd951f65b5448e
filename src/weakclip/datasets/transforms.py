"""Training augmentation: random resize, crop, flip and photometric distortion of an image and its mask.

The geometry is one affine box: the crop is chosen first, then only its source pixels are resized. The photometric
distortion is that of SSD (Liu et al., ECCV 2016): brightness, contrast, saturation and hue, each with probability 1/2.
Every step maps 8-bit values to 8-bit values, so it is a table of 256 entries a channel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import fit_factor
from weakclip.errors import ConfigError
from weakclip.store.ranges import SCALES, check_range

PAD_COLOR = (123, 117, 104)
"""RGB beside an image that is smaller than its crop: the mean colour of photographs, which the encoder's normalisation
brings to about 0, as the published recipe pads. Black would be a dark object with a hard edge."""

CROP_TRIES = 10
RESIZE_MARGIN = 4  # source pixels beside the window that the filter of a resize may reach
BRIGHTNESS = 32.0
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE_DEGREES = 36.0


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Numbers of the augmentation; the defaults are the published recipe (random resize 0.5 to 2, crop 512).

    Args:
        crop_size: side of the square result, pixels.
        scale: range of the random resize factor, within 0.1…100.
        fit_crop: factor 1 brings the image's shorter side to `crop_size` (the longer to eight crops at most);
            otherwise factor 1 keeps its size.
        flip: probability of a left-right flip, 0…1.
        photometric: whether colours are distorted as SSD does it.
        hsv_shift: instead, the most by which hue (of 180), saturation and value (of 255) are shifted, each by a random
            whole number; 0 for no shift.
        max_class_share: a crop is drawn again, up to ten times, while one class covers this share of its labelled
            pixels or more; 1 takes the first crop.
    """

    crop_size: int = 512
    scale: tuple[float, float] = (0.5, 2.0)
    fit_crop: bool = True
    flip: float = 0.5
    photometric: bool = True
    hsv_shift: int = 0
    max_class_share: float = 0.75

    def __post_init__(self) -> None:
        check_range(self, "crop_size", least=1)
        check_range(self, "flip", least=0, most=1)
        check_range(self, "max_class_share", above=0, most=1)
        check_range(self, "scale", **SCALES)
        if self.scale[0] > self.scale[1]:
            raise ConfigError(f"augmentation: scale is two factors in order; found {self.scale}")
        if not 0 <= self.hsv_shift <= 90 or (self.hsv_shift and self.photometric):
            raise ConfigError(
                f"augmentation: hsv_shift is 0 to 90, and 0 where photometric is true; found {self.hsv_shift} and "
                f"photometric {str(self.photometric).lower()}"
            )


def augment(
    image: np.ndarray, mask: np.ndarray, settings: AugmentSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One random view of an image and its mask; a function of the arguments and the state of `rng`.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        mask: `(H, W)` uint8 class indices, 255 where no class is given.
        settings: what is drawn, and how far.
        rng: source of every random number.

    Returns:
        image `(crop, crop, 3)` uint8 padded with `PAD_COLOR`, mask `(crop, crop)` uint8 padded with 255; resized
        bilinearly and by nearest neighbour.
    """
    assert image.shape[:2] == mask.shape
    assert image.dtype == mask.dtype == np.uint8
    crop = settings.crop_size
    size = _random_size(mask.shape, settings, rng)
    top, left = _random_corner(mask, size, settings, rng)
    height, width = min(crop, size[0]), min(crop, size[1])
    flip = rng.random() < settings.flip
    patch = _patch(image, size, (top, left, height, width), _colours(settings, rng))
    rows = _nearest(mask.shape[0], size[0], top, height)
    columns = _nearest(mask.shape[1], size[1], left, width)
    mask_patch = mask[rows[:, None], columns]
    image_out = np.empty((crop, crop, 3), dtype=np.uint8)
    image_out[:] = PAD_COLOR
    mask_out = np.full((crop, crop), IGNORE_INDEX, dtype=np.uint8)
    step = -1 if flip else 1
    image_out[:height, :width] = np.asarray(patch)[:, ::step]
    mask_out[:height, :width] = mask_patch[:, ::step]
    return image_out, mask_out


def photometric_distortion(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Random brightness, contrast, saturation and hue, each with probability 1/2, in SSD's order.

    Args:
        image: RGB.
        rng: source of every random number.

    Returns:
        RGB of the same size.
    """
    values = np.arange(256, dtype=np.float64)
    contrast_first, *chosen = rng.random(5) < 0.5
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS) if chosen[0] else 0.0
    contrast = rng.uniform(*CONTRAST) if chosen[1] else 1.0
    saturation = rng.uniform(*SATURATION) if chosen[2] else 1.0
    hue = rng.uniform(-HUE_DEGREES, HUE_DEGREES) * 256 / 360 if chosen[3] else 0.0
    brightened = _to_byte(values + brightness)
    image = image.point((_to_byte(brightened * contrast) if contrast_first else brightened).tolist() * 3)
    if chosen[2] or chosen[3]:
        turned = np.rint(values + hue).astype(np.int64) % 256
        table = [*turned.tolist(), *_to_byte(values * saturation).tolist(), *range(256)]
        image = image.convert("HSV").point(table).convert("RGB")
    return image if contrast_first else image.point(_to_byte(values * contrast).tolist() * 3)


def shifted_hsv(image: Image.Image, most: int, rng: np.random.Generator) -> Image.Image:
    """Hue, saturation and value shifted, each by a whole number from `-most` to `most`.

    As the repository with which the authors of WeakCLIP retrain has it (github.com/Yingyue-L/deeplabv1-resnet38,
    tools/datasets/transform.py, RandomHSV): always, the hue in steps of two degrees.

    Args:
        image: RGB.
        most: of 180 for the hue, of 255 for the others.
        rng: source of every random number.

    Returns:
        RGB of the same size.
    """
    values = np.arange(256)
    hue, saturation, value = rng.integers(-most, most + 1, size=3).tolist()
    turned = (values + round(hue * 256 / 180)) % 256
    table = [*turned.tolist(), *_to_byte(values + saturation).tolist(), *_to_byte(values + value).tolist()]
    return image.convert("HSV").point(table).convert("RGB")


def _colours(settings: AugmentSettings, rng: np.random.Generator) -> Callable[[Image.Image], Image.Image] | None:
    """The distortion of colours that the settings ask for."""
    if settings.photometric:
        return functools.partial(photometric_distortion, rng=rng)
    return functools.partial(shifted_hsv, most=settings.hsv_shift, rng=rng) if settings.hsv_shift else None


def _to_byte(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _random_size(shape: tuple[int, ...], settings: AugmentSettings, rng: np.random.Generator) -> tuple[int, int]:
    factor = rng.uniform(*settings.scale)
    if settings.fit_crop:
        factor *= fit_factor(shape, settings.crop_size)
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _random_corner(
    mask: np.ndarray, size: tuple[int, int], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[int, int]:
    crop = settings.crop_size
    free = max(0, size[0] - crop), max(0, size[1] - crop)
    tries = CROP_TRIES if any(free) and settings.max_class_share < 1 else 1
    for _ in range(tries):
        top, left = int(rng.integers(free[0] + 1)), int(rng.integers(free[1] + 1))
        if tries > 1:
            rows = slice(top * mask.shape[0] // size[0], -(-(top + crop) * mask.shape[0] // size[0]))
            columns = slice(left * mask.shape[1] // size[1], -(-(left + crop) * mask.shape[1] // size[1]))
            if largest_class_share(mask[rows, columns]) < settings.max_class_share:
                break
    return top, left


def largest_class_share(mask: np.ndarray) -> float:
    """The largest share of one class among the labelled pixels of a mask, 0…1; 1 where nothing is labelled.

    >>> largest_class_share(np.array([[0, 0, 0, 5], [255, 255, 255, 255]], dtype=np.uint8))
    0.75
    """
    counts = np.bincount(mask.ravel(), minlength=256)[:IGNORE_INDEX]
    total = counts.sum()
    return float(counts.max() / total) if total else 1.0


def _patch(
    image: np.ndarray,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    colours: Callable[[Image.Image], Image.Image] | None,
) -> Image.Image:
    """The window `box` (top, left, height, width) of the image resized to `size`; only what it shows is worked on.

    Colours are distorted where there are fewer pixels: before an enlargement, after a reduction.
    """
    top, left, height, width = box
    down, right = image.shape[0] / size[0], image.shape[1] / size[1]
    y0, x0, y1, x1 = top * down, left * right, (top + height) * down, (left + width) * right
    row, column = max(0, int(y0) - RESIZE_MARGIN), max(0, int(x0) - RESIZE_MARGIN)
    source = Image.fromarray(image[row : int(y1) + 1 + RESIZE_MARGIN, column : int(x1) + 1 + RESIZE_MARGIN])
    enlarged = source.width * source.height < height * width
    if colours and enlarged:
        source = colours(source)
    region = (x0 - column, y0 - row, min(x1 - column, source.width), min(y1 - row, source.height))
    patch = source.resize((width, height), Image.Resampling.BILINEAR, box=region)
    return colours(patch) if colours and not enlarged else patch


def _nearest(source: int, target: int, start: int, count: int) -> np.ndarray:
    """Source positions of `count` target pixels from `start`, at pixel centres."""
    positions = ((np.arange(start, start + count) + 0.5) * source / target).astype(np.int64)
    return positions.clip(0, source - 1)
