"""The parts that `speed.py` times: each gives its sides, functions that do the work once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from released import ReleasedWeakCLIP, released_probs
from torch import nn
from torch.utils.data import default_collate
from transformers import CLIPConfig, CLIPModel

from weakclip.clip import FrozenCLIP, load_clip
from weakclip.clip.vocabulary import tokenizer_from_merges
from weakclip.datasets import Sample, ScenesDataset
from weakclip.datasets.classes import VOC12, ClassSet
from weakclip.datasets.images import write_mask
from weakclip.datasets.transforms import AugmentSettings
from weakclip.inference.windows import InferenceSettings, predict_probs
from weakclip.modeling import WeakCLIP, build_weakclip
from weakclip.modeling.train import LossSettings, WeakCLIPLoss
from weakclip.seeds.base import SeedSettings, seed_masks
from weakclip.seeds.clip_gradcam import ClipGradCAM
from weakclip.seeds.patch_text import PatchText
from weakclip.segmenters.segmenter import build_segmenter
from weakclip.segmenters.train import segmentation_loss
from weakclip.study.cost_sides import drawn_batch, random_vit_b_16
from weakclip.training.dataset import TrainingPairs
from weakclip.training.loading import Batch
from weakclip.training.loop import LossFunction
from weakclip.training.memory_order import memory_order, set_memory_format
from weakclip.training.optimizer import build_optimizer
from weakclip.training.precision import autocast_dtype
from weakclip.training.settings import TrainSettings

Work = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """Where and how large: ViT-B/16 at 512², or tiny."""

    device: torch.device
    threads: int = 1
    batch: int = 1
    short: bool = False

    @property
    def crop(self) -> int:
        return 32 if self.short else 512

    @property
    def photo(self) -> tuple[int, int]:
        return (24, 32) if self.short else (375, 500)

    def clip(self) -> FrozenCLIP:
        torch.manual_seed(0)
        return (tiny_clip() if self.short else random_vit_b_16()).to(self.device)

    def model(self) -> WeakCLIP:
        return build_weakclip(self.clip(), VOC12)


def tiny_clip() -> FrozenCLIP:
    """A CLIP of four small layers with random weights."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    tokenizer = tokenizer_from_merges([])
    text = small | {"vocab_size": len(tokenizer), "eos_token_id": len(tokenizer) - 1}
    vision = small | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return FrozenCLIP(CLIPModel(config), tokenizer, source="tiny")


def image_of(size: tuple[int, int]) -> np.ndarray:
    """A picture of Scenes, enlarged."""
    picture = torch.from_numpy(ScenesDataset("val", count=1).image(0)).permute(2, 0, 1)[None].float()
    return torch.nn.functional.interpolate(picture, size=size, mode="bilinear")[0].byte().permute(1, 2, 0).numpy()


def step_of(model: nn.Module, loss: LossFunction, batch: Batch, optimizer: torch.optim.Optimizer, kind: str) -> Work:
    """A step as `fit` takes it, in a precision."""
    device = batch["image"].device
    dtype = autocast_dtype(kind, device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
            total = loss(model, batch)["loss"]
        total.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()

    return step


def ours(model: nn.Module) -> torch.optim.Optimizer:
    set_memory_format(model, memory_order(next(model.parameters()).device))
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return build_optimizer(named, TrainSettings())


def training_step(setting: Setting, only: str = "") -> Mapping[str, Work]:
    """Forward, losses with their dense CRF, backward, bound and optimiser, at batch 1."""
    grid = setting.crop // 8
    batch, loss = drawn_batch(setting.batch, setting.crop, 21, setting.device), WeakCLIPLoss(LossSettings(size=grid))
    sides: dict[str, Work] = {}
    if only != "released":
        model = setting.model().train()
        optimizer = ours(model)
        sides |= {kind: step_of(model, loss, batch, optimizer, kind) for kind in ("bf16", "fp32")}
    if only in ("", "released"):
        theirs = ReleasedWeakCLIP(setting.model(), grid).train()
        sides["released"] = step_of(theirs, loss, batch, torch.optim.AdamW(theirs.parameters(), lr=1e-4), "fp32")
    return sides


def mask_generation(setting: Setting, only: str = "") -> Mapping[str, Work]:
    """Probabilities of a 375×500 photo at scale 1: 2 windows. At all scales and mirrored it is 46, released 52."""
    image, scales, crop = image_of(setting.photo), (1.0,), setting.crop
    model = setting.model().eval()

    def masks(kind: str) -> Work:
        how = InferenceSettings(scales=scales, flip=False, crop=crop, stride=crop * 341 // 512, precision=kind)
        return lambda: predict_probs(lambda images: model(images).logits, image, how, device=setting.device)

    pixels = torch.from_numpy(image).permute(2, 0, 1).to(setting.device)
    theirs = ReleasedWeakCLIP(model).eval()
    passes = [(scale, False) for scale in scales]
    return {
        "bf16": masks("bf16"),
        "fp32": masks("fp32"),
        "released": lambda: released_probs(theirs, pixels, passes, crop),
    }


def image_tower(setting: Setting, only: str = "") -> Mapping[str, Work]:
    """CLIP's image tower over one crop, beside the forward pass of transformers' own class."""
    clip = setting.clip()
    images = torch.randn(1, 3, setting.crop, setting.crop, device=setting.device)

    def ours(kind: str) -> Work:
        return in_precision(lambda: clip.encode_image(images), kind, setting.device)

    def theirs(kind: str) -> Work:
        network = clip.model.vision_model
        return in_precision(lambda: network(images, interpolate_pos_encoding=True), kind, setting.device)

    return {
        "fp32": ours("fp32"),
        "transformers": theirs("fp32"),
        "bf16": ours("bf16"),
        "transformers, bf16": theirs("bf16"),
    }


def in_precision(work: Work, kind: str, device: torch.device) -> Work:
    """`work` without gradients, in a precision."""
    dtype = autocast_dtype(kind, device)

    @torch.no_grad()
    def run() -> None:
        with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
            work()

    return run


def seeds(setting: Setting, only: str = "") -> Mapping[str, Work]:
    """Maps of a 375×500 photo with two labels, by either method, and their dense CRF."""
    sample, clip = Sample("photo", image_of(setting.photo), (1, 2)), setting.clip()
    gradient, words = ClipGradCAM(clip, VOC12), PatchText(clip, VOC12)
    cam = words.cam(sample)
    return {
        "clip_gradcam": lambda: gradient.cam(sample),
        "patch_text": lambda: words.cam(sample),
        "dense CRF": lambda: seed_masks(sample, cam, SeedSettings()),
    }


def retraining_step(setting: Setting, only: str = "") -> Mapping[str, Work]:
    """A step of the demo's small network: 16 crops of 64 pixels."""
    network = build_segmenter("small", VOC12).to(setting.device).train()
    batch = drawn_batch(2 if setting.short else 16, 64, 21, setting.device)
    return {"fp32": step_of(network, segmentation_loss, batch, ours(network), "fp32")}


def loading(setting: Setting, only: str = "") -> Mapping[str, Work]:
    """Four pairs read, augmented and put together, in this process."""
    dataset = ScenesDataset("train", count=4, size=max(64, setting.photo[0]))
    folder = tempfile.TemporaryDirectory()
    for index, name in enumerate(dataset.names):
        write_mask(Path(folder.name) / f"{name}.png", dataset.mask(index), dataset.class_set.palette)
    pairs = TrainingPairs(dataset, folder.name, AugmentSettings(crop_size=setting.crop))

    def load(holding: object = folder) -> None:
        default_collate([pairs[index, index] for index in range(4)])

    return {"four images": load}


def demo_step(setting: Setting, only: str = "") -> Mapping[str, Work]:
    """A step of `weakclip run demo`: 8 images of 128 pixels, the CLIP that ships with the package."""
    images, pixels = (1, 64) if setting.short else (8, 128)
    classes: ClassSet = ScenesDataset("train", count=1).class_set
    torch.manual_seed(0)
    numbers = {"co_attention_width": 128, "co_attention_layers": 2, "decoder_channels": 64}
    model = build_weakclip(load_clip("demo").to(setting.device), classes, **numbers).train()
    batch = drawn_batch(images, pixels, classes.num_classes, setting.device)
    loss, optimizer = WeakCLIPLoss(LossSettings(crf=None)), ours(model)
    return {kind: step_of(model, loss, batch, optimizer, kind) for kind in ("bf16", "fp32")}


PARTS: dict[str, Callable[..., Mapping[str, Work]]] = {
    "training step": training_step,
    "mask generation": mask_generation,
    "image tower": image_tower,
    "seeds": seeds,
    "retraining step": retraining_step,
    "loading": loading,
    "demo step": demo_step,
}
