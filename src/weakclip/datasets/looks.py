"""How masks look on a photo: colours that show on any, and outlines. The files keep the colours of the data set.

Colours are chosen in OKLab (Björn Ottosson, "A perceptual color space for image processing", 2020), where equal
distances look equal: each one as far as possible from those before it, and from white, grey and black.
"""

from __future__ import annotations

import functools

import numpy as np

from weakclip.datasets.classes import IGNORE_INDEX, ClassSet, voc_palette

FILL = 0.5
"""Weight of a class's colour inside its region, 0…1."""

HALO = np.array([12, 12, 12], dtype=np.uint8)
"""Colour of the line outside of an outline: with the bright line inside of it, one of both shows on any photo."""

_HALO_WEIGHT = 0.85
_OUTLINE = 512  # an outline is a pixel wide for that many of the longer side
_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)


def screen_palette(class_set: ClassSet) -> np.ndarray:
    """`(256, 3)` uint8: of each class the colour on the screen. Colours that a person has given to classes stay.

    >>> screen_palette(ClassSet.from_foreground(["cat"]))[0].tolist()
    [0, 0, 0]
    """
    palette, default, bright = class_set.palette, voc_palette(), _bright_colors()
    usual = (palette == default).all(axis=1)
    usual[[0, IGNORE_INDEX]] = False
    palette[usual] = bright[usual]
    return palette


@functools.cache
def _bright_colors() -> np.ndarray:
    """`(256, 3)` uint8; the first one is black and stands for the background."""
    light, hue = np.meshgrid([0.65, 0.72, 0.79, 0.86], np.deg2rad(np.arange(0, 360, 5)), indexing="ij")
    found = [_most_colourful(*pair) for pair in zip(light.ravel(), hue.ravel(), strict=True)]
    labs = np.array([lab for lab, _ in found])
    distances = np.linalg.norm(labs[:, None] - np.array([[1, 0, 0], [0.6, 0, 0], [0, 0, 0]])[None], axis=2).min(axis=1)
    order = [int(np.argmax(labs[:, 1]))]  # a red, then the farthest from all before
    while len(order) < 255:
        distances = np.minimum(distances, np.linalg.norm(labs - labs[order[-1]], axis=1))
        distances[order] = -1
        order.append(int(distances.argmax()))
    return np.concatenate([np.zeros((1, 3), np.uint8), np.array([found[index][1] for index in order])])


def _most_colourful(light: float, hue: float) -> tuple[np.ndarray, np.ndarray]:
    """OKLab and 8-bit sRGB of the strongest colour of a lightness and a hue."""
    for chroma in np.arange(0.26, 0, -0.01):
        lab = np.array([light, chroma * np.cos(hue), chroma * np.sin(hue)])
        linear = _FROM_LMS @ (_TO_LMS @ lab) ** 3
        if (linear >= 0).all() and (linear <= 1).all():
            break
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    return lab, np.rint(255 * curved.clip(0, 1)).astype(np.uint8)


def outlines(mask: np.ndarray) -> np.ndarray:
    """The lines round the regions of a mask.

    Args:
        mask: `(H, W)` uint8, class indices and 255.

    Returns:
        `(H, W)` uint8: the class inside along its outline, 255 just outside of it, where there is no class, else 0.

    >>> outlines(np.array([[0, 0, 1, 1, 1]], np.uint8)).tolist()
    [[0, 255, 1, 0, 0]]
    """
    labels = np.where(mask == IGNORE_INDEX, 0, mask)
    differs = np.zeros(mask.shape, dtype=bool)
    for step in range(1, max(1, round(max(mask.shape) / _OUTLINE)) + 1):
        across, down = labels[:, step:] != labels[:, :-step], labels[step:] != labels[:-step]
        differs[:, step:] |= across
        differs[:, :-step] |= across
        differs[step:] |= down
        differs[:-step] |= down
    return np.where(differs, np.where(labels > 0, labels, IGNORE_INDEX), 0).astype(np.uint8)


def overlay(image: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class colours laid over a photo, and outlines; background and ignored pixels keep the photo.

    Args:
        image: `(H, W, 3)` uint8.
        mask: `(H, W)` uint8.
        palette: `(256, 3)` uint8; `screen_palette`.

    Returns:
        `(H, W, 3)` uint8.
    """
    lines = outlines(mask)[..., None]
    shown = ((mask != 0) & (mask != IGNORE_INDEX))[..., None]
    laid = np.where(shown, (1 - FILL) * image + FILL * palette[mask], image)
    laid = np.where(lines == IGNORE_INDEX, (1 - _HALO_WEIGHT) * image + _HALO_WEIGHT * HALO, laid)
    return np.where((lines > 0) & (lines < IGNORE_INDEX), palette[mask], laid).astype(np.uint8)
