"""Train AffinityNet on labels made of class activation maps: what a batch is, and what the loss is.

References:
    Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
    Segmentation", CVPR 2018, and its released code.
    The released code of Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation", CVPR
    2022 (psa/train_aff.py, run_psa.sh): the numbers of the training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from weakclip.datasets.base import ImageLabelDataset
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import ConfigError
from weakclip.seeds.affinitynet.model import PUBLISHED_REDUCTIONS, RADIUS, AffinityNet, check_numbers, shifted
from weakclip.seeds.affinitynet.refine import AffinityLabelSettings, RandomWalkSettings
from weakclip.seeds.affinitynet.storage import save_affinitynet
from weakclip.segmenters.resnet38 import PUBLISHED_WIDTHS, STRIDE
from weakclip.segmenters.trunk_files import start_from_imagenet
from weakclip.store.keys import NO_EFFECT
from weakclip.training.dataset import TrainingPairs
from weakclip.training.loading import Batch
from weakclip.training.loop import fit
from weakclip.training.processes import write_once
from weakclip.training.settings import RateFactor, TrainResult, TrainSettings

WEIGHTS_FILE = "affinitynet.safetensors"
AFFINITY_START = "res38_cls.pth (linked from github.com/jiwoon-ahn/psa), or ResNet38's .params of ImageNet"
"""Files that training starts from, and where to get the first one, in words."""

_EPSILON = 1e-5  # of the released code; keeps the logarithms finite


def _published() -> TrainSettings:
    """5 epochs of the 10,582 VOC images at batch 8, ten times the rate for new layers; no gradient bound, no averages.

    The released optimiser gets its weight decay in the place of SGD's momentum, which is 5e-4 so.
    """
    return TrainSettings(
        steps=6610,
        batch_size=8,
        optimizer="sgd",
        schedule="poly",
        learning_rate=0.01,
        rate_factors=(RateFactor(part="f8_", factor=10.0), RateFactor(part="f9", factor=10.0)),
        momentum=5e-4,
        weight_decay=5e-4,
        warmup_steps=0,
        min_learning_rate=0.0,
        clip_grad_norm=None,
        ema_decay=0.0,
        workers=4,
    )


@dataclass(frozen=True, kw_only=True)
class AffinitySettings:
    """An AffinityNet that refines seeds; the defaults are those of MCTformer's released code on PASCAL VOC 2012.

    Args:
        pretrained: a checkpoint of a ResNet38 that training starts from, `.params` as published, `.pth` or
            `.safetensors`: its norms and its weights up to stage b2 then stay.
        from_scratch: whether training may start from random weights, without `pretrained`; all of them are trained.
        widths: channels of ResNet38's first convolution and its six stages.
        reductions: channels that its three levels are reduced to.
        radius: distance, in steps of the stride-8 grid, below which pairs of pixels are looked at.
        labels: how class activation maps become the labels that it learns from.
        train: how long and how.
        augment: the augmentation; `crop_size` is a multiple of 8.
        walk: how it spreads the maps.
    """

    pretrained: str | None = None
    from_scratch: bool = field(default=False, metadata=NO_EFFECT)
    widths: tuple[int, ...] = PUBLISHED_WIDTHS
    reductions: tuple[int, ...] = PUBLISHED_REDUCTIONS
    radius: int = RADIUS
    labels: AffinityLabelSettings = field(default_factory=AffinityLabelSettings)
    train: TrainSettings = field(default_factory=_published)
    augment: AugmentSettings = field(
        default_factory=lambda: AugmentSettings(crop_size=448, scale=(1.0, 1.0), fit_crop=False, max_class_share=1.0)
    )
    walk: RandomWalkSettings = field(default_factory=RandomWalkSettings)

    def __post_init__(self) -> None:
        check_numbers(self.widths, self.reductions, self.radius)
        if self.augment.crop_size % STRIDE:
            raise ConfigError(f"augment.crop_size: a multiple of {STRIDE} expected; found {self.augment.crop_size}")

    def build(self) -> AffinityNet:
        """The network with first weights: of `pretrained` where that is named, else from torch's global generator."""
        frozen = self.pretrained is not None
        model = AffinityNet(widths=self.widths, reductions=self.reductions, radius=self.radius, frozen=frozen)
        if self.pretrained is not None:
            start_from_imagenet(model.trunk, self.pretrained)
        return model


def grid_labels(mask: Tensor, stride: int = STRIDE) -> Tensor:
    """The label that more than half of a cell's pixels have; 255 where there is none such.

    Args:
        mask: `(B, H, W)` uint8, both sides multiples of the stride.
        stride: side of a cell, pixels.

    Returns:
        `(B, H/stride, W/stride)` uint8.

    >>> grid_labels(torch.tensor([[[3, 3], [3, 0]], [[3, 3], [0, 0]]], dtype=torch.uint8), stride=2).flatten()
    tensor([  3, 255], dtype=torch.uint8)
    """
    cells = mask.unfold(1, stride, stride).unfold(2, stride, stride).flatten(3)
    label = cells.mode(dim=-1).values
    share = (cells == label[..., None]).sum(dim=-1)
    return torch.where(2 * share > stride * stride, label, IGNORE_INDEX).to(mask.dtype)


def pair_kinds(labels: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which pairs of pixels share the background, share a foreground class, and differ.

    Args:
        labels: `(B, h, w)` uint8, 255 where none is known; a pair with such a pixel is of no kind.
        radius: of the pairs.

    Returns:
        Three times `(B, P, h, w)` bool, pairs as of `pairwise_affinity`.
    """
    own = labels[:, None].long()
    other = torch.stack(shifted(labels.long(), radius, IGNORE_INDEX), dim=1)
    known = (own != IGNORE_INDEX) & (other != IGNORE_INDEX)
    alike = known & (own == other)
    return alike & (own == 0), alike & (own != 0), known & ~alike


def affinity_loss(affinity: Tensor, labels: Tensor, radius: int) -> dict[str, Tensor]:
    """Cross-entropy of the affinities, the three kinds of pairs balanced.

    `L = L_background / 4 + L_foreground / 4 + L_different / 2`, the mean of `−log a` over pairs that share the
    background, that of `−log a` over pairs that share a foreground class, and that of `−log(1 − a)` over pairs that
    differ, each over the whole batch (released code of Ahn and Kwak, CVPR 2018).

    Args:
        affinity: `(B, P, h, w)`, 0…1.
        labels: `(B, h, w)` uint8, 255 where none is known.
        radius: of the pairs.

    Returns:
        Scalars `loss`, `background_loss`, `foreground_loss` and `different_loss`, weighted; 0 for a kind without pairs.
    """
    alike, different = -(affinity + _EPSILON).log(), -(1 + _EPSILON - affinity).log()
    names = ("background_loss", "foreground_loss", "different_loss")
    terms = zip(names, (alike, alike, different), pair_kinds(labels, radius), (4, 4, 2), strict=True)
    parts = {name: (term * kind).sum() / kind.sum().clamp_min(1) / share for name, term, kind, share in terms}
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}


def batch_affinity_loss(model: nn.Module, batch: Batch, *, radius: int = RADIUS) -> dict[str, Tensor]:
    """`affinity_loss` of an AffinityNet, or a wrapper of one, and its parts.

    Args:
        model: the network.
        batch: `image` `(B, 3, H, W)` uint8 and `mask` `(B, H, W)` uint8, sides multiples of 8.
        radius: that of the network.
    """
    return affinity_loss(model(batch["image"]), grid_labels(batch["mask"]), radius)


def train_affinity(
    dataset: ImageLabelDataset,
    label_folder: Path | str,
    folder: Path | str,
    settings: AffinitySettings,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> TrainResult:
    """Train an AffinityNet and write it to `folder`; a stopped training goes on where it was.

    Args:
        dataset: the images.
        label_folder: one PNG an image, as `seeds.affinity.affinity_label` makes them.
        folder: gets `affinitynet.safetensors`, `log.jsonl` and `checkpoint.safetensors`.
        settings: which network, from what, and how.
        device: where to train.
        seed: of fresh weights, data order, augmentation and dropout.

    Raises:
        WeakCLIPError: as `fit`, `TrainingPairs` and `start_from_imagenet`.
    """
    torch.manual_seed(seed)
    model, loss = settings.build(), partial(batch_affinity_loss, radius=settings.radius)
    pairs = TrainingPairs(dataset, label_folder, settings.augment)
    result = fit(model, pairs, loss, settings.train, folder, device=device, seed=seed, description="AffinityNet")
    write_once(lambda: save_affinitynet(model, Path(folder) / WEIGHTS_FILE), device)
    return result
