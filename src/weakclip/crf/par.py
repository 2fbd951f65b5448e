"""Pixel-adaptive refinement: probabilities flow to neighbours of like colour, some steps far, on any device.

Every pixel takes the mean of 8 neighbours at each of several distances, again and again. With `n` over the neighbours
of a pixel `i`, `I` its colour, `σ_c(i)` the standard deviation of a channel over its neighbours and `σ` that of their
distances `d_n`,

    w_n(i) = ( softmax_n( -mean_c( |I_n - I_i| / (0.3 σ_c(i)) )² ) + 0.01 softmax_n( -(d_n / (0.3 σ))² ) ) / 1.01
    P_i(k) <- Σ_n w_n(i) P_n(k)

where the square is taken of each channel before the mean. Beyond an edge of the image lies its last pixel.

References:
    Ru, Zhan, Yu and Du, "Learning Affinity from Attention: End-to-End Weakly-Supervised Semantic Segmentation with
    Transformers", CVPR 2022, section 3.3. There the weights sum to 1.01, which changes no class's rank.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from weakclip.crf.params import PARParams
from weakclip.errors import DataError

_COLOUR_WIDTH, _POSITION_WIDTH, _POSITION_SHARE = 0.3, 0.3, 0.01
_SMALLEST = 1e-8  # of a standard deviation: where all neighbours are alike, all count the same


@torch.no_grad()
def refine_batch(images: Tensor, probs: Tensor, params: PARParams) -> Tensor:
    """Probabilities after pixel-adaptive refinement.

    Args:
        images: `(B, C, H, W)` floating point, of any range: the colours' own deviation divides them.
        probs: `(B, K, H, W)` floating point on the same device, 0 or more, of a positive sum over K.
        params: distances and steps.

    Returns:
        `(B, K, H, W)` float32, summing to 1 over K.

    Raises:
        DataError: shapes that do not fit.
    """
    if images.ndim != 4 or probs.ndim != 4 or images.shape[0] != probs.shape[0] or images.shape[2:] != probs.shape[2:]:
        found = f"an image {tuple(images.shape)} and probabilities {tuple(probs.shape)}"
        raise DataError(f"PAR: found {found}; expected (B, C, H, W) and (B, K, H, W) of one size")
    flowing = probs.float() / probs.float().sum(dim=1, keepdim=True)
    weights = _weights(images.float(), params.dilations) if params.iterations else flowing
    for _ in range(params.iterations):
        total = torch.zeros_like(flowing)
        for weight, neighbour in zip(weights.unbind(1), _neighbours(flowing, params.dilations), strict=True):
            total.addcmul_(weight[:, None], neighbour)
        flowing = total
    return flowing


def _offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    return [(y * dilation, x * dilation) for dilation in dilations for y, x in around]


def _neighbours(values: Tensor, dilations: tuple[int, ...]) -> Iterator[Tensor]:
    """Views of `(B, C, H, W)`: of every pixel one of its neighbours."""
    height, width, far = values.shape[2], values.shape[3], max(dilations)
    padded = torch.nn.functional.pad(values, (far, far, far, far), mode="replicate")
    for y, x in _offsets(dilations):
        yield padded[:, :, far + y : far + y + height, far + x : far + x + width]


def _weights(images: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """`(B, N, H, W)`, summing to 1 over the N neighbours; one neighbour's colours are in memory at a time."""
    offsets = _offsets(dilations)
    mean = sum(_neighbours(images, dilations), torch.zeros_like(images)) / len(offsets)
    variance = torch.zeros_like(images)
    for neighbour in _neighbours(images, dilations):
        variance += (neighbour - mean).square() / (len(offsets) - 1)
    scale = 1 / (_COLOUR_WIDTH * variance.sqrt() + _SMALLEST)
    alike = [((each - images) * scale).square().mean(dim=1) for each in _neighbours(images, dilations)]
    distances = torch.tensor(offsets, dtype=torch.float32, device=images.device).norm(dim=1)
    near = (-(distances / (_POSITION_WIDTH * distances.std())).square()).softmax(dim=0)
    colours = torch.stack(alike, dim=1).neg_().softmax(dim=1)
    return colours.add_(_POSITION_SHARE * near[:, None, None]).div_(1 + _POSITION_SHARE)
