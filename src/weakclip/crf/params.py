"""Parameters of a dense CRF: its kernels, the number of iterations, and the presets of the WeakCLIP recipe.

References:
    Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass, field
from typing import Any, Literal

from weakclip.errors import DataError
from weakclip.store.keys import NO_EFFECT

Weight = float | tuple[float, ...] | tuple[tuple[float, ...], ...]


_LARGEST, _NARROWEST = 1e9, 1e-6


def _require(value: object, name: str, expected: str, ok: bool) -> None:
    if not ok:
        raise DataError(f"dense CRF: {name} is {value!r}, expected {expected}")


def _is_number(value: object) -> bool:
    """Finite, and of a size that float32 can be worked with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _frozen(value: Any) -> Any:
    """Numbers as they are; arrays and lists as tuples, so that kernels can be compared and hashed."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _short(value: Any) -> str:
    return f"({' '.join(map(_short, value))})" if isinstance(value, tuple) else f"{value:g}"


def _require_widths(value: Any, name: str, counts: str, ok: bool) -> None:
    widths = value if isinstance(value, tuple) else (value,)
    ok = ok and len(widths) > 0 and all(_is_number(width) and width >= _NARROWEST for width in widths)
    _require(value, f"kernel width {name}", f"a number from {_NARROWEST:g} to {_LARGEST:g} ({counts})", ok)


def _checked_weight(value: Any) -> Weight:
    weight: Weight = _frozen(value)
    if not isinstance(weight, tuple):
        _require(
            weight,
            "kernel weight",
            f"a number from 0 to {_LARGEST:g}, a vector or a matrix",
            _is_number(weight) and weight >= 0,
        )
        return weight
    matrix = all(isinstance(row, tuple) for row in weight)
    rows = weight if matrix else (weight,)
    square = all(len(row) == len(weight) for row in rows)  # type: ignore[arg-type]
    numbers = all(_is_number(number) for row in rows for number in row)  # type: ignore[union-attr]
    _require(
        value, "kernel weight", "K finite label costs, or a square matrix of them", bool(weight) and square and numbers
    )
    return weight


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One pairwise term: a Gaussian over positions, or over positions and colours.

    `k(i, j) = exp(−|x_i − x_j|² / 2 sxy² − |c_i − c_j|² / 2 srgb²)`; the colour part is there if `srgb` is.

    Args:
        sxy: standard deviation over positions, in pixels, 1e-6…1e9; or a pair, along x and along y.
        weight: strength 0…1e9 of a Potts compatibility (what two unlike labels cost), or, with pydensecrf's meaning and
            signs, what labels cost each other: `(K,)`, the diagonal of a matrix, or `(K, K)`, of which the symmetric
            part counts. A Potts weight w equals the vector of −w.
        srgb: standard deviation over colours, in levels of 0…255, 1e-6…1e9, or one for each channel; None makes the
            kernel purely spatial.

    Raises:
        DataError: a width or weight out of range, or a weight of no such shape.
    """

    sxy: float | tuple[float, float]
    weight: Weight
    srgb: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("sxy", "srgb"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        _require_widths(self.sxy, "sxy", "pixels", not isinstance(self.sxy, tuple) or len(self.sxy) == 2)
        if self.srgb is not None:
            _require_widths(self.srgb, "srgb", "colour levels; None for no colours", True)
        object.__setattr__(self, "weight", _checked_weight(self.weight))

    def __str__(self) -> str:
        colours = "" if self.srgb is None else f" srgb {_short(self.srgb)}"
        return f"sxy {_short(self.sxy)}{colours} weight {_short(self.weight)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureKernel:
    """A pairwise term over features of one's own: `k(i, j) = exp(−|f_i − f_j|² / 2)`.

    Args:
        features: numpy array or torch tensor `(D, H, W)`, or `(B, D, H, W)` for a batch, in standard deviations.
        weight: as in `Kernel`.

    Raises:
        DataError: a weight as refused by `Kernel`. What is wrong with the features is said when they are used.
    """

    features: Any
    weight: Weight

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _checked_weight(self.weight))

    def __str__(self) -> str:
        return f"features {tuple(getattr(self.features, 'shape', ()))} weight {_short(self.weight)}"


@dataclass(frozen=True, kw_only=True)
class CRFParams:
    """A dense CRF: its kernels, and the number of mean-field iterations.

    Args:
        kernels: any number of them; their messages are added.
        iterations: mean-field updates, ≥ 0; with 0 the result is the normalised input.
        method: "dense"; a section of settings is a dense CRF where it says no other method.

    Raises:
        DataError: something in `kernels` that is no kernel, or a number of iterations that is no whole number ≥ 0.
    """

    kernels: tuple[Kernel | FeatureKernel, ...]
    iterations: int = 10
    method: Literal["dense"] = field(default="dense", metadata=NO_EFFECT)

    def __post_init__(self) -> None:
        ok = isinstance(self.kernels, tuple) and all(isinstance(x, (Kernel, FeatureKernel)) for x in self.kernels)
        _require(self.kernels, "kernels", "a tuple of Kernel or FeatureKernel", ok)
        _require(self.iterations, "iterations", "a whole number of 0 or more", _is_count(self.iterations, 0))


@dataclass(frozen=True, kw_only=True)
class PARParams:
    """Pixel-adaptive refinement in place of a dense CRF: see `weakclip.crf.par`.

    Args:
        method: "par".
        dilations: distances of the 8 neighbours of a pixel, in pixels, each 1 or more (Ru et al.: as here).
        iterations: steps of the flow, 0 or more (Ru et al.: 15).

    Raises:
        DataError: no distance, one below 1, or a number of iterations that is no whole number ≥ 0.
    """

    method: Literal["par"] = "par"
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    iterations: int = 10

    def __post_init__(self) -> None:
        if not (self.dilations and all(_is_count(dilation, 1) for dilation in self.dilations)):
            raise DataError(f"PAR: dilations is {self.dilations!r}, expected whole numbers of 1 or more")
        if not _is_count(self.iterations, 0):
            raise DataError(f"PAR: iterations is {self.iterations!r}, expected a whole number of 0 or more")


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


LOSS_CRF = CRFParams(kernels=(Kernel(sxy=3, weight=3), Kernel(sxy=80, srgb=13, weight=10)))
"""For the boundary loss, on the loss's small grid (released code of Zhu et al., "WeakCLIP", IJCV 2024)."""

VOC_CRF = CRFParams(kernels=(Kernel(sxy=3, weight=3), Kernel(sxy=83, srgb=5, weight=3)))
"""For pseudo masks of PASCAL VOC at full resolution (released code of Zhu et al., "WeakCLIP", IJCV 2024)."""

COCO_CRF = CRFParams(kernels=(Kernel(sxy=1, weight=3), Kernel(sxy=67, srgb=3, weight=4)))
"""For pseudo masks of COCO at full resolution (released code of Zhu et al., "WeakCLIP", IJCV 2024)."""

PRESETS = {"voc": VOC_CRF, "coco": COCO_CRF, "loss": LOSS_CRF}
"""The numbers above by the names that the command line gives them."""
