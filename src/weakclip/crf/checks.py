"""Checks of the input of `dense_crf`, numpy arrays or torch tensors: one clear line for what it does not accept."""

from __future__ import annotations

from typing import Any

from weakclip.crf.features import feature_spans, label_costs
from weakclip.crf.params import CRFParams, FeatureKernel
from weakclip.errors import DataError

SUM_TOLERANCE = 1e-2
"""How far from one a pixel's probabilities may sum: what bfloat16 can be off by. They are renormalised."""

_MAX_SPAN = 1e5


def check_shapes(image: Any, probs: Any, *, channels_last: bool) -> None:
    """Single image or batch, sizes that agree, one channel and one label or more; `image` may be None."""
    probs_shape = tuple(probs.shape)
    layout = "(H, W, C)" if channels_last else "(C, H, W)"
    if len(probs_shape) not in (3, 4) or 0 in probs_shape:
        raise DataError(
            f"dense CRF: probabilities of shape {probs_shape}, expected (K, H, W) with an image {layout}, or a "
            "batch of both, with at least one label and one pixel"
        )
    if image is None:
        return
    image_shape = tuple(image.shape)
    if len(image_shape) != len(probs_shape):
        raise DataError(
            f"dense CRF: the image has shape {image_shape} and the probabilities {probs_shape}, expected {layout} and "
            "(K, H, W), or a batch of both"
        )
    size = [*image_shape[:-3], *(image_shape[-3:-1] if channels_last else image_shape[-2:])]
    if [*probs_shape[:-3], *probs_shape[-2:]] != size or 0 in image_shape:
        raise DataError(
            f"dense CRF: probabilities of shape {probs_shape} do not fit the image of shape {image_shape}, which is "
            f"read as {layout}; {_advice(probs_shape, size[-2:])}"
        )


def _advice(probs: tuple[int, ...], size: list[int]) -> str:
    """For probabilities of another shape than an image of that height and width."""
    if list(probs[-3:-1]) == size:
        return "the labels are the last axis of the probabilities: move it before height and width (numpy.moveaxis)"
    if list(probs[:-3:-1]) == size:
        return (
            "height and width are exchanged: turn the probabilities as the image is turned (a photo is, by its EXIF "
            "orientation), or transpose them"
        )
    return "resize one of them to the other's height and width"


def check_probs(probs: Any) -> None:
    """Finite, not negative, and summing to one over the labels, in `(B, K, H, W)`."""
    total = probs.sum(1)
    check_range(float(probs.min()), float(total.min()), float(total.max()))


def check_range(lowest: float, smallest: float, largest: float) -> None:
    """As `check_probs`, from the lowest probability and the smallest and largest sum over the labels."""
    if not all(abs(number) < float("inf") for number in (lowest, smallest, largest)):
        raise DataError("dense CRF: the probabilities hold NaN or infinity, expected numbers from 0 to 1")
    if lowest < 0:
        raise DataError(
            f"dense CRF: the lowest probability is {lowest:.4g}, expected 0 or more; "
            "apply softmax to logits, and to the negative of energies, which Python takes with energies=True, too"
        )
    if smallest < 1 - SUM_TOLERANCE or largest > 1 + SUM_TOLERANCE:
        raise DataError(
            f"dense CRF: over its labels a pixel's probabilities sum to {smallest:.4g} … {largest:.4g}, "
            "expected 1; apply softmax first"
        )


def check_energies(energies: Any) -> None:
    """Finite unary energies."""
    if not abs(float(energies.min())) < float("inf") or not abs(float(energies.max())) < float("inf"):
        raise DataError("dense CRF: the unary energies hold NaN or infinity, expected finite numbers, e.g. −log p")


def check_float_image(image: Any) -> None:
    """Floating images are in 0…1, as everywhere in the package."""
    lowest, highest = float(image.min()), float(image.max())
    if not (lowest >= 0 and highest <= 1):
        raise DataError(
            f"dense CRF: the floating-point image spans {lowest:.4g} … {highest:.4g}, expected 0 … 1; "
            "pass levels of 0 … 255 as uint8"
        )


def check_kernels(params: CRFParams, num_labels: int, size: tuple[int, int], channels: int | None, batch: int) -> None:
    """Kernels that fit the image, the batch and the labels, and not so narrow that float32 cannot place the pixels.

    `channels` is None where there is no image.
    """
    height, width = size
    for kernel in params.kernels:
        if isinstance(kernel.weight, tuple):
            label_costs(kernel.weight, num_labels)
        if isinstance(kernel, FeatureKernel):
            _check_features(kernel.features, size, batch)
            continue
        if kernel.srgb is not None and channels is None:
            raise DataError(f"dense CRF: the kernel {kernel} compares colours, but the image is None; give one")
        if isinstance(kernel.srgb, tuple) and len(kernel.srgb) != channels:
            raise DataError(
                f"dense CRF: the kernel {kernel} is for {len(kernel.srgb)} colour channels, the image has {channels}"
            )
        if max(feature_spans(kernel, height, width, channels or 0)) > _MAX_SPAN:
            raise DataError(
                f"dense CRF: the kernel {kernel} is too narrow for an image of {height}×{width}: it spans more than "
                f"{_MAX_SPAN:.0e} standard deviations; use a wider kernel"
            )


def _check_features(features: Any, size: tuple[int, int], batch: int) -> None:
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) not in (3, 4) or shape[-2:] != size or 0 in shape or (len(shape) == 4 and shape[0] != batch):
        raise DataError(
            f"dense CRF: kernel features of shape {shape} for {batch} image(s) of {size[0]}×{size[1]}; expected "
            "(D, H, W), or one such for each image"
        )
    kind = getattr(features.dtype, "kind", None) or ("c" if features.is_complex() else "f")  # torch's have no kind
    if kind not in "fiu":
        raise DataError(f"dense CRF: kernel features are {features.dtype}, expected floating point or whole numbers")
    features = features.detach() if hasattr(features, "detach") else features
    reach = max(abs(float(features.min())), abs(float(features.max())))
    if not reach <= _MAX_SPAN:
        raise DataError(
            f"dense CRF: kernel features reach {reach:.4g}, expected at most {_MAX_SPAN:.0e} standard deviations; "
            "divide them by a larger width"
        )
