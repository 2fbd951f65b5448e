"""Train a segmentation network on masks, as if a person had drawn them: an ordinary one, or WeakCLIP itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import ConfigError
from weakclip.modeling import WeakCLIP, save_weakclip
from weakclip.segmenters.segmenter import DEEPLAB, Segmenter, build_segmenter, save_segmenter
from weakclip.segmenters.trunk_files import RESNET38_START
from weakclip.store.keys import NO_EFFECT
from weakclip.training.dataset import TrainingPairs
from weakclip.training.loading import Batch
from weakclip.training.loop import fit
from weakclip.training.processes import write_once
from weakclip.training.settings import RateFactor, TrainResult, TrainSettings, no_start

WEAKCLIP = "weakclip"
"""In the place of a network's name: the trained WeakCLIP of the run, trained further."""


def _segformer() -> TrainSettings:
    """Rate, decay, and ten times the rate for the fresh head, as SegFormer is trained (Xie et al., NeurIPS 2021)."""
    return TrainSettings(
        learning_rate=6e-5, weight_decay=0.01, rate_factors=(RateFactor(part="decode_head", factor=10.0),)
    )


@dataclass(frozen=True, kw_only=True)
class RetrainSettings:
    """Which network is trained on the pseudo masks, and how.

    Args:
        model: None for none: WeakCLIP is the run's only network. "weakclip" trains the run's WeakCLIP further, on all
            pixels of its own masks. "small" is a small UperNet from scratch. "deeplab_resnet38" is DeepLabV1 with a
            ResNet38, with which the authors retrain; its folder is loaded by `load_segmenter`, and by no AutoModel.
            Else what `AutoModelForSemanticSegmentation` takes: an id on the hub or a folder.
        pretrained: only for "deeplab_resnet38": the file that its ResNet38 starts from, `.params` as published, `.pth`
            or `.safetensors`. The statistics of its norms then change slowly.
        from_scratch: whether "deeplab_resnet38" may start from random weights, without `pretrained`.
        train: how long and how; learning rates and weight decay are those of SegFormer.
        augment: the augmentation.
    """

    model: str | None = None
    pretrained: str | None = None
    from_scratch: bool = field(default=False, metadata=NO_EFFECT)
    train: TrainSettings = field(default_factory=_segformer)
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if self.pretrained is not None and self.model != DEEPLAB:
            raise ConfigError(
                f"pretrained: null expected for {self.model}; found {self.pretrained!r}, which is for {DEEPLAB} only"
            )

    def check_start(self) -> None:
        """Refuse a ResNet38 that would start from random weights unasked.

        Raises:
            ConfigError: it would.
        """
        if self.model == DEEPLAB and self.pretrained is None and not self.from_scratch:
            raise ConfigError(no_start("retrain", f"{DEEPLAB} starts from ImageNet", RESNET38_START))


def segmentation_loss(model: Callable[[Tensor], Tensor], batch: Batch) -> dict[str, Tensor]:
    """Mean cross-entropy over the pixels that have a class, logits resized bilinearly to the mask.

    Args:
        model: images to logits.
        batch: `image` `(B, 3, H, W)` uint8 and `mask` `(B, H, W)` uint8, 255 where a pixel has no class.

    Returns:
        `loss`; 0 where no pixel has a class.
    """
    target = batch["mask"].long()
    logits = model(batch["image"]).float()
    logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="sum")
    return {"loss": total / (target != IGNORE_INDEX).sum().clamp_min(1)}


def weakclip_segmentation_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`segmentation_loss` of a WeakCLIP's logits."""
    return segmentation_loss(lambda images: model(images).logits, batch)


def retrain(
    pairs: TrainingPairs,
    folder: Path | str,
    settings: RetrainSettings,
    *,
    start: WeakCLIP | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> TrainResult:
    """Train a network on `pairs` and write it to `folder`; a stopped training goes on where it was.

    On pseudo masks this is the last stage of the method; on a folder of true masks, the upper bound of it.

    Args:
        pairs: images and masks, augmented by `settings.augment`.
        folder: gets the network, which `AutoModelForSemanticSegmentation.from_pretrained(folder)` loads too unless it
            is a WeakCLIP or "deeplab_resnet38", `log.jsonl` and `checkpoint.safetensors`.
        settings: which network, and how.
        start: for the model "weakclip": the trained WeakCLIP, which is trained further; None otherwise.
        device: where to train.
        seed: of fresh weights, data order, augmentation and dropout.

    Raises:
        WeakCLIPError: as `fit` and `build_segmenter`.
    """
    assert settings.model is not None, "no network to train"
    assert (start is not None) == (settings.model == WEAKCLIP), "a WeakCLIP to start from, and no other network"
    torch.manual_seed(seed)
    how, told = settings.train, "retraining"
    if start is not None:
        result = fit(start, pairs, weakclip_segmentation_loss, how, folder, device=device, seed=seed, description=told)
        write_once(lambda: save_weakclip(start, folder), device)
        return result
    network: Segmenter = build_segmenter(settings.model, pairs.dataset.class_set, pretrained=settings.pretrained)
    result = fit(network, pairs, segmentation_loss, how, folder, device=device, seed=seed, description=told)
    write_once(lambda: save_segmenter(network, folder), device)
    return result
