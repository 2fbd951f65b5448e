"""Sliding-window, multi-scale, flipped inference for any function from images to logits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from weakclip.datasets.images import fit_factor, resize_rgb
from weakclip.errors import ConfigError
from weakclip.inference.stitching import stitching_matrix, window_starts
from weakclip.store.ranges import SCALES, check_range
from weakclip.training.precision import Precision, autocast_dtype, float32_as

logger = logging.getLogger("weakclip")

LogitsFunction = Callable[[Tensor], Tensor]
"""Images `(B, 3, h, w)` uint8 to logits `(B, K, h', w')` of any resolution."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class SharedNetwork:
    """A network that several threads may call at once: it keeps nothing of one call that another would find.

    Args:
        logits_of: the network.
    """

    logits_of: LogitsFunction

    def __call__(self, images: Tensor) -> Tensor:
        """See `LogitsFunction`."""
        return self.logits_of(images)


class BatchLimit:
    """How many images go through a network together: half as many when memory runs out, and never more afterwards.

    Attributes:
        largest: the most that fit so far; None while there was no want of memory.
    """

    def __init__(self) -> None:
        self.largest: int | None = None

    def run(self, network: Callable[[Tensor], Part], images: Tensor) -> list[Part]:
        """The results of consecutive parts of a batch, one part where all of it fits.

        Args:
            network: called with `(b, 3, h, w)`, `b` at most `B`; called again with fewer where its memory ran out.
            images: `(B, 3, h, w)`.

        Raises:
            torch.OutOfMemoryError, RuntimeError, MemoryError: the network's own, where even one image is too many.
        """
        asked = size = min(len(images), self.largest or len(images))
        parts: list[Part] = []
        first = 0
        while first < len(images):
            part = _attempt(network, images[first : first + size], final=size == 1)
            if part is None:
                size //= 2  # outside of any `except`: the error would keep the tensors alive
                continue
            parts.append(part)
            first += size
        if size < asked:
            self.largest = min(size, self.largest or size)  # another thread may have found less
            logger.warning("inference: no memory for %d images at once; goes on with %d", asked, size)
        return parts


def _attempt(network: Callable[[Tensor], Part], images: Tensor, *, final: bool) -> Part | None:
    try:
        return network(images)
    except (RuntimeError, MemoryError) as error:
        if final or not is_out_of_memory(error):
            raise
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the machine or of the accelerator, could not be had.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."))
    True
    """
    said = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in said)


class OutOfMemoryRetry:
    """A network that takes its batches in smaller parts once memory has run out; results differ by rounding at most.

    Args:
        logits_of: the network, `(B, 3, h, w)` to `(B, K, h', w')`.
    """

    def __init__(self, logits_of: LogitsFunction) -> None:
        self.logits_of = logits_of
        self.limit = BatchLimit()

    def __call__(self, images: Tensor) -> Tensor:
        """`(B, 3, h, w)` to `(B, K, h', w')`."""
        parts = self.limit.run(self.logits_of, images)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Numbers of the inference; the defaults are the published ones.

    Args:
        scales: resize factors, 0.1…100, whose predictions are averaged.
        flip: whether the left-right mirrored image is averaged in too.
        crop: side of the square window, pixels. An image side below it makes a window of that side.
        stride: step between windows, pixels; at most `crop`, so that the windows cover every pixel.
        fit_crop: factor 1 brings the image's shorter side to `crop`, as in training (the longer to eight crops at
            most); otherwise it keeps its size.
        batch_size: windows that go through the network together.
        average: what is averaged over scales and flips: "probabilities", or "logits" before one softmax.
        precision: of the network: "fp32"; "tf32", float32 whose products are rounded on GPUs; "bf16" (autocast); or
            "auto", bf16 where it pays, on GPUs and on CPUs with AMX, as in training. Averages are float32 in any case.
    """

    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    flip: bool = True
    crop: int = 512
    stride: int = 341
    fit_crop: bool = True
    batch_size: int = 4
    average: Literal["probabilities", "logits"] = "probabilities"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_range(self, "scales", **SCALES)
        if not 0 < self.stride <= self.crop:
            raise ConfigError(f"inference: stride is 1 to crop ({self.crop}); found {self.stride}")
        check_range(self, "batch_size", least=1)


def predict_probs(
    logits_of: LogitsFunction,
    image: np.ndarray,
    settings: InferenceSettings,
    *,
    device: torch.device | str,
    classes: Sequence[int] | None = None,
) -> np.ndarray:
    """Class probabilities of one image, averaged over scales and flips.

    At each scale the logits of overlapping windows are averaged and brought to the image's size bilinearly. Of all
    scales and flips, the probabilities are averaged, or, as `settings.average` says, the logits.

    Args:
        logits_of: the network, `(B, 3, h, w)` uint8 RGB on `device` to logits `(B, K, h', w')`. For many images, wrap
            it in `OutOfMemoryRetry` once: what it learns about the memory is then kept from image to image.
        image: `(H, W, 3)` uint8 RGB, any size.
        settings: scales, flip and windows.
        device: where the images are handed to the network and the logits are gathered.
        classes: the classes whose probabilities are wanted; the others never leave the device. None for all.

    Returns:
        `(K, H, W)` float32; the `K` values of a pixel sum to 1. With `classes`, their rows of it in that order.
    """
    return predict_batch(logits_of, [image], settings, device=device, classes=classes)[0]


def predict_batch(
    logits_of: LogitsFunction,
    images: Sequence[np.ndarray],
    settings: InferenceSettings,
    *,
    device: torch.device | str,
    classes: Sequence[int] | None = None,
    resized: Sequence[Sequence[Tensor]] | None = None,
) -> list[np.ndarray]:
    """`predict_probs` of images of one size, whose windows go through the network together.

    Args:
        logits_of: as for `predict_probs`.
        images: one or more, each `(H, W, 3)` uint8 RGB.
        settings: scales, flip and windows.
        device: as for `predict_probs`.
        classes: as for `predict_probs`.
        resized: what `resized_images` gives for each of the images, where that is there already.

    Returns:
        `(K, H, W)` float32 for each image, or the rows of `classes`.
    """
    network = logits_of if isinstance(logits_of, OutOfMemoryRetry) else OutOfMemoryRetry(logits_of)
    size = images[0].shape[0], images[0].shape[1]
    totals: list[Tensor] = []
    means_logits = settings.average == "logits"
    by_image = resized or [resized_images(image, settings, device=device) for image in images]
    with torch.no_grad():
        for at_scale in zip(*by_image, strict=True):
            pixels = torch.stack([one.to(device, non_blocking=True) for one in at_scale])
            for flipped in (False, True) if settings.flip else (False,):
                stitched = stitched_logits(network, pixels.flip(3) if flipped else pixels, size, settings)
                parts = [logits.flip(2) if flipped else logits for logits in stitched]
                parts = parts if means_logits else [logits.softmax(dim=0) for logits in parts]
                totals = [total.add_(more) for total, more in zip(totals, parts, strict=True)] if totals else parts
        if means_logits:
            passes = len(settings.scales) * (1 + settings.flip)
            probs = [total.div_(passes).softmax(dim=0) for total in totals]
        else:
            probs = [total.div_(total.sum(dim=0, keepdim=True)) for total in totals]
        wanted = probs if classes is None else [torch.stack([one[k] for k in classes]) for one in probs]
        return [one.cpu().numpy() for one in wanted]


def probabilities_bytes(image: np.ndarray, classes: int) -> int:
    """About what `predict_probs` takes in memory at the size of an image `(H, W, 3)`: sums, logits and probabilities.

    >>> probabilities_bytes(np.zeros((375, 500, 3), np.uint8), classes=21)
    47250000
    """
    return 3 * 4 * classes * image.shape[0] * image.shape[1]


def resized_images(
    image: np.ndarray, settings: InferenceSettings, *, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """An image at each of the scales: the host's part of the work, which threads may do ahead of the network.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        settings: scales and crop.
        device: where they will go; memory that an accelerator copies from by itself is taken where that is one.

    Returns:
        `(3, h, w)` uint8 for each scale, on the host.
    """
    height, width = image.shape[:2]
    base = fit_factor((height, width), settings.crop) if settings.fit_crop else 1.0
    found = []
    for scale in settings.scales:
        size = max(1, round(height * base * scale)), max(1, round(width * base * scale))
        pixels = image.copy() if size == (height, width) else resize_rgb(image, size)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        found.append(tensor.pin_memory() if torch.device(device).type != "cpu" else tensor)
    return found


def stitched_logits(
    logits_of: LogitsFunction, pixels: Tensor, size: tuple[int, int], settings: InferenceSettings
) -> list[Tensor]:
    """Logits of each image from overlapping windows; where windows overlap, the mean of their logits.

    Resizing a window's logits to the window, averaging the windows, and resizing the whole to `size` are all linear and
    separable. So they are one matrix for the rows and one for the columns of the windows' logits laid side by side:
    `rows @ tiles @ columns.T`, the same numbers in a fraction of the work.

    Args:
        logits_of: the network, `(B, 3, h, w)` uint8 to finite logits `(B, K, h', w')`.
        pixels: `(B, 3, H, W)` uint8.
        size: height and width of the results.
        settings: window side, stride and batch size.

    Returns:
        `(K, *size)` float32 for each image.
    """
    height, width = pixels.shape[2:]
    window = min(settings.crop, height), min(settings.crop, width)
    tops = window_starts(height, settings.crop, settings.stride)
    lefts = window_starts(width, settings.crop, settings.stride)
    places = [(slice(top, top + window[0]), slice(left, left + window[1])) for top in tops for left in lefts]
    windows = [image[:, rows, columns] for image in pixels for rows, columns in places]
    step = settings.batch_size
    dtype = autocast_dtype(settings.precision, pixels.device)
    half = torch.autocast(pixels.device.type, dtype) if dtype else contextlib.nullcontext()
    with half, float32_as(settings.precision, pixels.device):
        batches = [logits_of(torch.stack(windows[first : first + step])) for first in range(0, len(windows), step)]
    logits = torch.cat(batches).float()
    coarse = logits.shape[2:]
    row_matrix = stitching_matrix(tops, window[0], height, coarse[0], size[0], device=logits.device)
    column_matrix = stitching_matrix(lefts, window[1], width, coarse[1], size[1], device=logits.device)
    stitched = []
    for one in logits.split(len(places)):
        tiles = one.reshape(len(tops), len(lefts), -1, *coarse).permute(2, 0, 3, 1, 4)
        tiles = tiles.reshape(one.shape[1], len(tops) * coarse[0], len(lefts) * coarse[1])
        with torch.autocast(tiles.device.type, enabled=False):
            stitched.append(row_matrix @ (tiles @ column_matrix.T))
    return stitched
