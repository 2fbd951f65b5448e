"""Seeds without any training: Grad-CAM of a frozen CLIP, refined by its own attention (CLIP-ES).

For an image and its labels, CLIP scores the class prompts against background prompts in one softmax. The gradient of
each class's probability at the last block's normalised input weighs that input's channels: a class activation map. The
attention of the last layers, made a symmetric doubly stochastic affinity, spreads each map from boxes of strong
response.

References:
    Lin et al., "CLIP is Also an Efficient Segmenter: A Text-Driven Approach for Weakly Supervised Semantic
    Segmentation", CVPR 2023, and its released code.
    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.classes import BACKGROUND_PROMPTS, ClassSet
from weakclip.clip import BlockEncoder, Encoder
from weakclip.clip.encoder import with_blocks
from weakclip.datasets import Sample
from weakclip.errors import ConfigError, EncoderError
from weakclip.seeds.base import CAM
from weakclip.seeds.boxes import box_mask

_EPSILON = 1e-7  # as in CLIP-ES; keeps a map without response at 0


@dataclass(frozen=True, kw_only=True)
class GradCAMSettings:
    """How `ClipGradCAM` makes its maps; the defaults are CLIP-ES's.

    Args:
        prompt_template: sentence around each class and background word; `{}` stands for the word. CLIP-ES chose this
            one for its sharp scores.
        score_from: which image embedding is scored: the mean of the patch tokens, or the class token.
        box_threshold: share of a map's maximum, 0…1, above which a response is strong.
        attention_layers: how many of the last layers' attentions are averaged; at most the depth.
        scale: factor on the image's sides before CLIP sees it.
    """

    prompt_template: str = "a clean origami {}."
    score_from: Literal["patches", "class_token"] = "patches"
    box_threshold: float = 0.4
    attention_layers: int = 8
    scale: float = 1.0

    def __post_init__(self) -> None:
        if "{}" not in self.prompt_template:
            raise ConfigError(f"prompt_template has to hold {{}} for the class word; found {self.prompt_template!r}")
        if self.attention_layers < 1:
            raise ConfigError(f"attention_layers is at least 1; found {self.attention_layers}")
        if not 0 <= self.box_threshold <= 1:
            raise ConfigError(f"box_threshold lies between 0 and 1; found {self.box_threshold}")
        if self.scale <= 0:
            raise ConfigError(f"scale is above 0; found {self.scale}")


@dataclass(frozen=True)
class GradCAM:
    """Grad-CAM of one image before refinement.

    Args:
        scores: `(n+m,)` probabilities of the image's classes, then of the background prompts.
        maps: `(n, h, w)`, 0…1, one a class, on the patch grid.
        attention: `(hw, hw)`, attention between patches, averaged over heads and the last layers.
    """

    scores: Tensor
    maps: Tensor
    attention: Tensor


class ClipGradCAM:
    """Class activation maps of a frozen CLIP for the classes among an image's labels.

    Args:
        clip: the CLIP, or another encoder whose transformer blocks lie open; images go to its device.
        class_set: `prompts` are scored, against `background_prompts` (or `BACKGROUND_PROMPTS` without the class names).
        settings: see `GradCAMSettings`.

    Raises:
        EncoderError: an encoder without blocks, or without a class token where that is scored.
    """

    def __init__(self, clip: Encoder, class_set: ClassSet, settings: GradCAMSettings | None = None) -> None:
        self.clip = with_blocks(clip, "Grad-CAM")
        self.settings = settings or GradCAMSettings()
        if self.settings.score_from == "class_token" and not self.clip.prefix:
            raise EncoderError(f"{clip.source}: has no class token; set seeds.gradcam.score_from to patches")
        words = class_set.background_prompts
        if not words:
            words = tuple(word for word in BACKGROUND_PROMPTS if word not in class_set.prompts)
        self.foreground_text = self._encode(class_set.prompts[1:])
        self.background_text = self._encode(words)

    def _encode(self, words: Sequence[str]) -> Tensor:
        """`(len(words), E)`, unit length."""
        texts = [self.settings.prompt_template.replace("{}", word) for word in words]
        return F.normalize(self.clip.encode_text(texts), dim=-1)

    def cam(self, sample: Sample) -> CAM:
        """Refined maps of the sample's classes at the size of its image.

        Args:
            sample: image `(H, W, 3)` uint8 and its labels.

        Returns:
            `CAM` with maps `(n, H, W)` float32, 0…1; none for a sample without labels.
        """
        size = sample.image.shape[:2]
        if not sample.labels:
            return CAM(classes=(), maps=np.zeros((0, *size), dtype=np.float32))
        image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(self.clip.device)
        if self.settings.scale != 1 and min(size) * self.settings.scale >= 1:
            image = F.interpolate(
                image.float() / 255, scale_factor=self.settings.scale, mode="bilinear", antialias=True
            )
        text = self.foreground_text[[label - 1 for label in sample.labels]]
        result = grad_cam(self.clip, image, text, self.background_text, self.settings)
        refined = refine(result.maps, result.attention, self.settings.box_threshold)
        maps = F.interpolate(_stretch(refined)[None], size=size, mode="bilinear", align_corners=False)[0]
        return CAM(classes=tuple(sample.labels), maps=maps.float().cpu().numpy())


def grad_cam(
    clip: BlockEncoder, image: Tensor, foreground_text: Tensor, background_text: Tensor, settings: GradCAMSettings
) -> GradCAM:
    """Grad-CAM of one image for several classes at once: the trunk runs without a graph, the last block with one.

    Args:
        clip: the CLIP, or another encoder with blocks.
        image: `(1, 3, H, W)` RGB, uint8 0…255 or float 0…1.
        foreground_text: `(n, E)` embeddings of the image's classes.
        background_text: `(m, E)` embeddings of the background prompts.
        settings: see `GradCAMSettings`.

    Returns:
        `GradCAM`.
    """
    hidden, normed, grid, attentions = _run_trunk(clip, image, settings.attention_layers)
    normed.requires_grad_()
    with torch.enable_grad():
        output, attention = clip.attend(clip.blocks[-1], hidden, normed)
        text = torch.cat([foreground_text, background_text])
        scores = _scores(clip, output, text, settings.score_from)
        # One backward pass a class: measured faster on a CPU than a batched one (1 to 3 classes, 257 tokens).
        gradients = [
            torch.autograd.grad(score, normed, retain_graph=True)[0] for score in scores[0, : len(foreground_text)]
        ]
    first = clip.prefix
    weights = torch.cat(gradients)[:, first:].mean(dim=1)
    maps = (weights @ normed[0, first:].detach().T).relu().unflatten(1, grid)
    attentions.append(attention.detach())
    mean_attention = torch.stack(attentions).mean(dim=0)[0, first:, first:]
    # Stretched twice, as in CLIP-ES: a map of tiny gradients, where the softmax is saturated, still reaches 1.
    return GradCAM(scores=scores[0].detach(), maps=_stretch(_stretch(maps)), attention=mean_attention)


@torch.no_grad()
def _run_trunk(
    clip: BlockEncoder, image: Tensor, attention_layers: int
) -> tuple[Tensor, Tensor, tuple[int, int], list[Tensor]]:
    """Input of the last block, the same through its first norm, the grid, and the attentions that are wanted so far."""
    *trunk, last = clip.blocks
    hidden, grid = clip.embed_image(image)
    attentions = []
    for index, block in enumerate(trunk):
        if index < len(trunk) + 1 - attention_layers:
            hidden = clip.run_block(block, hidden)
        else:
            hidden, attention = clip.attend(block, hidden, clip.attention_input(block, hidden))
            attentions.append(attention)
    return hidden, clip.attention_input(last, hidden), grid, attentions


def _scores(clip: BlockEncoder, output: Tensor, text: Tensor, score_from: str) -> Tensor:
    """Softmax over the texts of the scaled cosine similarity: `(1, n+m)`."""
    tokens = clip.final_norm(output[:, :1] if score_from == "class_token" else output[:, clip.prefix :])
    embedding = clip.project(tokens.mean(dim=1))
    similarity = F.normalize(embedding, dim=-1) @ F.normalize(text, dim=-1).T
    return (clip.logit_scale * similarity).softmax(dim=-1)


def affinity(attention: Tensor) -> Tensor:
    """Attention as a symmetric, nearly doubly stochastic transition matrix (Sinkhorn: columns and rows in turn).

    Args:
        attention: `(N, N)`, positive.

    Returns:
        `(N, N)`.
    """
    for _ in range(3):
        attention = attention / attention.sum(dim=0, keepdim=True)
        attention = attention / attention.sum(dim=1, keepdim=True)
    return (attention + attention.T) / 2


def refine(maps: Tensor, attention: Tensor, box_threshold: float) -> Tensor:
    """Spread each map by two steps of the attention affinity, from inside its boxes of strong response.

    Args:
        maps: `(n, h, w)`, 0…1.
        attention: `(hw, hw)`.
        box_threshold: see `GradCAMSettings`.

    Returns:
        `(n, h, w)`, not stretched.
    """
    boxes = np.stack([box_mask(scores, box_threshold) for scores in maps.float().cpu().numpy()])
    inside = torch.from_numpy(boxes).to(maps.device) * maps
    steps = affinity(attention)
    spread = steps @ (steps @ inside.flatten(1).T)
    return spread.T.reshape(maps.shape)


def _stretch(maps: Tensor) -> Tensor:
    """Each map from 0 to 1."""
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    return maps / (maps.amax(dim=(1, 2), keepdim=True) + _EPSILON)
