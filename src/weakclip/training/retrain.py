"""Train an ordinary segmentation network on masks, as if a person had drawn them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.classes import IGNORE_INDEX
from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import ConfigError
from weakclip.segmenter import DEEPLAB, Segmenter, build_segmenter, save_segmenter
from weakclip.training.loading import Batch
from weakclip.training.loop import fit
from weakclip.training.pairs import TrainingPairs
from weakclip.training.settings import TrainResult, TrainSettings


@dataclass(frozen=True, kw_only=True)
class RetrainSettings:
    """Which network is trained on the pseudo masks, and how.

    Args:
        model: "small" for a small UperNet from scratch, or what `AutoModelForSemanticSegmentation` takes: an id on
            the hub or a folder. SegFormer MiT-B2 is the paper's best on COCO. "deeplab_resnet38" is DeepLabV1 with a
            ResNet38, the paper's network on VOC; its folder is loaded by `load_segmenter`, and by no AutoModel.
        pretrained: for "deeplab_resnet38" alone: a torch checkpoint of its ResNet38, whose norms and first convolution
            then stay; None for fresh weights, which are all trained.
        train: how long and how; learning rate and weight decay are those of SegFormer (Xie et al., NeurIPS 2021).
        augment: the augmentation.
    """

    model: str = "nvidia/mit-b2"
    pretrained: str | None = None
    train: TrainSettings = field(default_factory=lambda: TrainSettings(learning_rate=6e-5, weight_decay=0.01))
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if self.pretrained is not None and self.model != DEEPLAB:
            raise ConfigError(
                f"pretrained: null expected for {self.model}; found {self.pretrained!r}, for {DEEPLAB} alone"
            )


def segmentation_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
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


def retrain(
    pairs: TrainingPairs,
    folder: Path | str,
    settings: RetrainSettings,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> TrainResult:
    """Train a network on `pairs` and write it to `folder`; a stopped training goes on where it was.

    On pseudo masks this is the last stage of the method; on a folder of true masks, the upper bound of it.

    Args:
        pairs: images and masks, augmented by `settings.augment`.
        folder: gets the network, which `AutoModelForSemanticSegmentation.from_pretrained(folder)` loads too unless it
            is "deeplab_resnet38", `log.jsonl` and `checkpoint.safetensors`.
        settings: which network, and how.
        device: where to train.
        seed: of fresh weights, data order, augmentation and dropout.

    Raises:
        WeakCLIPError: as `fit` and `build_segmenter`.
    """
    torch.manual_seed(seed)
    network: Segmenter = build_segmenter(settings.model, pairs.dataset.class_set, pretrained=settings.pretrained)
    result = fit(
        network, pairs, segmentation_loss, settings.train, folder, device=device, seed=seed, description="retraining"
    )
    save_segmenter(network, folder)
    return result
