"""The door of the dense CRF: checks, containers and the choice of backend."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from weakclip.crf.checks import check_float_image, check_probs, check_shapes, check_widths
from weakclip.crf.params import CRFParams
from weakclip.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

Backend = Literal["auto", "numba", "torch"]
Array = TypeVar("Array", np.ndarray, "torch.Tensor")


def dense_crf(image: Array, probs: Array, params: CRFParams, *, backend: Backend = "auto") -> Array:
    """Marginals of a fully connected CRF, by mean field on a permutohedral lattice.

    Starting from `Q = p`, each iteration computes, for every pixel i and label k,

        Q_i(k) ∝ p_i(k) · exp( Σ_m w_m Σ_j k_m(i, j) Q_j(k) / √(n_m(i) n_m(j)) ),    n_m(i) = Σ_j k_m(i, j)

    that is a unary of −log p, Potts compatibility and symmetric normalisation; the sums over all pixels j are
    approximated on the lattice. A probability of 0 stays 0. No gradient flows through the result.

    Args:
        image: RGB, uint8 in 0…255 or floating point in 0…1: `(H, W, 3)` or `(B, H, W, 3)` as a numpy array,
            `(3, H, W)` or `(B, 3, H, W)` as a torch tensor.
        probs: label probabilities in the same container, floating point, `(K, H, W)` or `(B, K, H, W)`, K ≥ 1;
            non-negative and summing to one over K, within 0.01, and renormalised.
        params: kernels (their srgb in levels of 0…255) and iterations, e.g. `LOSS_CRF`.
        backend: "numba" (compiled, on the CPU), "torch" (on the tensors' device; slower on a CPU), or "auto": numba
            for data on the CPU if numba can be imported, else torch.

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
    if isinstance(image, np.ndarray) and isinstance(probs, np.ndarray):
        return _infer_numpy(image, probs, params, backend)
    if _is_tensor(image) and _is_tensor(probs):
        return _infer_torch(image, probs, params, backend)
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
        from weakclip.crf import cpu
    except ImportError as error:
        if backend == "numba":
            raise ConfigError(
                f"dense CRF: numba cannot be imported ({error}); install it, or take backend='torch'"
            ) from error
        return None
    return cpu


def _infer_numpy(image: np.ndarray, probs: np.ndarray, params: CRFParams, backend: Backend) -> np.ndarray:
    check_shapes(image, probs, channels_axis=-1)
    if not np.issubdtype(probs.dtype, np.floating):
        raise DataError(f"dense CRF: the probabilities are {probs.dtype}, expected floating point")
    floating = np.issubdtype(image.dtype, np.floating)
    if not floating and image.dtype != np.uint8:
        raise DataError(f"dense CRF: the image is {image.dtype}, expected uint8 or floating point")
    if floating:
        check_float_image(image)
    height, width = probs.shape[-2:]
    check_widths(params, height, width)
    images = np.array(image, dtype=np.float32, order="C").reshape(-1, height, width, 3)
    if floating:
        images *= 255
    batch = np.array(probs, dtype=np.float32, order="C").reshape(-1, *probs.shape[-3:])
    check_probs(batch)
    batch /= batch.sum(axis=1, keepdims=True)
    compiled = _numba_backend(backend)
    if compiled is not None:
        return compiled.infer_batch(images, batch, params).reshape(probs.shape)
    import torch

    from weakclip.crf import torch_backend

    result = torch_backend.infer_batch(torch.from_numpy(images), torch.from_numpy(batch), params)
    return result.numpy().reshape(probs.shape)


def _infer_torch(image: torch.Tensor, probs: torch.Tensor, params: CRFParams, backend: Backend) -> torch.Tensor:
    import torch

    check_shapes(image, probs, channels_axis=-3)
    if not probs.is_floating_point():
        raise DataError(f"dense CRF: the probabilities are {probs.dtype}, expected floating point")
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise DataError(f"dense CRF: the image is {image.dtype}, expected uint8 or floating point")
    if image.device != probs.device:
        raise DataError(f"dense CRF: the image is on {image.device} and the probabilities on {probs.device}; move one")
    if image.is_floating_point():
        check_float_image(image)
    height, width = probs.shape[-2:]
    check_widths(params, height, width)
    on_cpu = probs.device.type == "cpu"
    compiled = _numba_backend(backend) if on_cpu or backend == "numba" else None
    with torch.no_grad():
        images = image.detach().to(torch.float32).reshape(-1, 3, height, width).permute(0, 2, 3, 1)
        images = (images * 255 if image.is_floating_point() else images).contiguous()
        batch = probs.detach().to(torch.float32).reshape(-1, *probs.shape[-3:])
        check_probs(batch)
        batch = batch / batch.sum(dim=1, keepdim=True)
        if compiled is not None:
            marginals = compiled.infer_batch(images.cpu().numpy(), batch.cpu().numpy(), params)
            return torch.from_numpy(marginals).to(probs.device).reshape(probs.shape)
        from weakclip.crf import torch_backend

        return torch_backend.infer_batch(images, batch, params).reshape(probs.shape)
