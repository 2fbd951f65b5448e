"""The door of the dense CRF: checks, containers and the choice of backend."""

# ruff: noqa: PLR0917
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from weakclip.crf.checks import check_energies, check_float_image, check_kernels, check_probs, check_shapes
from weakclip.crf.params import CRFParams
from weakclip.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

Backend = Literal["auto", "numba", "torch"]
Array = TypeVar("Array", np.ndarray, "torch.Tensor")
_SMALLEST_LOG = -80.0


def dense_crf(
    image: Array | None,
    probs: Array,
    params: CRFParams,
    *,
    backend: Backend = "auto",
    energies: bool = False,
    exact: bool = False,
) -> Array:
    """Marginals of a fully connected CRF, by mean field on a permutohedral lattice.

    Starting from `Q = p`, each iteration computes, for every pixel i and label k,

        Q_i(k) ∝ p_i(k) · exp( Σ_m w_m Σ_j k_m(i, j) Q_j(k) / √(n_m(i) n_m(j)) ),    n_m(i) = Σ_j k_m(i, j)

    that is a unary of −log p, Potts compatibility and symmetric normalisation; the sums over all pixels j are
    approximated on the lattice. A probability of 0 stays 0. No gradient flows through the result.

    Args:
        image: uint8 in 0…255 or floating point in 0…1, of one channel or more: `(H, W, C)` or `(B, H, W, C)` as a numpy
            array, `(C, H, W)` or `(B, C, H, W)` as a torch tensor; None where no kernel compares colours.
        probs: label probabilities in the same container, floating point, `(K, H, W)` or `(B, K, H, W)`, K ≥ 1;
            non-negative and summing to one over K, within 0.01, and renormalised.
        params: kernels (their srgb in levels of 0…255) and iterations, e.g. `LOSS_CRF`.
        backend: "numba" (compiled, on the CPU), "torch" (on the tensors' device; slower on a CPU), or "auto": numba
            for data on the CPU if numba can be imported, else torch.
        energies: whether `probs` holds unary energies, −log p up to a constant for each pixel, instead.
        exact: sum over all pairs of pixels instead of using the lattice, in torch, for up to 20,000 pixels.

    Returns:
        Marginals in float32, of the shape, container and device of `probs`. The inputs are never written to.

    Raises:
        DataError: an input that is not as above.
        ConfigError: an unknown backend, or numba asked for where it cannot be imported.

    References:
        Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.
        Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
    """
    if backend not in ("auto", "numba", "torch"):
        raise ConfigError(f"dense CRF: unknown backend {backend!r}, expected 'auto', 'numba' or 'torch'")
    if not isinstance(params, CRFParams):
        raise DataError(f"dense CRF: params is a {type(params).__name__}, expected CRFParams, e.g. LOSS_CRF")
    backend = "torch" if exact else backend
    if isinstance(probs, np.ndarray) and (image is None or isinstance(image, np.ndarray)):
        return _infer_numpy(image, probs, params, backend, energies, exact)
    if _is_tensor(probs) and (image is None or _is_tensor(image)):
        return _infer_torch(image, probs, params, backend, energies, exact)
    raise DataError(
        f"dense CRF: the image is a {type(image).__name__} and the probabilities are a {type(probs).__name__}, "
        "expected two numpy arrays or two torch tensors"
    )


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported torch
    return torch is not None and isinstance(value, torch.Tensor)


def _numba_backend(backend: Backend) -> Any:
    """The compiled backend, or None where torch shall do it."""
    if backend == "torch":
        return None
    try:
        from weakclip.crf.cpu import inference
    except ImportError as error:
        if backend == "numba":
            raise ConfigError(
                f"dense CRF: numba cannot be imported ({error}); install it, or take backend='torch'"
            ) from error
        return None
    return inference


def _infer_numpy(
    image: np.ndarray | None, probs: np.ndarray, params: CRFParams, backend: Backend, energies: bool, exact: bool
) -> np.ndarray:
    check_shapes(image, probs, channels_last=True)
    _check_types(image, probs, np.issubdtype(probs.dtype, np.floating), image is None or image.dtype == np.uint8)
    compiled = _numba_backend(backend)
    if compiled is None:
        import torch

        tensor = None if image is None else torch.from_numpy(np.moveaxis(image, -1, -3).copy())
        given = torch.from_numpy(np.array(probs, dtype=np.float32))
        return _infer_torch(tensor, given, params, "torch", energies, exact).numpy()
    size, batch = probs.shape[-2:], np.ascontiguousarray(probs, np.float32).reshape(-1, *probs.shape[-3:])
    if image is None:
        images = np.zeros((len(batch), *size, 1), np.float32)
    else:
        images = np.ascontiguousarray(image).reshape(-1, *size, image.shape[-1])
        if image.dtype != np.uint8:
            check_float_image(images)
            images = images.astype(np.float32) * np.float32(255)
    _check_kernels(params, probs, None if image is None else image.shape[-1])
    as_log = False
    if energies:
        check_energies(batch)
        batch = batch.min(axis=1, keepdims=True) - batch
        as_log = bool(batch.min() < _SMALLEST_LOG)  # their exponentials would vanish
        if not as_log:
            batch = np.exp(batch)
            batch /= batch.sum(axis=1, keepdims=True)
    result: np.ndarray = compiled.infer_batch(images, batch, params, log_probs=as_log)
    return result.reshape(probs.shape)


def _infer_torch(
    image: torch.Tensor | None,
    probs: torch.Tensor,
    params: CRFParams,
    backend: Backend,
    energies: bool,
    exact: bool,
) -> torch.Tensor:
    import torch

    check_shapes(image, probs, channels_last=False)
    _check_types(image, probs, probs.is_floating_point(), image is None or image.dtype == torch.uint8)
    if image is not None and image.device != probs.device:
        raise DataError(f"dense CRF: the image is on {image.device} and the probabilities on {probs.device}; move one")
    if (probs.device.type == "cpu" or backend == "numba") and _numba_backend(backend) is not None:
        if image is not None and image.is_floating_point():
            image = image.float()  # numpy knows no bfloat16
        levels = None if image is None else np.moveaxis(image.detach().cpu().numpy(), -3, -1)
        given = probs.detach().float().cpu().numpy()
        return torch.from_numpy(_infer_numpy(levels, given, params, backend, energies, exact)).to(probs.device)
    with torch.no_grad():
        batch = probs.detach().to(torch.float32).reshape(-1, *probs.shape[-3:])
        if image is None:
            images = batch.new_zeros(len(batch), *batch.shape[-2:], 1)
        else:
            images = image.detach().to(torch.float32).reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1)
            if image.is_floating_point():
                check_float_image(images)
                images = images * 255
        _check_kernels(params, probs, None if image is None else image.shape[-3])
        if energies:
            check_energies(batch)
            log_probs = (-batch).log_softmax(dim=1)
        else:
            check_probs(batch)
            log_probs = (batch / batch.sum(dim=1, keepdim=True)).log()
        from weakclip.crf import exact as exact_backend
        from weakclip.crf import torch_backend

        infer = exact_backend.infer_batch if exact else torch_backend.infer_batch
        return infer(images.contiguous(), log_probs, params).reshape(probs.shape)


def _check_types(image: Any, probs: Any, probs_floating: bool, image_bytes: bool) -> None:
    if not probs_floating:
        raise DataError(f"dense CRF: the probabilities are {probs.dtype}, expected floating point")
    if not image_bytes and "float" not in str(image.dtype):
        raise DataError(f"dense CRF: the image is {image.dtype}, expected uint8 or floating point")


def _check_kernels(params: CRFParams, probs: Any, channels: int | None) -> None:
    batch = probs.shape[0] if probs.ndim == 4 else 1
    check_kernels(params, probs.shape[-3], tuple(probs.shape[-2:]), channels, batch)
