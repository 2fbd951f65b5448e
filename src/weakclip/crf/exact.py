"""Mean field with exact messages, in torch: every pair of pixels. For small images on a GPU, and as an oracle."""

from __future__ import annotations

import torch
from torch import Tensor

from weakclip.crf.features import label_costs
from weakclip.crf.params import CRFParams, FeatureKernel, Kernel
from weakclip.crf.torch_backend import kernel_features
from weakclip.errors import DataError

MAX_PIXELS = 20_000
"""Above, the matrix of all pairs takes more than 1.6 GB a kernel."""


def infer_batch(images: Tensor, log_probs: Tensor, params: CRFParams) -> Tensor:
    """Marginals of a batch; arguments as in `torch_backend.infer_batch`.

    Raises:
        DataError: more than `MAX_PIXELS` pixels an image.
    """
    batch, num_labels, height, width = log_probs.shape
    if height * width > MAX_PIXELS:
        raise DataError(
            f"dense CRF: exact=True takes images of up to {MAX_PIXELS} pixels, found {height}×{width}; "
            "leave exact out, or make the image smaller"
        )
    unary = log_probs.reshape(batch, num_labels, -1)
    return torch.stack([_infer(images[index], unary[index], params, index) for index in range(batch)]).view_as(
        log_probs
    )


def _infer(image: Tensor, unary: Tensor, params: CRFParams, index: int) -> Tensor:
    """Marginals `(K, N)` of one image `(H, W, C)` from `unary`, `(K, N)`."""
    num_labels = len(unary)
    potts = unary.new_zeros(unary.shape[1], unary.shape[1])  # all kernels of one strength a label pair, added up
    others: list[tuple[Tensor, Tensor]] = []
    for kernel in params.kernels:
        matrix = _kernel_matrix(image, kernel, index)
        if isinstance(kernel.weight, tuple):
            others.append((matrix, torch.from_numpy(label_costs(kernel.weight, num_labels)).to(unary.device)))
        else:
            potts.add_(matrix, alpha=kernel.weight)
    marginals = unary.softmax(dim=0)
    for _ in range(params.iterations):
        energy = unary + marginals @ potts
        for matrix, costs in others:
            energy -= costs @ (marginals @ matrix)
        marginals = energy.softmax(dim=0)
    return marginals


def _kernel_matrix(image: Tensor, kernel: Kernel | FeatureKernel, index: int) -> Tensor:
    """`k(i, j) / √(n(i) n(j))` between all pixels, `(N, N)` float32."""
    if isinstance(kernel, FeatureKernel) and kernel.features.ndim == 4:
        kernel = FeatureKernel(features=kernel.features[index], weight=kernel.weight)
    features, _ = kernel_features(image[None], kernel)
    matrix = image.new_zeros(2 * (features[0, ..., 0].numel(),))
    for feature in features.reshape(-1, features.shape[-1]).T:
        matrix.addcmul_(*2 * (feature[:, None] - feature[None],))
    matrix.mul_(-0.5).exp_()
    norm = matrix.sum(dim=1, dtype=torch.float64).rsqrt().to(matrix.dtype)
    return matrix.mul_(norm[:, None]).mul_(norm[None])
