"""The two sides of the cost study: a training step of WeakCLIP, and one of AffinityNet on ResNet38.

Both see drawn numbers in place of images and labels: what a step costs does not depend on them. A side is a plain value
that a fresh process can be sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPConfig, CLIPModel

from weakclip.clip import FrozenCLIP, load_clip
from weakclip.clip.vocabulary import tokenizer_from_merges
from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
from weakclip.modeling import ModelSettings
from weakclip.modeling.train import LossSettings, WeakCLIPLoss
from weakclip.seeds.affinitynet.model import PUBLISHED_REDUCTIONS, AffinityNet
from weakclip.seeds.affinitynet.train import batch_affinity_loss
from weakclip.segmenters.resnet38 import PUBLISHED_WIDTHS
from weakclip.training.loading import Batch
from weakclip.training.loop import LossFunction
from weakclip.training.memory_order import memory_order, set_memory_format
from weakclip.training.optimizer import build_optimizer
from weakclip.training.settings import TrainSettings


@dataclass(frozen=True)
class Training:
    """The needs of a training step.

    Args:
        model: the network.
        loss: from the model and a batch to scalars, of which `loss` is minimised.
        optimizer: of the model's trained parameters.
        clip_grad_norm: bound of the gradient's norm; None for none.
    """

    model: nn.Module
    loss: LossFunction
    optimizer: torch.optim.Optimizer
    clip_grad_norm: float | None


class Side(Protocol):
    """One side of the comparison."""

    @property
    def name(self) -> str: ...

    def build(self, device: torch.device) -> Training: ...


@dataclass(frozen=True, kw_only=True)
class WeakCLIPSide:
    """WeakCLIP with the published losses, optimiser and bound of the gradient.

    Args:
        class_set: the classes, background first.
        clip: as `load_clip` takes it; None for a ViT-B/16 with random weights and a vocabulary of bytes, whose class
            names are longer than in CLIP's own.
        model: the numbers of the model.
        loss: grid, weights and dense CRF.
    """

    class_set: ClassSet
    clip: str | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    name: str = "WeakCLIP"

    def build(self, device: torch.device) -> Training:
        """The model with fresh weights, on the device."""
        clip = load_clip(self.clip, tap_layers=self.model.tap_layers) if self.clip else random_vit_b_16()
        settings = TrainSettings()
        model = self.model.build(clip, self.class_set).to(device).train()
        set_memory_format(model, memory_order(device))
        optimizer = build_optimizer(_trained(model), settings)
        return Training(model, WeakCLIPLoss(self.loss), optimizer, settings.clip_grad_norm)


@dataclass(frozen=True, kw_only=True)
class AffinityNetSide:
    """AffinityNet as its released code trains it: frozen norms and first stages, SGD with momentum, no bound.

    Args:
        widths: of the trunk.
        reductions: of the three levels.
    """

    widths: Sequence[int] = PUBLISHED_WIDTHS
    reductions: Sequence[int] = PUBLISHED_REDUCTIONS
    name: str = "AffinityNet (ResNet38)"

    def build(self, device: torch.device) -> Training:
        """The network with random weights, on the device; its convolutions in the memory order of WeakCLIP's."""
        model = AffinityNet(widths=self.widths, reductions=self.reductions, frozen=True).to(device).train()
        set_memory_format(model, memory_order(device))
        optimizer = torch.optim.SGD(_trained(model).values(), lr=1e-6, momentum=0.9, weight_decay=5e-4)
        return Training(model, batch_affinity_loss, optimizer, None)


def random_vit_b_16() -> FrozenCLIP:
    """A CLIP of the size of ViT-B/16 (Radford et al., 2021) with random weights."""
    tokens = 49_408
    text = {"vocab_size": tokens, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    tokenizer = tokenizer_from_merges([])
    config = CLIPConfig(vision_config={"patch_size": 16}, text_config=text | {"eos_token_id": len(tokenizer) - 1})
    return FrozenCLIP(CLIPModel(config), tokenizer, source="ViT-B/16 with random weights")


def drawn_batch(size: int, crop: int, num_classes: int, device: torch.device) -> Batch:
    """A batch as training sees it: noise, and labels in blocks, a quarter of them unknown."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, crop, crop), dtype=torch.uint8, generator=generator)
    blocks = torch.randint(0, num_classes, (size, 1, 8, 8), generator=generator)
    unknown = torch.rand(size, 1, 8, 8, generator=generator) < 0.25
    masks = F.interpolate(blocks.masked_fill(unknown, IGNORE_INDEX).float(), size=(crop, crop), mode="nearest")
    return {"image": images.to(device), "mask": masks[:, 0].to(torch.uint8).to(device)}


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
