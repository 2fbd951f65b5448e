"""Seeds without any training: Grad-CAM of a frozen CLIP, refined by its own attention (CLIP-ES).

For an image and its labels, CLIP scores the class prompts against background prompts in one softmax. The gradient of
each class's probability at the last block's normalised input weighs that input's channels: a class activation map. The
attention of the last layers, made a symmetric doubly stochastic affinity, spreads each map from boxes of strong
response. Images and positions are resized as there, and all of it is float32.

References:
    Lin et al., "CLIP is Also an Efficient Segmenter: A Text-Driven Approach for Weakly Supervised Semantic
    Segmentation", CVPR 2023, and its released code.
    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from weakclip.clip import BlockEncoder, Encoder, FrozenCLIP
from weakclip.clip.encoder import with_blocks
from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.errors import EncoderError
from weakclip.seeds.base import CAM
from weakclip.seeds.class_text import background_words, check_template, encode_words
from weakclip.seeds.kinds import SeedRun
from weakclip.seeds.outliers import fill_outliers
from weakclip.seeds.refinement import image_tensor, no_cam, refined_cam, stretch
from weakclip.seeds.second_encoder import AttentionSeeds, SecondAffinity, spread_with
from weakclip.store.ranges import SCALES, check_range


@dataclass(frozen=True, kw_only=True)
class GradCAMSettings:
    """How `ClipGradCAM` makes its maps; the defaults are CLIP-ES's.

    Args:
        prompt_template: sentence around each class and background word; `{}` stands for the word. CLIP-ES chose this
            one for its sharp scores.
        score_from: which image embedding is scored: the mean of the patch tokens, or the class token.
        box_threshold: share of a map's maximum, 0…1, above which a response is strong.
        attention_layers: how many of the last layers' attentions are averaged; at most the depth.
        scale: factor on the image's sides, 0.1…100, before CLIP sees it.
        fill_outliers: whether outlier tokens are filled before the last layers (`outliers.py`); CLIP-ES does not.
    """

    prompt_template: str = "a clean origami {}."
    score_from: Literal["patches", "class_token"] = "patches"
    box_threshold: float = 0.4
    attention_layers: int = 8
    scale: float = 1.0
    fill_outliers: bool = False

    def __post_init__(self) -> None:
        check_template(self.prompt_template)
        check_range(self, "attention_layers", least=1)
        check_range(self, "box_threshold", least=0, most=1)
        check_range(self, "scale", **SCALES)


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
        second: a second encoder that spreads the maps; None for the attention of the first one.

    Raises:
        EncoderError: an encoder without blocks, or without a class token where that is scored.
    """

    def __init__(
        self,
        clip: Encoder,
        class_set: ClassSet,
        settings: GradCAMSettings | None = None,
        *,
        second: SecondAffinity | None = None,
    ) -> None:
        self.clip, self.second = with_blocks(as_clip_es(clip), "Grad-CAM"), second
        self.settings = settings or GradCAMSettings()
        if self.settings.score_from == "class_token" and not self.clip.prefix:
            raise EncoderError(f"{clip.source}: has no class token; set seeds.gradcam.score_from to patches")
        templates = (self.settings.prompt_template,)
        self.foreground_text = encode_words(clip, class_set.prompts[1:], templates)
        self.background_text = encode_words(clip, background_words(class_set), templates)

    def cam(self, sample: Sample) -> CAM:
        """Refined maps of the sample's classes at the size of its image.

        Args:
            sample: image `(H, W, 3)` uint8 and its labels.

        Returns:
            `CAM` with maps `(n, H, W)` float32, 0…1; none for a sample without labels.
        """
        if not sample.labels:
            return no_cam(sample)
        image = input_image(self.clip, sample, self.settings.scale)
        text = self.foreground_text[[label - 1 for label in sample.labels]]
        result = grad_cam(self.clip, image, text, self.background_text, self.settings)
        height, width = result.maps.shape[1:]
        steps = spread_with(self.second, sample, (height, width), result.attention)
        return refined_cam(sample, result.maps, steps, self.settings.box_threshold)


def as_clip_es(clip: Encoder) -> Encoder:
    """A CLIP with its positions interpolated bilinearly, as CLIP-ES has them; another encoder as it is."""
    return clip.with_positions("bilinear") if isinstance(clip, FrozenCLIP) else clip


def input_image(clip: BlockEncoder, sample: Sample, scale: float) -> Tensor:
    """A sample's image as CLIP-ES gives it to a CLIP: resized bicubically, 8 bits a channel, up to whole patches.

    Args:
        clip: the CLIP; another encoder gets the image at its own size, and fits it to its patches itself.
        sample: image `(H, W, 3)` uint8.
        scale: factor on the sides, above 0.

    Returns:
        `(1, 3, h, w)` on the encoder's device, uint8 0…255, or float 0…1 for another encoder at a scale that is not 1.
    """
    if not isinstance(clip, FrozenCLIP):
        return image_tensor(sample, scale, clip.device)
    patch = clip.patch_size
    height, width = (math.ceil(scale * side / patch) * patch for side in sample.image.shape[:2])
    resized = Image.fromarray(sample.image).resize((width, height), Image.Resampling.BICUBIC)
    return torch.tensor(np.asarray(resized), device=clip.device).permute(2, 0, 1)[None]


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
    hidden, normed, grid, attentions = _run_trunk(clip, image, settings)
    normed.requires_grad_()
    with torch.enable_grad():
        output, attention = clip.attend(clip.blocks[-1], hidden, normed)
        text = torch.cat([foreground_text, background_text])
        scores = _scores(clip, output, text, settings.score_from)
        gradients = score_gradients(scores[0, : len(foreground_text)], normed, together=normed.device.type != "cpu")
    first = clip.prefix
    weights = gradients[:, first:].mean(dim=1)
    maps = (weights @ normed[0, first:].detach().T).relu().unflatten(1, grid)
    attentions.append(attention.detach())
    mean_attention = torch.stack(attentions).mean(dim=0)[0, first:, first:]
    # Stretched twice, as in CLIP-ES: a map of tiny gradients, where the softmax is saturated, still reaches 1.
    return GradCAM(scores=scores[0].detach(), maps=stretch(stretch(maps)), attention=mean_attention)


def score_gradients(scores: Tensor, normed: Tensor, *, together: bool) -> Tensor:
    """Gradients of several scores of one graph, which stays.

    Args:
        scores: `(n,)`.
        normed: `(1, N, D)`, what they are differentiated by.
        together: in one backward pass for all, which saves an accelerator most of its launches; else in one a score,
            which was the faster way on a CPU (1 to 3 scores, 257 tokens).

    Returns:
        `(n, N, D)`.
    """
    if together:
        each = torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
        (batched,) = torch.autograd.grad(scores, normed, each, retain_graph=True, is_grads_batched=True)
        return batched[:, 0]
    return torch.cat([torch.autograd.grad(score, normed, retain_graph=True)[0] for score in scores])


@torch.no_grad()
def _run_trunk(
    clip: BlockEncoder, image: Tensor, settings: GradCAMSettings
) -> tuple[Tensor, Tensor, tuple[int, int], list[Tensor]]:
    """Input of the last block, the same through its first norm, the grid, and the attentions that are wanted so far."""
    *trunk, last = clip.blocks
    hidden, grid = clip.embed_image(image)
    attentions = []
    for left, block in zip(range(len(trunk) + 1, 1, -1), trunk, strict=True):
        if left > settings.attention_layers:
            hidden = clip.run_block(block, hidden)
        else:
            hidden = _filled(clip, hidden, grid, settings)
            hidden, attention = clip.attend(block, hidden, clip.attention_input(block, hidden))
            attentions.append(attention)
    hidden = _filled(clip, hidden, grid, settings)
    return hidden, clip.attention_input(last, hidden), grid, attentions


def _filled(clip: BlockEncoder, hidden: Tensor, grid: tuple[int, int], settings: GradCAMSettings) -> Tensor:
    return fill_outliers(hidden, grid, clip.prefix) if settings.fill_outliers else hidden


def _scores(clip: BlockEncoder, output: Tensor, text: Tensor, score_from: str) -> Tensor:
    """Softmax over the texts of the scaled cosine similarity: `(1, n+m)`."""
    tokens = clip.final_norm(output[:, :1] if score_from == "class_token" else output[:, clip.prefix :])
    embedding = clip.project(tokens.mean(dim=1))
    similarity = F.normalize(embedding, dim=-1) @ F.normalize(text, dim=-1).T
    return (clip.logit_scale * similarity).softmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class ClipGradCAMSeeds(AttentionSeeds):
    """Maps of the frozen CLIP, by the gradient of the class scores.

    Args:
        gradcam: how the maps are made.
    """

    method: Literal["clip_gradcam"] = "clip_gradcam"
    gradcam: GradCAMSettings = field(default_factory=GradCAMSettings)

    def make(self, run: SeedRun) -> ClipGradCAM:
        """The method with these settings."""
        return ClipGradCAM(run.clip(), run.dataset.class_set, self.gradcam, second=self.second())
