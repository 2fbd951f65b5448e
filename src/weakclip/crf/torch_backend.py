"""Mean field in torch, batched, on any device: for GPUs, for machines without numba, and to read before `cpu/`.

The lattice is the one of `cpu/lattice.py`, found by sorting instead of hashing: each vertex is one integer, `unique`
numbers them, and `searchsorted` finds neighbours, whose integers differ by a constant. The images of a batch share
one table of vertices; their number is part of the integer.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from weakclip.crf.features import (
    colour_widths,
    feature_array,
    feature_spans,
    has_phantom,
    key_strides,
    label_costs,
    lattice_scale,
    neighbour_steps,
    position_widths,
)
from weakclip.crf.params import CRFParams, FeatureKernel, Kernel

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)


@dataclass(frozen=True)
class Lattice:
    """The lattice of N pixels: V vertices; row V of a table of values is always zero.

    Args:
        vertices: `(N, d+1)` int64, the vertices of each pixel's simplex.
        weights: `(N, d+1)` float32, with which pixels are splatted and sliced.
        neighbours: `(d+1, 2, V)` int64, both neighbours along each axis, V where there is none.
    """

    vertices: Tensor
    weights: Tensor
    neighbours: Tensor

    def filter(self, signal: Tensor) -> Tensor:
        """Splat, blur and slice `signal`, `(N, K)`."""
        return self.slice(self.blur(self.splat(signal)))

    @cached_property
    def splatting(self) -> Tensor:
        """The weights as a sparse matrix `(V + 1, N)`: each row sums its pixels in their order, so that the result can
        be reproduced on any device."""
        order = self.vertices.flatten().argsort(stable=True)
        size = self.neighbours.shape[2] + 1
        rows = torch.searchsorted(self.vertices.flatten()[order], torch.arange(size + 1, device=order.device))
        pixels = order // self.vertices.shape[1]
        return _sparse(rows, pixels, self.weights.flatten()[order], (size, len(self.vertices)))

    @cached_property
    def slicing(self) -> Tensor:
        """The weights as a sparse matrix `(N, V + 1)`."""
        count, corners = self.vertices.shape
        rows = torch.arange(count + 1, device=self.vertices.device) * corners
        size = self.neighbours.shape[2] + 1
        return _sparse(rows, self.vertices.flatten(), self.weights.flatten(), (count, size))

    def splat(self, signal: Tensor) -> Tensor:
        """Write `signal`, `(N, K)`, to the vertices: a table `(V + 1, K)`."""
        return self.splatting @ signal

    def blur(self, values: Tensor) -> Tensor:
        """Blur a table `(V + 1, K)` with (½, 1, ½) along each axis in turn, in place."""
        for after, before in self.neighbours:
            values[:-1] = values[:-1] + 0.5 * (values[after] + values[before])
        return values

    def slice(self, values: Tensor) -> Tensor:
        """Read the pixels back from a table `(V + 1, K)`: `(N, K)`."""
        return self.slicing @ values


def _sparse(rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(rows, columns, values, size, check_invariants=False)


def infer_batch(images: Tensor, log_probs: Tensor, params: CRFParams) -> Tensor:
    """Marginals of a batch.

    Args:
        images: `(B, H, W, C)` float32, levels 0…255.
        log_probs: `(B, K, H, W)` float32 on the same device.
        params: kernels and iterations.

    Returns:
        `(B, K, H, W)` float32.
    """
    if log_probs.device.type == "mps":  # has no sparse products
        return infer_batch(images.cpu(), log_probs.cpu(), params).to(log_probs.device)
    batch, num_labels, height, width = log_probs.shape
    unary = log_probs.permute(0, 2, 3, 1).reshape(-1, num_labels)
    marginals = unary.softmax(dim=1)
    lattices = [_normalised_lattice(images, kernel) for kernel in params.kernels]
    costs = [torch.from_numpy(label_costs(kernel.weight, num_labels)).to(unary.device) for kernel in params.kernels]
    for _ in range(params.iterations):
        energy = unary.clone()
        for lattice, matrix in zip(lattices, costs, strict=True):
            energy -= lattice.filter(marginals) @ matrix
        marginals = energy.softmax(dim=1)
    return marginals.reshape(batch, height, width, num_labels).permute(0, 3, 1, 2).contiguous()


def kernel_features(images: Tensor, kernel: Kernel | FeatureKernel) -> tuple[Tensor, tuple[float, ...]]:
    """The features of a kernel, `(B, H, W, d)` float32 in standard deviations, and the range of each feature."""
    batch, height, width, channels = images.shape
    if isinstance(kernel, FeatureKernel):
        given = kernel.features.detach() if torch.is_tensor(kernel.features) else feature_array(kernel).copy()
        features = torch.as_tensor(given, dtype=torch.float32, device=images.device)
        features = features.expand(batch, *features.shape[-3:]).permute(0, 2, 3, 1)
        spans = features.amax((0, 1, 2)).clamp(min=0) - features.amin((0, 1, 2)).clamp(max=0)
        return features, tuple(spans.tolist())
    sx, sy = position_widths(kernel)
    y = torch.arange(height, dtype=torch.float32, device=images.device) / sy
    x = torch.arange(width, dtype=torch.float32, device=images.device) / sx
    features = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(batch, height, width, 2)
    if kernel.srgb is not None:
        colours = images / torch.from_numpy(colour_widths(kernel, channels).copy()).to(images.device)
        features = torch.cat([features, colours], dim=-1)
    return features, feature_spans(kernel, height, width, channels)


def _normalised_lattice(images: Tensor, kernel: Kernel | FeatureKernel) -> Lattice:
    """The lattice of one kernel, its weights times `√(gain / norm)` (the symmetric normalisation)."""
    batch, height, width, _ = images.shape
    features, spans = kernel_features(images, kernel)
    dimensions = features.shape[-1]
    strides = key_strides(spans, batch)
    num_points = height * width
    features = torch.nn.functional.pad(features.reshape(batch, -1, dimensions), (0, 0, 0, int(has_phantom(num_points))))
    image_codes = torch.arange(batch, device=images.device).repeat_interleave(features.shape[1]) * int(strides[-1])
    codes, weights = _embed(features.reshape(-1, dimensions), torch.from_numpy(strides[:-1]).to(images.device))
    unique, vertices = torch.unique(codes + image_codes[:, None], return_inverse=True)
    vertices, weights = (x.view(batch, -1, dimensions + 1)[:, :num_points].flatten(0, 1) for x in (vertices, weights))
    neighbours = torch.stack([_find(unique, [step, -step]) for step in neighbour_steps(strides).tolist()])
    lattice = Lattice(vertices, weights, neighbours)
    norm = lattice.filter(torch.ones_like(weights[:, :1]))
    return Lattice(vertices, weights / (norm + 1e-20).sqrt(), neighbours)


def _find(codes: Tensor, steps: list[int]) -> Tensor:
    """`(len(steps), V)`: the vertex with each code plus step, V where there is none; `codes` ascend."""
    found = []
    for step in steps:
        sought = codes + step
        position = torch.searchsorted(codes, sought).clamp(max=len(codes) - 1)
        found.append(torch.where(codes[position] == sought, position, len(codes)))
    return torch.stack(found)


def _embed(features: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of the vertices and barycentric weights of each pixel, both `(N, d+1)`, as `cpu/lattice.py` finds them."""
    num_pixels, dimensions = features.shape
    size = dimensions + 1
    elevated = _elevate(features)
    nearest = torch.round(elevated * (1 / size))
    origin = nearest * size
    order = torch.argsort(elevated - origin, dim=1, descending=True, stable=True)
    rank = torch.argsort(order, dim=1) + nearest.sum(dim=1, keepdim=True).long()
    wrap = (rank < 0).long() - (rank >= size).long()  # a rounded point off the plane is brought back
    rank, origin = rank + wrap * size, origin + wrap * size
    share = (elevated - origin) * (1 / size)
    weights = features.new_zeros(num_pixels, size + 1)
    weights.scatter_add_(1, size - 1 - rank, share).scatter_add_(1, size - rank, -share)
    weights[:, 0] += 1 + weights[:, size]
    remainder = torch.arange(size, device=features.device)[None, :, None]
    step = torch.where(rank[:, None, :-1] < size - remainder, remainder, remainder - size)
    codes = ((origin[:, None, :-1].long() + step) * strides).sum(dim=2)
    return codes, weights[:, :size].contiguous()


def _elevate(features: Tensor) -> Tensor:
    """Project d features onto the plane of d + 1 coordinates that sum to zero, in the original's order of rounding."""
    scaled = features * torch.from_numpy(lattice_scale(features.shape[1])).to(features.device)
    total = torch.zeros_like(scaled[:, 0])
    columns = []
    for j in range(features.shape[1], 0, -1):
        columns.append(total - j * scaled[:, j - 1])
        total = total + scaled[:, j - 1]
    return torch.stack([total, *reversed(columns)], dim=1)
