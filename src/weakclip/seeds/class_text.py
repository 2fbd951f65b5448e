"""Words in sentences, as directions in CLIP's joint space: what the maps and the labels of an image are scored with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.clip import Encoder
from weakclip.datasets.classes import BACKGROUND_PROMPTS, ClassSet
from weakclip.errors import ConfigError


def check_template(template: str, setting: str = "prompt_template") -> None:
    """Whether a sentence has a place for the word.

    Raises:
        ConfigError: it has none.
    """
    if "{}" not in template:
        raise ConfigError(f"{setting} has to hold {{}} for the class word; found {template!r}")


def background_words(class_set: ClassSet) -> tuple[str, ...]:
    """The class set's background prompts; without any, those of `BACKGROUND_PROMPTS` that are no class."""
    if class_set.background_prompts:
        return class_set.background_prompts
    return tuple(word for word in BACKGROUND_PROMPTS if word not in class_set.prompts)


def encode_words(clip: Encoder, words: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One direction a word: the mean of its unit embeddings in all sentences, of unit length itself.

    Args:
        clip: the CLIP, or another encoder.
        words: `K` words.
        templates: sentences; `{}` stands for the word.

    Returns:
        `(K, E)`.

    Raises:
        DataError: a sentence that is longer than the text tower reads.

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section
        3.1.4: the ensemble over templates is made in the space of embeddings.
    """
    of_templates = [
        F.normalize(clip.encode_text([template.replace("{}", word) for word in words]), dim=-1)
        for template in templates
    ]
    if len(of_templates) == 1:
        return of_templates[0]
    return F.normalize(sum(of_templates[1:], start=of_templates[0]), dim=-1)


def patch_scores(tokens: Tensor, foreground_text: Tensor, background_text: Tensor, scale: float) -> Tensor:
    """How probable each class is at each patch, among the classes and the background words.

    Args:
        tokens: `(N, E)`, patches in the joint space.
        foreground_text: `(n, E)`, directions of the image's classes, of unit length.
        background_text: `(m, E)`, those of the background words.
        scale: factor of the cosine similarity.

    Returns:
        `(N, n)`, 0…1; what is missing to 1 is the background's.
    """
    similarity = F.normalize(tokens, dim=-1) @ torch.cat([foreground_text, background_text]).T
    return (scale * similarity).softmax(dim=-1)[:, : len(foreground_text)]
