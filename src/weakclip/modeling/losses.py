"""The training loss of WeakCLIP: seeding + boundary + matching, as pure functions.

All of them read seeds only, never pixel labels. Seeding and boundary loss look at the prediction on a small grid
(64x64 for a 512x512 crop), which `grid_probabilities` makes from the logits:

    probs = grid_probabilities(output.logits, (64, 64))
    crf_probs = dense_crf(small_images, probs.detach(), LOSS_CRF)
    loss = seeding_loss(probs, seeds) + boundary_loss(probs, crf_probs) + matching_loss(output.match_map, seeds)

References:
    Zhu et al., "WeakCLIP: Adapting CLIP for Weakly-Supervised Semantic Segmentation", IJCV 2024.
    Huang et al., "Weakly-Supervised Semantic Segmentation Network with Deep Seeded Region Growing", CVPR 2018
    (the balanced seeding loss and the boundary loss).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from weakclip.clip.recomputation import room, run_part
from weakclip.datasets.classes import IGNORE_INDEX

PROBABILITY_FLOOR = 1e-7
"""Added to every probability of the network before the rows are normalised again."""
CRF_FLOOR = 1e-4
"""Least probability that a dense CRF result keeps in the boundary loss."""
STRIPS_OF_ROOM = 16
"""The matching loss works on rows that take this part of the memory that one part of the model may keep."""
RATIO_RANGE = (0.05, 20.0)
"""Range that the boundary loss clips `Q / P` to; outside of it a pixel gives no gradient."""


def grid_probabilities(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class probabilities on a small grid, none of them zero.

    The logits are resized bilinearly, corners aligned where both sides of the grid are odd (a grid that has a middle
    pixel), then `P = (softmax + 1e-7) / (1 + K 1e-7)`.

    Args:
        logits: `(B, K, h, w)` float, any resolution.
        size: height and width of the grid.

    Returns:
        `(B, K, *size)` float32, sums to 1 over K.

    >>> grid_probabilities(torch.zeros(1, 4, 8, 8), (2, 2))[0, :, 0, 0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    if logits.shape[-2:] != size:
        corners = size[0] % 2 == 1 and size[1] % 2 == 1
        logits = functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=corners)
    probs = logits.float().softmax(dim=1) + PROBABILITY_FLOOR
    return probs / probs.sum(dim=1, keepdim=True)


def label_logits(logits: Tensor, shown: Tensor) -> Tensor:
    """Logits in which the classes that an image does not show have no part.

    A softmax of them asks what a pixel is among the image's own classes, as a mask restricted to the labels does; a
    rare class is then never outweighed by a frequent one that is absent.

    Args:
        logits: `(B, K, h, w)` float.
        shown: `(B, K)` bool, true for the background and for the classes among the image's labels.

    Returns:
        `(B, K, h, w)` float32, -10,000 for the others.

    >>> shown = torch.tensor([[True, True, False]])
    >>> label_logits(torch.zeros(1, 3, 1, 1), shown).softmax(dim=1)[0, :, 0, 0].tolist()
    [0.5, 0.5, 0.0]
    """
    return logits.float().masked_fill(~shown[:, :, None, None], -1e4)


def grid_seeds(seed_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Seeds on a small grid, by nearest neighbour: no class is invented between two others.

    Args:
        seed_mask: `(B, H, W)` or `(B, 1, H, W)` integers, class indices and `IGNORE_INDEX`.
        size: height and width of the grid.

    Returns:
        `(B, *size)` int64.

    >>> grid_seeds(torch.tensor([[[1, 255], [0, 2]]], dtype=torch.uint8), (1, 2)).tolist()
    [[[1, 255]]]
    """
    seeds = seed_mask.reshape(seed_mask.shape[0], 1, *seed_mask.shape[-2:])
    if seeds.shape[-2:] != size:
        seeds = functional.interpolate(seeds.float(), size=size, mode="nearest")
    return seeds[:, 0].long()


def seeding_loss(probs: Tensor, seed_mask: Tensor, *, class_balance: bool = False) -> Tensor:
    """Cross-entropy on the seeded pixels, background and foreground of each image with equal weight.

    `- mean_b [ sum_{u in M_0} log P_{u,0} / |M_0|  +  sum_{k>=1} sum_{u in M_k} log P_{u,k} / sum_{k>=1} |M_k| ]`

    `M_k` are the pixels that the seeds give to class k. An image without background (or foreground) seeds adds 0 there.
    Inside the foreground every pixel weighs the same, so that the largest class decides. With `class_balance` (this
    project's form, not the published one) every class that is seeded in the image, `C = {k >= 1: |M_k| > 0}`, does:

    `- mean_b [ sum_{u in M_0} log P_{u,0} / |M_0|  +  1/|C| sum_{k in C} sum_{u in M_k} log P_{u,k} / |M_k| ]`

    Both are equal on images with one class.

    Args:
        probs: `(B, K, h, w)` float, class probabilities; values below 1e-7 count as 1e-7.
        seed_mask: `(B, H, W)` integers, class indices and `IGNORE_INDEX`; another size is brought to `h, w` (nearest).
        class_balance: whether the classes of an image weigh the same, however large they are.

    Returns:
        Scalar, at least 0.

    >>> probs = torch.tensor([0.5, 0.25, 0.25]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    >>> seeds = torch.tensor([[[0, 0], [2, 255]]])
    >>> round(seeding_loss(probs, seeds).item(), 4)                       # log 2 + log 4
    2.0794
    >>> probs = torch.tensor([0.2, 0.5, 0.3]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    >>> seeds = torch.tensor([[[1, 1], [1, 2]]])
    >>> round(seeding_loss(probs, seeds).item(), 4)                       # -(3 log 0.5 + log 0.3) / 4
    0.8209
    >>> round(seeding_loss(probs, seeds, class_balance=True).item(), 4)   # -(log 0.5 + log 0.3) / 2
    0.9486
    """
    seeds = grid_seeds(seed_mask, (probs.shape[2], probs.shape[3]))
    seeded = seeds != IGNORE_INDEX
    target = torch.where(seeded, seeds, 0)
    nll = -probs.float().clamp_min(PROBABILITY_FLOOR).gather(1, target[:, None])[:, 0].log()
    background = seeded & (seeds == 0)
    foreground = seeded & (seeds != 0)
    if not class_balance:
        return (_mean_over(nll, background) + _mean_over(nll, foreground)).mean()
    classes = torch.arange(1, probs.shape[1], device=seeds.device).reshape(1, -1, 1, 1)
    member = foreground[:, None] & (seeds[:, None] == classes)
    present = member.any(dim=-1).any(dim=-1).sum(dim=1).clamp_min(1)
    return (_mean_over(nll, background) + _mean_over(nll[:, None], member).sum(dim=1) / present).mean()


def _mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """`(..., h, w)` -> `(...)`: mean over the chosen pixels, 0 where there are none."""
    total = torch.where(chosen, values, 0.0).sum(dim=(-2, -1))
    return total / chosen.sum(dim=(-2, -1)).clamp_min(1)


def boundary_loss(probs: Tensor, crf_probs: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the dense CRF's result: masks follow the edges of the image.

    `1/n sum_u sum_k Q_{u,k} log clip(Q_{u,k} / P_{u,k}, 0.05, 20)`, with `Q` floored at 1e-4, normalised and constant.

    Args:
        probs: `(B, K, h, w)` float, class probabilities `P`; values below 1e-7 count as 1e-7.
        crf_probs: `(B, K, h, w)` float, marginals of the dense CRF on `P` and the image. No gradient flows into it.

    Returns:
        Scalar; 0 where both agree.

    >>> probs = torch.tensor([0.9, 0.1]).reshape(1, 2, 1, 1)
    >>> boundary_loss(probs, probs).item()
    0.0
    >>> round(boundary_loss(probs, probs.flip(1)).item(), 4)              # 0.8 log 9
    1.7578
    """
    target = crf_probs.detach().to(probs.device).float().clamp_min(CRF_FLOOR)
    target = target / target.sum(dim=1, keepdim=True)
    ratio = target / probs.float().clamp_min(PROBABILITY_FLOOR)
    return (target * ratio.clamp(*RATIO_RANGE).log()).sum(dim=1).mean()


def matching_loss(match_map: Tensor, seed_mask: Tensor, *, temperature: float = 0.07, weight: float = 0.4) -> Tensor:
    """Cross-entropy of the match map against the seeds: text and pixels are drawn together where a class is seeded.

    `weight / (B H W) * sum_{b, u seeded} - log softmax_k(match_map / temperature)`, the map resized bilinearly to the
    seeds. The mean runs over all pixels, so an image counts by how much of it is seeded (as in the released code; the
    paper names the other two losses only).

    Args:
        match_map: `(B, K, h, w)` float, cosine similarities -1...1.
        seed_mask: `(B, H, W)` integers, class indices and `IGNORE_INDEX`.
        temperature: divisor of the similarities, above 0.
        weight: weight in the total loss; it is part of the result.

    Returns:
        Scalar, at least 0.

    >>> seeds = torch.tensor([[[0, 1], [255, 255]]])
    >>> round(matching_loss(torch.zeros(1, 2, 2, 2), seeds, weight=1.0).item(), 4)    # log 2, on half of the pixels
    0.3466
    """
    seeds = seed_mask.reshape(seed_mask.shape[0], *seed_mask.shape[-2:]).long()
    logits = match_map.float() / temperature
    height, width = seeds.shape[1:]
    tall = functional.interpolate(logits, size=(height, logits.shape[3]), mode="bilinear", align_corners=False)
    # At the seeds' size the map is large: its rows are made in strips, and each is gone before the next one.
    row = logits[:, :, 0, 0].nbytes * width
    strip = max(1, room(logits.device) // STRIPS_OF_ROOM // row)
    pairs = zip(tall.split(strip, dim=2), seeds.split(strip, dim=1), strict=True)
    nll = torch.cat([run_part(_row_nll, *pair, needed=2 * row * height) for pair in pairs], dim=1)
    return weight * nll.mean(dim=(1, 2)).mean()


def _row_nll(logits: Tensor, seeds: Tensor) -> Tensor:
    """Cross-entropy of `(B, K, rows, w)`, its rows resized to those of the seeds `(B, rows, W)`, unseeded ones 0."""
    if logits.device.type == "cpu":  # a quarter faster there; on GPUs torch goes through all channels in series
        rows = functional.interpolate(logits.flatten(0, 1), size=seeds.shape[2], mode="linear", align_corners=False)
        rows = rows.unflatten(0, logits.shape[:2])
    else:
        rows = functional.interpolate(logits, size=seeds.shape[1:], mode="bilinear", align_corners=False)
    return functional.cross_entropy(rows, seeds, ignore_index=IGNORE_INDEX, reduction="none")
