"""Seeds without training and without a gradient: the patches of a frozen CLIP, held against the words of its classes.

CLIP's last blocks mix every patch with the whole image, so that its patch tokens do not say what lies where. A second
path beside them does: it sums what the attention of the last `L` blocks would add if tokens attended to those that are
like them, and leaves out residual and MLP. The blocks' inputs come from the ordinary path.

    y = Σ_{l > depth − L} out_proj_l(A_l v_l)        A = ⅓ (softmax(q qᵀ/√d) + softmax(k kᵀ/√d) + softmax(v vᵀ/√d))
    map_c = softmax_c(scale · cos(project(norm(y)), text))    over the image's classes and the background words

Then the maps are refined as those of Grad-CAM (`refinement.py`).

References:
    Yang et al., "Exploring CLIP's Dense Knowledge for Weakly Supervised Semantic Segmentation" (ExCEL), CVPR 2025.
    Li et al., "CLIP Surgery for Better Explainability with Enhancement in Open-Vocabulary Tasks", 2023.
    Wang et al., "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference", ECCV 2024.
    Lan et al., "ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference", ECCV 2024.
    Lin et al., "CLIP is Also an Efficient Segmenter" (CLIP-ES), CVPR 2023: background words and refinement.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from weakclip.clip import BlockEncoder, Encoder
from weakclip.clip.encoder import with_blocks
from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError
from weakclip.inference.windows import BatchLimit
from weakclip.seeds.attributes import MOST_CENTERS, attribute_centers, enriched, read_attributes
from weakclip.seeds.base import CAM, mean_cam, mirrored_cam
from weakclip.seeds.class_text import background_words, check_template, encode_words, patch_scores
from weakclip.seeds.kinds import SeedRun
from weakclip.seeds.outliers import fill_outliers
from weakclip.seeds.refinement import image_tensor, no_cam, refined_cam, stretch
from weakclip.seeds.second_encoder import AttentionSeeds, SecondAffinity, spread_with
from weakclip.seeds.self_attention import SelfAttention, self_attention
from weakclip.store.files import expand_home
from weakclip.store.ranges import SCALES, check_range


@dataclass(frozen=True, kw_only=True)
class PatchTextSettings:
    """How `PatchText` makes its maps.

    Args:
        layers: how many of the last blocks are summed; at most the depth. A single one is poor.
        attention: the weights that values are mixed with; see `self_attention`. Or several, whose maps are averaged.
        prompt_templates: sentences around each class and background word; `{}` stands for the word. A word's direction
            is the mean over the sentences.
        attributes: a YAML or JSON file with sentences about every class, which are added to its words; see
            `weakclip.seeds.attributes`. None for the words.
        attribute_centers: how many k-means centres the sentences make.
        attribute_scale: factor of the products of words and centres before the softmax that weighs the centres.
        box_threshold: share of a map's maximum, 0…1, above which a response is strong.
        attention_layers: how many of the last blocks' attentions are averaged to spread the maps; at most the depth.
        scale: factor on the image's sides, 0.1…100, before CLIP sees it; or several, whose maps are averaged.
        flip: whether the maps of the left-right mirrored image are averaged in too.
        fill_outliers: whether outlier tokens are filled before the last layers (`outliers.py`); without any, nothing
            changes.
        batch_size: images of one size that go through CLIP together on an accelerator. On a CPU, where a batch gains
            nothing, they go one by one, and no map depends on its neighbours even by rounding.
    """

    layers: int = 4
    attention: SelfAttention | tuple[SelfAttention, ...] = "mean"
    prompt_templates: tuple[str, ...] = ("a clean origami {}.",)
    attributes: str | None = None
    attribute_centers: int = 112
    attribute_scale: float = 1.0
    box_threshold: float = 0.4
    attention_layers: int = 8
    scale: float | tuple[float, ...] = 1.0
    flip: bool = False
    fill_outliers: bool = True
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not self.attentions:
            raise ConfigError("attention: one or more expected; found none")
        if not self.prompt_templates:
            raise ConfigError("prompt_templates: one sentence or more expected; found none")
        for template in self.prompt_templates:
            check_template(template, "prompt_templates")
        check_range(self, "layers", "attention_layers", "batch_size", least=1)
        check_range(self, "attribute_centers", least=1, most=MOST_CENTERS)
        check_range(self, "attribute_scale", least=0)
        check_range(self, "box_threshold", least=0, most=1)
        check_range(self, "scale", **SCALES)

    @property
    def attentions(self) -> tuple[SelfAttention, ...]:
        """The kinds of attention, one or more."""
        return self.attention if isinstance(self.attention, tuple) else (self.attention,)

    @property
    def scales(self) -> tuple[float, ...]:
        """The factors on the image's sides, one or more."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,)


@dataclass(frozen=True)
class PatchTokens:
    """The output of the second path for a batch of images.

    Args:
        tokens: `(A, B, hw, E)`, for each kind of attention the patches in the joint space, not normalised.
        attention: `(B, hw, hw)`, attention between patches, averaged over heads and the last layers.
        grid: `(h, w)`.
    """

    tokens: Tensor
    attention: Tensor
    grid: tuple[int, int]


class PatchText:
    """Class activation maps of a frozen CLIP for the classes among an image's labels, by patches and words.

    Args:
        clip: the CLIP, or another encoder whose transformer blocks lie open; images go to its device.
        class_set: `prompts` are scored, against `background_prompts` (or `BACKGROUND_PROMPTS` without the class names).
        settings: see `PatchTextSettings`.
        seed: of the k-means that attributes are put together with.
        second: a second encoder that spreads the maps; None for the attention of the first one.

    Raises:
        DataError: an attributes file that cannot be used.
        EncoderError: an encoder without blocks.
    """

    def __init__(
        self,
        clip: Encoder,
        class_set: ClassSet,
        settings: PatchTextSettings | None = None,
        *,
        seed: int = 0,
        second: SecondAffinity | None = None,
    ) -> None:
        self.clip, self.second = with_blocks(clip, "patch-text"), second
        self.settings = settings or PatchTextSettings()
        self.foreground_text = encode_words(clip, class_set.prompts[1:], self.settings.prompt_templates)
        self.background_text = encode_words(clip, background_words(class_set), self.settings.prompt_templates)
        if self.settings.attributes is not None:
            path = expand_home(self.settings.attributes)
            sentences, count = read_attributes(path, class_set), self.settings.attribute_centers
            centers = attribute_centers(clip, sentences, count, seed=seed, origin=path)
            self.foreground_text = enriched(self.foreground_text, centers, self.settings.attribute_scale)
        self._limit = BatchLimit()

    @property
    def batch_size(self) -> int:
        """How many samples are worth giving to `cams` at once."""
        return 1 if self.clip.device.type == "cpu" else self.settings.batch_size

    def cam(self, sample: Sample) -> CAM:
        """Refined maps of the sample's classes at the size of its image.

        Args:
            sample: image `(H, W, 3)` uint8 and its labels.

        Returns:
            `CAM` with maps `(n, H, W)` float32, 0…1; none for a sample without labels.
        """
        return self.cams([sample])[0]

    def cams(self, samples: Sequence[Sample]) -> list[CAM]:
        """The maps of several samples; those of one size go through CLIP together, `batch_size` at a time.

        Args:
            samples: as for `cam`, of any sizes.

        Returns:
            One `CAM` a sample, in their order.
        """
        found = {position: no_cam(sample) for position, sample in enumerate(samples) if not sample.labels}
        by_size: dict[tuple[int, ...], list[int]] = {}
        for position, sample in enumerate(samples):
            if sample.labels:
                by_size.setdefault(sample.image.shape, []).append(position)
        step = self.batch_size
        for positions in by_size.values():
            for first in range(0, len(positions), step):
                batch = positions[first : first + step]
                cams = self._of_one_size([samples[position] for position in batch])
                found |= dict(zip(batch, cams, strict=True))
        return [found[position] for position in range(len(samples))]

    def _of_one_size(self, samples: Sequence[Sample]) -> list[CAM]:
        """The mean of the maps of all scales, and of the mirrored images where they are asked for."""
        seen = [self._at_scale(samples, scale) for scale in self.settings.scales]
        if self.settings.flip:
            turned = [dataclasses.replace(each, image=each.image[:, ::-1].copy()) for each in samples]
            for scale in self.settings.scales:
                seen.append([mirrored_cam(cam) for cam in self._at_scale(turned, scale)])
        return [mean_cam(cams) for cams in zip(*seen, strict=True)]

    def _at_scale(self, samples: Sequence[Sample], scale: float) -> list[CAM]:
        """The mean of the maps of all attentions."""
        images = torch.cat([image_tensor(sample, scale, self.clip.device) for sample in samples])
        cams: list[CAM] = []
        for part in self._limit.run(lambda batch: patch_tokens(self.clip, batch, self.settings), images):
            for tokens, attention in zip(part.tokens.unbind(1), part.attention, strict=True):
                sample = samples[len(cams)]
                steps = spread_with(self.second, sample, part.grid, attention)
                cams.append(mean_cam([self._cam(sample, each, steps, part.grid) for each in tokens]))
        return cams

    def _cam(self, sample: Sample, tokens: Tensor, steps: Tensor, grid: tuple[int, int]) -> CAM:
        text = self.foreground_text[[label - 1 for label in sample.labels]]
        scores = patch_scores(tokens, text, self.background_text, self.clip.logit_scale)
        return refined_cam(sample, stretch(scores.T.unflatten(1, grid)), steps, self.settings.box_threshold)


@torch.no_grad()
def patch_tokens(clip: BlockEncoder, images: Tensor, settings: PatchTextSettings) -> PatchTokens:
    """Patches of the second path, and the attention of the ordinary one. Half precision where there is an accelerator.

    Args:
        clip: the CLIP.
        images: `(B, 3, H, W)` RGB, uint8 0…255 or float 0…1.
        settings: `layers`, `attentions` and `attention_layers` are read.

    Returns:
        `PatchTokens`, float32.
    """
    hidden, grid = clip.embed_image(images)
    blocks, first = clip.blocks, clip.prefix
    tokens, attentions = hidden.new_zeros(len(settings.attentions), *hidden.shape), []
    with _half_precision(hidden.device):
        for left, block in zip(range(len(blocks), 0, -1), blocks, strict=True):
            if settings.fill_outliers and left <= max(settings.layers, settings.attention_layers):
                hidden = fill_outliers(hidden, grid, first)
            normed = clip.attention_input(block, hidden)
            if left <= settings.layers:
                added = [self_attention(clip, block, normed, kind) for kind in settings.attentions]
                tokens = tokens + torch.stack(added)
            if left <= settings.attention_layers:
                hidden, attention = clip.attend(block, hidden, normed)
                attentions.append(attention[:, first:, first:].float())
            else:
                hidden = clip.run_block(block, hidden)
    mean_attention = torch.stack(attentions).mean(dim=0)
    projected = clip.project(clip.final_norm(tokens.flatten(0, 1))).unflatten(0, tokens.shape[:2])
    return PatchTokens(tokens=projected[:, :, first:], attention=mean_attention, grid=grid)


def _half_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in bfloat16 on accelerators; on a CPU everything stays float32."""
    return contextlib.nullcontext() if device.type == "cpu" else torch.autocast(device.type, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class PatchTextSeeds(AttentionSeeds):
    """Maps of the frozen CLIP, by its patches and the class words, without a gradient.

    Args:
        patch_text: how the maps are made.
    """

    method: Literal["patch_text"] = "patch_text"
    patch_text: PatchTextSettings = field(default_factory=PatchTextSettings)

    @property
    def is_random(self) -> bool:
        """The k-means of the attributes starts at random."""
        return self.patch_text.attributes is not None or super().is_random

    @property
    def sources(self) -> dict[str, str | None]:
        """The file with the attributes of the classes."""
        return {"class attributes": self.patch_text.attributes, **super().sources}

    def make(self, run: SeedRun) -> PatchText:
        """The method with these settings."""
        second = self.second()
        return PatchText(run.clip(), run.dataset.class_set, self.patch_text, seed=run.seed or 0, second=second)
