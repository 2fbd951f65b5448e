"""Seeds of any encoder, without training and without a gradient: its patch tokens, held against the class words.

An encoder that embeds any text scores the image's classes against background words, and each map is stretched to 0…1:

    map_c = softmax_c(scale · cos(patch, text))    over the image's classes and the background words

One that knows only the classes has nothing to score them against: its maps are the cosines, 0 where those are
negative, and they are not stretched. Nothing spreads or sharpens the maps but the dense CRF, for there is no attention
to do it with: where the encoder's blocks lie open, "patch_text" is better.

References:
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021: the softmax.
    Zhou et al., "Extract Free Dense Labels from CLIP" (MaskCLIP), ECCV 2022: patches held against class words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.clip import Encoder
from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError, DataError
from weakclip.seeds.base import CAM
from weakclip.seeds.class_text import background_words, check_template, encode_words, patch_scores
from weakclip.seeds.kinds import EncoderSeeds, SeedRun
from weakclip.seeds.refinement import image_cam, image_tensor, no_cam, stretch
from weakclip.store.ranges import SCALES, check_range

COSINE_POWER = 8.0
"""Exponent of the background score that suits plain cosines: a cosine far from 1 is a strong response already, and at
an exponent of 1 nearly everything is background."""


@dataclass(frozen=True, kw_only=True)
class CosineSettings:
    """How `CosineSeeds` makes its maps.

    Args:
        prompt_templates: sentences around each class and background word; `{}` stands for the word. A word's direction
            is the mean over the sentences. An encoder that knows only the classes is asked for their bare names.
        scale: factor on the image's sides, 0.1…100, before the encoder sees it.
    """

    prompt_templates: tuple[str, ...] = ("a photo of a {}.",)
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.prompt_templates:
            raise ConfigError("prompt_templates: one sentence or more expected; found none")
        for template in self.prompt_templates:
            check_template(template, "prompt_templates")
        check_range(self, "scale", **SCALES)


class CosineSeeds:
    """Class activation maps of any encoder for the classes among an image's labels.

    Args:
        clip: the encoder; images go to its device.
        class_set: `prompts` are scored, against `background_prompts` (or `BACKGROUND_PROMPTS` without the class names);
            of an encoder that knows only some texts, the names.
        settings: see `CosineSettings`.

    Raises:
        DataError: a class that the encoder does not know.
    """

    def __init__(self, clip: Encoder, class_set: ClassSet, settings: CosineSettings | None = None) -> None:
        self.clip = clip
        self.settings = settings or CosineSettings()
        templates = self.settings.prompt_templates
        self.background_text: Tensor | None = None
        if clip.known_texts is None:
            self.foreground_text = encode_words(clip, class_set.prompts[1:], templates)
            self.background_text = encode_words(clip, background_words(class_set), templates)
        else:
            self.foreground_text = encode_words(clip, _known(clip, class_set.names[1:]), ("{}",))

    def cam(self, sample: Sample) -> CAM:
        """Maps of the sample's classes at the size of its image.

        Args:
            sample: image `(H, W, 3)` uint8 and its labels.

        Returns:
            `CAM` with maps `(n, H, W)` float32, 0…1; none for a sample without labels.
        """
        if not sample.labels:
            return no_cam(sample)
        with torch.no_grad():
            features = self.clip.encode_image(image_tensor(sample, self.settings.scale, self.clip.device))
        patches = features.patches[0].float()
        text = self.foreground_text[[label - 1 for label in sample.labels]]
        if self.background_text is None:
            cosines = (F.normalize(patches, dim=-1) @ text.T).relu()
            return image_cam(sample, cosines.T.unflatten(1, features.grid), background_power=COSINE_POWER)
        scores = patch_scores(patches, text, self.background_text, self.clip.logit_scale)
        return image_cam(sample, stretch(scores.T.unflatten(1, features.grid)))


def _known(clip: Encoder, names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in (clip.known_texts or ())]
    if unknown:
        raise DataError(f"{clip.source}: this encoder does not know the class {', '.join(map(repr, unknown))}")
    return names


@dataclass(frozen=True, kw_only=True)
class CosineSeedSettings(EncoderSeeds):
    """Maps of any encoder, by the cosines of its patches and the class words.

    Args:
        cosine: how the maps are made.
    """

    method: Literal["cosine"] = "cosine"
    cosine: CosineSettings = field(default_factory=CosineSettings)

    def make(self, run: SeedRun) -> CosineSeeds:
        """The method with these settings."""
        return CosineSeeds(run.clip(), run.dataset.class_set, self.cosine)
