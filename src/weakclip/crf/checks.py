"""What `dense_crf` accepts: one clear line for everything else. Written for numpy arrays and torch tensors alike."""

from __future__ import annotations

from typing import Any

from weakclip.crf.features import feature_spans
from weakclip.crf.params import CRFParams
from weakclip.errors import DataError

SUM_TOLERANCE = 1e-2
"""How far from one a pixel's probabilities may sum: what bfloat16 can be off by. They are renormalised."""

_MAX_SPAN = 1e5


def check_shapes(image: Any, probs: Any, *, channels_axis: int) -> None:
    """Single image or batch, three channels at `channels_axis` (counted from the end), sizes that agree, K ≥ 1."""
    image_shape, probs_shape = tuple(image.shape), tuple(probs.shape)
    layout = "(H, W, 3)" if channels_axis == -1 else "(3, H, W)"
    if len(image_shape) not in (3, 4) or image_shape[channels_axis] != 3:
        raise DataError(f"dense CRF: the image has shape {image_shape}, expected {layout} or a batch of it")
    if len(probs_shape) != len(image_shape):
        raise DataError(
            f"dense CRF: probabilities of shape {probs_shape} with an image of shape {image_shape}, expected "
            f"(K, H, W) with {layout}, or a batch of both"
        )
    size = [*image_shape[:-3], *(image_shape[-3:-1] if channels_axis == -1 else image_shape[-2:])]
    if [*probs_shape[:-3], *probs_shape[-2:]] != size:
        raise DataError(
            f"dense CRF: probabilities of shape {probs_shape} do not fit the image of shape {image_shape}; "
            "resize one of them to the other's height and width"
        )
    if 0 in probs_shape:
        raise DataError(f"dense CRF: probabilities of shape {probs_shape}, expected at least one label and one pixel")


def check_probs(probs: Any) -> None:
    """Finite, not negative, and summing to one over the labels, in `(B, K, H, W)`."""
    lowest, total = float(probs.min()), probs.sum(1)
    smallest, largest = float(total.min()), float(total.max())
    if not (abs(lowest) < float("inf") and abs(smallest) < float("inf") and abs(largest) < float("inf")):
        raise DataError("dense CRF: the probabilities hold NaN or infinity, expected numbers from 0 to 1")
    if lowest < 0:
        raise DataError(f"dense CRF: the lowest probability is {lowest:.4g}, expected 0 or more; are these logits?")
    if smallest < 1 - SUM_TOLERANCE or largest > 1 + SUM_TOLERANCE:
        raise DataError(
            f"dense CRF: over its labels a pixel's probabilities sum to {smallest:.4g} … {largest:.4g}, "
            "expected 1; apply softmax first"
        )


def check_float_image(image: Any) -> None:
    """Floating images are in 0…1, as everywhere in the package."""
    lowest, highest = float(image.min()), float(image.max())
    if not (lowest >= 0 and highest <= 1):
        raise DataError(
            f"dense CRF: the floating-point image spans {lowest:.4g} … {highest:.4g}, expected 0 … 1; "
            "pass levels of 0 … 255 as uint8"
        )


def check_widths(params: CRFParams, height: int, width: int) -> None:
    """Kernels so narrow that float32 cannot place the pixels on their lattice are refused."""
    for kernel in params.kernels:
        if max(feature_spans(kernel, height, width)) > _MAX_SPAN:
            raise DataError(
                f"dense CRF: {kernel} is too narrow for an image of {height}×{width}: it spans more than "
                f"{_MAX_SPAN:.0e} standard deviations; use a wider kernel"
            )
