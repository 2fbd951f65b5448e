"""Where windows lie along a side of an image, and the matrix that joins what a network says of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR = 64
"""Two windows nearer to each other than their side divided by this are one: the second would see the same again."""
_KEPT_NUMBERS = 2**20
"""Most numbers of a matrix that is kept: with those of two sides of six scales, 48 MiB at most."""


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Where the windows begin along a side: every `stride`, and the last one ends with the side.

    A window that begins less than `crop / 64` pixels before the last one is left out, where the others cover its
    pixels: it would cost as much as any other, and only count the end of the side twice.

    >>> window_starts(1000, 512, 341)
    [0, 341, 488]
    >>> window_starts(1195, 512, 341)    # 682 lies one pixel before 683
    [0, 341, 683]
    >>> window_starts(300, 512, 341)
    [0]
    """
    last = max(0, length - crop)
    starts = [*range(0, last, stride), last]
    if len(starts) > 2 and last - starts[-2] < crop / NEAR and last - starts[-3] <= crop:
        del starts[-2]
    return starts


def stitching_matrix(
    starts: Sequence[int], window: int, length: int, coarse: int, target: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """From the values of all windows along one side to the side of the result.

    The last matrices are kept on their device: images of a data set share few sizes, and nothing is copied to the
    device for an image.

    Args:
        starts: first pixel of each window.
        window: pixels of a window.
        length: pixels of the side.
        coarse: values that the network gives for a window.
        target: values of the result.
        device: where the matrix is made.

    Returns:
        `(target, len(starts) * coarse)` float32; every row sums to 1. It is shared: not to be written to.
    """
    small = target * len(starts) * coarse <= _KEPT_NUMBERS
    make = _kept_matrix if small else _matrix
    return make(tuple(starts), (window, length, coarse, target), torch.device(device))


def _matrix(starts: tuple[int, ...], sizes: tuple[int, int, int, int], device: torch.device) -> Tensor:
    window, length, coarse, target = sizes
    enlarge = _resized(torch.eye(coarse, device=device), window)
    placed = torch.zeros(length, len(starts), coarse, device=device)
    count = torch.zeros(length, 1, 1, device=device)
    for index, start in enumerate(starts):
        placed[start : start + window, index] = enlarge
        count[start : start + window] += 1
    return _resized((placed / count).flatten(1), target)


_kept_matrix = functools.lru_cache(maxsize=24)(_matrix)


def _resized(columns: Tensor, length: int) -> Tensor:
    """Linear interpolation of every column of `(n, m)` to `(length, m)`."""
    return F.interpolate(columns.T[None], size=length, mode="linear", align_corners=False)[0].T
