"""What a dense CRF is told: its kernels, how often it is iterated, and the presets of the WeakCLIP recipe.

References:
    Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from weakclip.errors import DataError


def _require(value: float, name: str, expected: str, ok: bool) -> None:
    if not ok:
        raise DataError(f"dense CRF: {name} is {value!r}, expected {expected}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One pairwise term: a Gaussian over positions, or over positions and colours, with a Potts compatibility.

    `k(i, j) = weight · exp(−|x_i − x_j|² / 2 sxy² − |c_i − c_j|² / 2 srgb²)`; the colour part is there if `srgb` is.

    Args:
        sxy: standard deviation over positions, in pixels, > 0.
        weight: strength of the term (Potts: what two unlike labels cost), ≥ 0.
        srgb: standard deviation over colours, in levels of 0…255, > 0; None makes the kernel purely spatial.

    Raises:
        DataError: a width that is not positive, or a weight that is negative or not finite.
    """

    sxy: float
    weight: float
    srgb: float | None = None

    def __post_init__(self) -> None:
        _require(self.sxy, "kernel width sxy", "a number above 0 (pixels)", _is_number(self.sxy) and self.sxy > 0)
        _require(self.weight, "kernel weight", "a number of 0 or more", _is_number(self.weight) and self.weight >= 0)
        if self.srgb is not None:
            ok = _is_number(self.srgb) and self.srgb > 0
            _require(self.srgb, "kernel width srgb", "a number above 0 (colour levels), or None for no colours", ok)


@dataclass(frozen=True, kw_only=True)
class CRFParams:
    """A dense CRF: its kernels, and the number of mean-field iterations.

    Args:
        kernels: any number of `Kernel`s; their messages are added.
        iterations: mean-field updates, ≥ 0; with 0 the result is the normalised input.

    Raises:
        DataError: something in `kernels` that is no `Kernel`, or a number of iterations that is no whole number ≥ 0.
    """

    kernels: tuple[Kernel, ...]
    iterations: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.kernels, tuple) or not all(isinstance(kernel, Kernel) for kernel in self.kernels):
            raise DataError(f"dense CRF: kernels is {self.kernels!r}, expected a tuple of Kernel")
        whole = isinstance(self.iterations, int) and not isinstance(self.iterations, bool)
        _require(self.iterations, "iterations", "a whole number of 0 or more", whole and self.iterations >= 0)


LOSS_CRF = CRFParams(kernels=(Kernel(sxy=3, weight=3), Kernel(sxy=80, srgb=13, weight=10)))
"""For the boundary loss, on the loss's small grid (released code of Zhu et al., "WeakCLIP", IJCV 2024)."""

VOC_CRF = CRFParams(kernels=(Kernel(sxy=3, weight=3), Kernel(sxy=83, srgb=5, weight=3)))
"""For pseudo masks of PASCAL VOC at full resolution (released code of Zhu et al., "WeakCLIP", IJCV 2024)."""

COCO_CRF = CRFParams(kernels=(Kernel(sxy=1, weight=3), Kernel(sxy=67, srgb=3, weight=4)))
"""For pseudo masks of COCO at full resolution (released code of Zhu et al., "WeakCLIP", IJCV 2024)."""

PRESETS = {"voc": VOC_CRF, "coco": COCO_CRF, "loss": LOSS_CRF}
"""The numbers above by the names that the command line gives them."""
