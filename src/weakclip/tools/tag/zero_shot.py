"""Which classes an image shows, told by a frozen CLIP without any training.

CLIP scores the class prompts and the background prompts in one softmax, zero-shot (Radford et al., ICML 2021), in the
sentence that the seeds use; an encoder that was trained with a sigmoid (SigLIP) scores each class by itself. Square
windows that cover the image are scored one by one, and an image's score of a class is that of its best window: an
object at the edge counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from weakclip.clip import Encoder
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import fit_factor, image_size, read_rgb, resize_rgb
from weakclip.errors import EncoderError
from weakclip.inference.stitching import window_starts
from weakclip.seeds import GradCAMSettings
from weakclip.seeds.class_text import background_words, check_template, encode_words
from weakclip.store.ranges import check_range


@dataclass(frozen=True, kw_only=True)
class TagSettings:
    """How labels are proposed.

    Args:
        threshold: a class is proposed from this score on, 0…1.
        prompt_template: sentence around each class and background word; `{}` stands for the word.
        batch_size: windows that go through CLIP together.
    """

    threshold: float = 0.05
    prompt_template: str = GradCAMSettings.prompt_template
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_range(self, "threshold", least=0, most=1)
        check_range(self, "batch_size", least=1)
        check_template(self.prompt_template)


class Tagger:
    """Scores of the foreground classes of a class set.

    Args:
        clip: the CLIP, or another encoder that embeds any text; images go to its device.
        class_set: `prompts` are scored among `background_prompts` (or `BACKGROUND_PROMPTS` without the class words).
        settings: see `TagSettings`.

    Raises:
        EncoderError: an encoder that knows only some texts: it cannot tell the classes from everything else.
    """

    def __init__(self, clip: Encoder, class_set: ClassSet, settings: TagSettings) -> None:
        if clip.known_texts is not None:
            known = len(clip.known_texts)
            raise EncoderError(
                f"{clip.source}: knows only {known} texts; tagging needs an encoder that embeds any text"
            )
        self.clip = clip
        self.settings = settings
        self.words = (*class_set.prompts[1:], *background_words(class_set))
        self.classes = class_set.num_classes - 1
        self.text = encode_words(clip, self.words, (settings.prompt_template,))

    def scores(self, images: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Scores of some images.

        Args:
            images: of each, its windows, as `tag_windows` gives them.

        Returns:
            `(len(images), K-1)` float32, 0…1: of the foreground classes in their order.
        """
        windows = [window for image in images for window in image]
        step = self.settings.batch_size
        batches = [self._probabilities(windows[first : first + step]) for first in range(0, len(windows), step)]
        of_windows = np.concatenate(batches)
        first_windows = np.cumsum([0, *(len(image) for image in images[:-1])])
        best: np.ndarray = np.maximum.reduceat(of_windows, first_windows, axis=0)
        return best

    def _probabilities(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2).to(self.clip.device)
        with torch.no_grad():
            embeddings = self.clip.encode_image(pixels).image_embeddings
        logits = self.clip.logit_scale * F.normalize(embeddings, dim=-1) @ self.text.T
        bias = getattr(self.clip, "logit_bias", None)
        scores = logits.softmax(dim=-1) if bias is None else (logits + bias).sigmoid()
        return scores[:, : self.classes].float().cpu().numpy()


def tag_windows(path: Path, side: int) -> list[np.ndarray]:
    """Square windows that cover an image whose shorter side has been brought to the window's.

    Args:
        path: the image file; it is decoded at a reduced size where that is enough.
        side: side of the windows, pixels.

    Returns:
        `(side, side, 3)` uint8 each; of an image more than eight times as long as wide, eight that are stretched.

    Raises:
        DataError: an image that cannot be read.
    """
    height, width = image_size(path)
    factor = fit_factor((height, width), side)
    size = max(side, round(height * factor)), max(side, round(width * factor))
    image = resize_rgb(read_rgb(path, longest_side=max(size)), size)
    return [
        image[top : top + side, left : left + side]
        for top in window_starts(size[0], side, side)
        for left in window_starts(size[1], side, side)
    ]
