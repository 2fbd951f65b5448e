"""Train MCTformer+ on image-level labels: what a batch is, and what the loss is.

References:
    Xu et al., "MCTformer+: Multi-Class Token Transformer for Weakly Supervised Semantic Segmentation", 2023
    (arXiv:2308.03005), and its released code.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.clip import load_clip
from weakclip.datasets.base import ImageLabelDataset
from weakclip.errors import ConfigError
from weakclip.seeds.mctformer.augmentation import DeiTAugmentSettings, deit_augment
from weakclip.seeds.mctformer.cam import MCTformerCAMSettings
from weakclip.seeds.mctformer.model import MCTformer, MCTformerModelSettings, MCTformerOutput
from weakclip.seeds.mctformer.start import start_from_clip
from weakclip.seeds.mctformer.storage import save_mctformer, start_from_deit
from weakclip.store.keys import NO_EFFECT
from weakclip.store.ranges import check_range
from weakclip.training.loading import Batch
from weakclip.training.loop import fit
from weakclip.training.processes import write_once
from weakclip.training.settings import TrainResult, TrainSettings

WEIGHTS_FILE = "mctformer.safetensors"
DEIT_START = "deit_small_patch16_224-cd65a155.pth (dl.fbaipublicfiles.com/deit), or a CLIP as pretrained_clip"
"""The file that training starts from, and where to get it, in words."""


def _published() -> TrainSettings:
    """45 epochs of the 10,582 VOC images at batch 32; 5e-4 · 32/512; neither gradient bound nor averaged weights."""
    return TrainSettings(
        steps=14_850,
        batch_size=32,
        learning_rate=3.125e-5,
        weight_decay=0.05,
        warmup_steps=1650,
        min_learning_rate=1e-5,
        clip_grad_norm=None,
        ema_decay=0.0,
        workers=4,
    )


@dataclass(frozen=True, kw_only=True)
class MCTformerSettings:
    """An MCTformer+ that is trained for its maps.

    The defaults are those of the released code on PASCAL VOC 2012.

    Args:
        pretrained: a DeiT checkpoint that training starts from.
        pretrained_clip: instead, a CLIP (hub id, folder, or "demo") whose image tower training starts from; patch
            size, width, depth and heads of `model` are then that tower's.
        checkpoint: an MCTformer+ that is trained already (ours or a released one): nothing is trained then, and
            `model`, `train` and `augment` have no effect.
        from_scratch: whether training may start from random weights, where no file is named.
        model: the numbers of the network.
        contrast_weight: weight of the class-token contrast.
        train: how long and how.
        augment: the augmentation; positions are learned for its `crop_size`.
        cams: how maps are made of the trained network.
    """

    pretrained: str | None = None
    pretrained_clip: str | None = None
    checkpoint: str | None = None
    from_scratch: bool = field(default=False, metadata=NO_EFFECT)
    model: MCTformerModelSettings = field(default_factory=MCTformerModelSettings)
    contrast_weight: float = 1.0
    train: TrainSettings = field(default_factory=_published)
    augment: DeiTAugmentSettings = field(default_factory=DeiTAugmentSettings)
    cams: MCTformerCAMSettings = field(default_factory=MCTformerCAMSettings)

    @property
    def source(self) -> str | None:
        """The weights that are read, where there are any: a file, or what `load_clip` takes."""
        return self.checkpoint or self.pretrained or self.pretrained_clip

    def __post_init__(self) -> None:
        given = [name for name in ("pretrained", "pretrained_clip", "checkpoint") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: one of them, or none, expected")
        check_range(self, "contrast_weight", least=0)
        if self.augment.crop_size % self.model.patch_size:
            crop, patch = self.augment.crop_size, self.model.patch_size
            raise ConfigError(f"augment.crop_size: a multiple of model.patch_size {patch} expected; found {crop}")


class LabelledImages:
    """Augmented images and their labels, asked with `(index, rng_seed)`; no pixel label is read.

    Args:
        dataset: images and labels.
        settings: the augmentation.
    """

    def __init__(self, dataset: ImageLabelDataset, settings: DeiTAugmentSettings) -> None:
        self.dataset, self.settings = dataset, settings

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """One augmented image.

        Returns:
            `image` `(3, crop, crop)` uint8, `target` `(K-1,)` float32 with 1 for each class of the labels, and `name`.
        """
        index, rng_seed = key
        sample = self.dataset[index]
        image = deit_augment(sample.image, self.settings, np.random.default_rng(rng_seed))
        target = torch.zeros(self.dataset.class_set.num_classes - 1)
        target[[label - 1 for label in sample.labels]] = 1
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {"image": pixels, "target": target, "name": sample.name}


def class_token_contrast(class_tokens: Tensor, target: Tensor) -> Tensor:
    """Contrastive class tokens: in every layer, the token of a class in the image shall be like no other one.

    `mean_b 1/|Y_b| Σ_{k∈Y_b} mean_l −log softmax_j(cos(t_{l,b,k}, t_{l,b,j}))_k`, over all classes `j`.

    Args:
        class_tokens: `(layers, B, K-1, D)` float.
        target: `(B, K-1)`, 1 for each class of the labels, else 0.

    Returns:
        A scalar; an image without labels counts as 0.

    >>> orthogonal = torch.eye(2).view(1, 1, 2, 2)
    >>> round(class_token_contrast(orthogonal, torch.tensor([[1.0, 0.0]])).item(), 4)  # log(1 + 1/e)
    0.3133
    """
    unit = F.normalize(class_tokens, dim=-1)
    own = (unit @ unit.transpose(-1, -2)).float().log_softmax(dim=-1).diagonal(dim1=-2, dim2=-1)
    share = target / target.sum(dim=-1, keepdim=True).clamp_min(1)
    return -(own * share).sum(dim=-1).mean()


def mctformer_loss(model: nn.Module, batch: Batch, *, contrast_weight: float = 1.0) -> dict[str, Tensor]:
    """Multi-label classification by class tokens and by patches, and the contrast of the class tokens.

    Args:
        model: an `MCTformer`, or a wrapper of one.
        batch: `image` `(B, 3, H, W)` uint8 and `target` `(B, K-1)` float32.
        contrast_weight: weight of the contrast.

    Returns:
        Scalars `loss`, `class_loss`, `patch_loss` (multi-label soft margin) and `contrast_loss`, weighted.
    """
    output: MCTformerOutput = model(batch["image"])
    target = batch["target"]
    parts = {
        "class_loss": F.multilabel_soft_margin_loss(output.class_logits, target),
        "patch_loss": F.multilabel_soft_margin_loss(output.patch_logits, target),
        "contrast_loss": contrast_weight * class_token_contrast(output.class_tokens, target),
    }
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}


def train_mctformer(
    dataset: ImageLabelDataset,
    folder: Path | str,
    settings: MCTformerSettings,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> TrainResult:
    """Train an MCTformer+ and write it to `folder`; a stopped training goes on where it was.

    Args:
        dataset: images and labels.
        folder: gets `mctformer.safetensors`, `log.jsonl` and `checkpoint.safetensors`.
        settings: which network, from what, and how.
        device: where to train.
        seed: of fresh weights, data order, augmentation and stochastic depth.

    Raises:
        WeakCLIPError: as `fit`, `start_from_deit`, `load_clip` and `start_from_clip`.
    """
    torch.manual_seed(seed)
    num_classes, image_size = dataset.class_set.num_classes, settings.augment.crop_size
    model = MCTformer(num_classes, image_size=image_size, **asdict(settings.model))
    if settings.pretrained is not None:
        start_from_deit(model, settings.pretrained)
    elif settings.pretrained_clip is not None:
        images = [torch.from_numpy(dataset[index].image).permute(2, 0, 1) for index in range(min(8, len(dataset)))]
        scaled = [F.interpolate(image[None] / 255, size=(image_size, image_size), mode="bilinear") for image in images]
        start_from_clip(model, load_clip(settings.pretrained_clip), torch.cat(scaled))
    training = LabelledImages(dataset, settings.augment)
    loss = partial(mctformer_loss, contrast_weight=settings.contrast_weight)
    result = fit(model, training, loss, settings.train, folder, device=device, seed=seed, description="MCTformer+")
    write_once(lambda: save_mctformer(model, Path(folder) / WEIGHTS_FILE), device)
    return result
