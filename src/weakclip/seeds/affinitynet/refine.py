"""Seeds refined by AffinityNet: labels that it learns from, and the random walk that spreads activation by it.

A class activation map becomes a label where two dense CRFs agree, one fed with much background and one with little.
AffinityNet learns from it which neighbours share a class. A random walk over its affinities spreads the maps.

References:
    Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
    Segmentation", CVPR 2018, and its released code.
    The released code of Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation", CVPR
    2022 (run_psa.sh, psa/infer_aff.py): powers, steps and the score of the background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.crf import LOSS_CRF, CRFParams, dense_crf
from weakclip.datasets import Sample
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.errors import ConfigError
from weakclip.seeds.affinitynet.model import AffinityNet, pair_offsets
from weakclip.seeds.base import CAM, normalized_scores, seed_probabilities
from weakclip.segmenters.resnet38 import STRIDE
from weakclip.store.ranges import check_range


@dataclass(frozen=True, kw_only=True)
class AffinityLabelSettings:
    """How class activation maps become the labels that AffinityNet learns from; defaults as in MCTformer's code.

    Args:
        low_power: exponent of the background score `(1 - max CAM)^power` under which foreground is sure.
        high_power: the same under which background is sure; at least `low_power`.
        crf: dense CRF on either, None for none.
    """

    low_power: float = 1.0
    high_power: float = 12.0
    crf: CRFParams | None = LOSS_CRF

    def __post_init__(self) -> None:
        if not 0 <= self.low_power <= self.high_power:
            found = f"{self.low_power} and {self.high_power}"
            raise ConfigError(f"low_power and high_power: 0 or more, in order, expected; found {found}")


@dataclass(frozen=True, kw_only=True)
class RandomWalkSettings:
    """How maps are spread; the defaults are those of MCTformer's code.

    Args:
        beta: exponent of the affinities; larger keeps the walk to better matches.
        log_steps: logarithm to base 2 of the number of steps (6: 64 steps).
        background: score of the background, 0…1, the same everywhere at first; it walks with the classes.
    """

    beta: float = 8.0
    log_steps: int = 6
    background: float = 0.39

    def __post_init__(self) -> None:
        check_range(self, "beta", above=0)
        check_range(self, "log_steps", least=0, most=16)
        check_range(self, "background", least=0, most=1)


def affinity_label(sample: Sample, cam: CAM, settings: AffinityLabelSettings) -> np.ndarray:
    """Sure foreground, sure background, and 255 between.

    Foreground is what wins against the larger background score, background what wins even as the smaller one.

    Args:
        sample: the image.
        cam: its class activation maps; without any, all is background.
        settings: powers and dense CRF.

    Returns:
        `(H, W)` uint8.
    """
    indices = np.array([0, *cam.classes], dtype=np.uint8)
    winners = []
    for power in (settings.low_power, settings.high_power):
        probabilities = seed_probabilities(cam, power)
        if settings.crf is not None and cam.classes:
            probabilities = dense_crf(sample.image, probabilities, settings.crf)
        winners.append(indices[probabilities.argmax(axis=0)])
    low, high = winners
    label: np.ndarray = np.where(high == 0, 0, np.where(low == 0, IGNORE_INDEX, low)).astype(np.uint8)
    return label


def random_walk(maps: Tensor, affinity: Tensor, radius: int, settings: RandomWalkSettings) -> Tensor:
    """Maps after `2^log_steps` steps of `T = D⁻¹ A^β`: each step, a pixel takes the weighted mean of its neighbours.

    The power is taken entry by entry; a pixel's affinity to itself is 1, and `D` makes the weights of each mean sum to
    1. The steps are done one by one on the neighbourhoods only: the matrix, of the grid's squared size, is never made.

    Args:
        maps: `(n, h, w)` float.
        affinity: `(P, h, w)` of the pairs within `radius`, as `pairwise_affinity` gives it for one image.
        radius: of the pairs.
        settings: `beta` and `log_steps`.

    Returns:
        `(n, h, w)`.
    """
    height, width = maps.shape[-2:]
    reach = radius - 1
    windows, weights = [(0, 0)], [torch.ones_like(affinity[0])]
    strength = affinity**settings.beta
    for (dy, dx), forward in zip(pair_offsets(radius), strength, strict=True):
        above = F.pad(forward, (reach, reach, reach, reach))
        backward = above[reach - dy : reach - dy + height, reach - dx : reach - dx + width]
        windows += [(dy, dx), (-dy, -dx)]
        weights += [forward, backward]
    means = torch.stack(weights)
    means = means / means.sum(dim=0)
    for _ in range(2**settings.log_steps):
        padded, maps = F.pad(maps, (reach, reach, reach, reach)), torch.zeros_like(maps)
        for (dy, dx), weight in zip(windows, means, strict=True):
            window = padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            maps.addcmul_(window, weight)
    return maps


class AffinityRefiner:
    """Class activation maps, spread by a trained AffinityNet.

    Args:
        model: trained, in evaluation mode; images go to its device.
        settings: see `RandomWalkSettings`.
    """

    def __init__(self, model: AffinityNet, settings: RandomWalkSettings | None = None) -> None:
        self.model = model
        self.settings = settings or RandomWalkSettings()

    @torch.no_grad()
    def probabilities(self, sample: Sample, cam: CAM) -> np.ndarray:
        """Probabilities of the background and of the classes of `cam` after the walk, before any CRF.

        Returns:
            `(1+n, H, W)` float32, the background first, summing to 1 over the first axis.
        """
        device, size = self.model.pixel_mean.device, sample.image.shape[:2]
        background = np.full((1, *size), self.settings.background, dtype=np.float32)
        scores = np.concatenate([background, cam.maps])
        pooled = F.avg_pool2d(torch.from_numpy(scores).to(device), STRIDE, ceil_mode=True)
        image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(device)
        walked = random_walk(pooled, self.model(image)[0], self.model.radius, self.settings)
        whole = F.interpolate(walked[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)[0]
        return normalized_scores(whole[:, : size[0], : size[1]].cpu().numpy())
