"""Slow, exact dense CRF: float64, every pair of pixels, O(n²) memory. The oracle of the lattices.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011. As in
the filters that it checks, a pixel sends a message to itself too.
"""

from __future__ import annotations

import numpy as np

from weakclip.crf import CRFParams, Kernel


def kernel_matrix(image: np.ndarray, kernel: Kernel) -> np.ndarray:
    """`(N, N)` kernel between all pixels of `image`, `(H, W, 3)` uint8, without its weight and normalisation."""
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width].astype(np.float64) / kernel.sxy
    features = [x.ravel(), y.ravel()]
    if kernel.srgb is not None:
        features += list(image.reshape(-1, 3).T.astype(np.float64) / kernel.srgb)
    stacked = np.stack(features, axis=1)
    squared = ((stacked[:, None] - stacked[None]) ** 2).sum(axis=2)
    return np.exp(-0.5 * squared)


def exact_dense_crf(image: np.ndarray, probs: np.ndarray, params: CRFParams) -> np.ndarray:
    """Marginals `(K, H, W)` float64 of one image, by the mean field that `weakclip.crf.dense_crf` approximates."""
    flat = probs.reshape(len(probs), -1).astype(np.float64)
    unary = -np.log(flat)
    pairwise = np.zeros((flat.shape[1], flat.shape[1]))
    for kernel in params.kernels:
        matrix = kernel_matrix(image, kernel)
        norm = matrix.sum(axis=1)
        pairwise += kernel.weight * matrix / np.sqrt(norm[:, None] * norm[None])
    marginals = flat / flat.sum(axis=0)
    for _ in range(params.iterations):
        energy = -unary + marginals @ pairwise
        energy -= energy.max(axis=0)
        marginals = np.exp(energy)
        marginals /= marginals.sum(axis=0)
    return marginals.reshape(probs.shape)
