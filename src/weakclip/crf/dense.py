"""Public entry point of the dense CRF: checks, containers and the choice of backend."""

from __future__ import annotations

import sys
from types import ModuleType
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
    is_numpy = isinstance(probs, np.ndarray) and (image is None or isinstance(image, np.ndarray))
    if not is_numpy and not (_is_tensor(probs) and (image is None or _is_tensor(image))):
        raise DataError(
            f"dense CRF: the image is a {type(image).__name__} and the probabilities are a {type(probs).__name__}, "
            "expected two numpy arrays or two torch tensors"
        )
    _check(image, probs, params, channels_last=is_numpy)
    compiled = None if exact else _compiled_backend(backend, probs)
    problem = (image, probs, params, energies)
    result: Any = _infer_torch(*problem, exact) if compiled is None else _infer_numba(*problem, compiled)
    return _like(probs, result)


def _like(probs: Any, result: Any) -> Any:
    """The result in the shape, container and device of `probs`."""
    result = result.reshape(probs.shape)
    if isinstance(probs, np.ndarray):
        return result if isinstance(result, np.ndarray) else result.numpy()
    import torch

    return torch.from_numpy(result).to(probs.device) if isinstance(result, np.ndarray) else result


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported torch
    return torch is not None and isinstance(value, torch.Tensor)


def _check(image: Any, probs: Any, params: CRFParams, *, channels_last: bool) -> None:
    """Everything that can be said before numbers are looked at, of arrays and tensors alike."""
    check_shapes(image, probs, channels_last=channels_last)
    if not _is_floating(probs):
        raise DataError(f"dense CRF: the probabilities are {probs.dtype}, expected floating point")
    if image is not None and not (image.dtype == np.uint8 or _is_floating(image) or str(image.dtype) == "torch.uint8"):
        raise DataError(f"dense CRF: the image is {image.dtype}, expected uint8 or floating point")
    if not channels_last and image is not None and image.device != probs.device:
        raise DataError(f"dense CRF: the image is on {image.device} and the probabilities on {probs.device}; move one")
    channels = None if image is None else image.shape[-1 if channels_last else -3]
    batch = probs.shape[0] if probs.ndim == 4 else 1
    check_kernels(params, probs.shape[-3], tuple(probs.shape[-2:]), channels, batch)


def _is_floating(array: Any) -> bool:
    return array.dtype.kind == "f" if isinstance(array, np.ndarray) else array.is_floating_point()


def _compiled_backend(backend: Backend, probs: Any) -> ModuleType | None:
    """The compiled backend, or None where torch does the work."""
    on_cpu = isinstance(probs, np.ndarray) or probs.device.type == "cpu"
    if backend == "torch" or (backend == "auto" and not on_cpu):
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


def _infer_numba(image: Any, probs: Any, params: CRFParams, energies: bool, compiled: Any) -> np.ndarray:
    """Marginals `(B, K, H, W)` from arrays or tensors."""
    images, batch = _as_arrays(image, probs)
    as_log = False
    if energies:
        check_energies(batch)
        batch = batch.min(axis=1, keepdims=True) - batch
        as_log = bool(batch.min() < _SMALLEST_LOG)  # their exponentials would vanish
        if not as_log:
            batch = np.exp(batch)
            batch /= batch.sum(axis=1, keepdims=True)
    marginals: np.ndarray = compiled.infer_batch(images, batch, params, log_probs=as_log)  # checks the probabilities
    return marginals


def _infer_torch(image: Any, probs: Any, params: CRFParams, energies: bool, exact: bool) -> torch.Tensor:
    """Marginals `(B, K, H, W)` from arrays or tensors, on the tensors' device."""
    import torch

    from weakclip.crf import exact as exact_backend
    from weakclip.crf import torch_backend

    device = "cpu" if isinstance(probs, np.ndarray) else probs.device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        images, batch = _as_tensors(image, probs)
        if energies:
            check_energies(batch)
            log_probs = (-batch).log_softmax(dim=1)
        else:
            check_probs(batch)
            log_probs = (batch / batch.sum(dim=1, keepdim=True)).log()
        infer = exact_backend.infer_batch if exact else torch_backend.infer_batch
        return infer(images, log_probs, params)


def _as_arrays(image: Any, probs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images `(B, H, W, C)`, uint8 or float32 in 0…255, and `probs` as `(B, K, H, W)` float32, all contiguous."""
    if not isinstance(probs, np.ndarray):
        probs = probs.detach().float().cpu().numpy()
        if image is not None:
            image = image.float() if image.is_floating_point() else image  # numpy knows no bfloat16
            image = np.moveaxis(image.detach().cpu().numpy(), -3, -1)
    batch = np.ascontiguousarray(probs, np.float32).reshape(-1, *probs.shape[-3:])
    if image is None:
        return np.zeros((len(batch), *batch.shape[-2:], 1), np.float32), batch
    images = np.ascontiguousarray(image).reshape(-1, *image.shape[-3:])
    if images.dtype != np.uint8:
        check_float_image(images)
        images = images.astype(np.float32) * np.float32(255)
    return images, batch


def _as_tensors(image: Any, probs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(B, H, W, C)` in 0…255 and `probs` as `(B, K, H, W)`, both float32 and contiguous."""
    import torch

    if isinstance(probs, np.ndarray):
        probs = torch.from_numpy(np.array(probs, dtype=np.float32))
        image = None if image is None else torch.from_numpy(image.copy())
    elif image is not None:
        image = image.detach().movedim(-3, -1)
    batch = probs.detach().to(torch.float32).reshape(-1, *probs.shape[-3:])
    if image is None:
        return batch.new_zeros(len(batch), *batch.shape[-2:], 1), batch
    images = image.to(torch.float32).reshape(-1, *image.shape[-3:])
    if image.is_floating_point():
        check_float_image(images)
        images = images * 255
    return images.contiguous(), batch
