"""A second encoder's affinity: patches that DINOv2 or its like sees as one thing share the response of a class.

    A = softmax over the positive entries of  g · (x xᵀ − b · mean(x xᵀ))        g = 3, b = 1.2

of patches x of unit length. It replaces the attention of the first encoder in the refinement of the maps
(`refinement.py`), or joins it.

References:
    Lan et al., "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation", ECCV 2024: the formula and
    its numbers. There it mixes the values of CLIP's last block; here it spreads the finished maps.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel

from weakclip.clip.hub_files import IMAGENET, load_pretrained, pixel_statistics
from weakclip.datasets import Sample
from weakclip.errors import WeightsError, first_line
from weakclip.inference.windows import is_out_of_memory
from weakclip.seeds.kinds import EncoderSeeds
from weakclip.store.files import expand_home
from weakclip.store.untrusted_text import one_line

SHARPNESS, SHIFT = 3.0, 1.2
"""g and b of ProxyCLIP."""

Role = Literal["replace", "join"]

WANTED = (
    "a second encoder (seeds.affinity_encoder, pseudo_masks.region_bank.encoder) is a vision transformer (DINOv2, "
    "DINOv3, RADIO, ViT)"
)


class SecondEncoder:
    """Any vision transformer of transformers that gives a token a patch.

    Args:
        model: the network; `last_hidden_state` is `(B, N, D)`, the patches last. One with a text tower, too, is asked
            for its image tower.
        source: its name, for messages.
        statistics: mean and standard deviation of its pixels 0…1.

    Raises:
        WeightsError: a network without patches.
    """

    def __init__(self, model: Any, source: str, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        self.model = getattr(model, "vision_model", model).requires_grad_(False).eval()
        patch = getattr(self.model.config, "patch_size", None)
        asked = inspect.signature(self.model.forward).parameters
        if not isinstance(patch, int) or "pixel_values" not in asked:
            raise WeightsError(f"{source}: {WANTED}; found {type(self.model).__name__}")
        self.source, self.patch_size = source, patch
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in asked else {}
        self.mean, self.std = (torch.tensor(each).view(3, 1, 1) for each in statistics)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Patches along the height and width of an image of a size in pixels, one or more."""
        return max(1, round(size[0] / self.patch_size)), max(1, round(size[1] / self.patch_size))

    def affinity(self, sample: Sample, grid: tuple[int, int], device: torch.device) -> Tensor:
        """The affinity of the patches of one image, `(hw, hw)` float32, rows summing to 1; see `patches`."""
        return foreign_affinity(self.patches(sample, grid, device))

    @torch.no_grad()
    def patches(self, sample: Sample, grid: tuple[int, int], device: torch.device) -> Tensor:
        """The patches of one image.

        Args:
            sample: image `(H, W, 3)` uint8; it is resized so that it has the patches of the grid.
            grid: `(h, w)`.
            device: where the network runs.

        Returns:
            `(hw, D)` float32.

        Raises:
            WeightsError: a network that takes no image, or gives fewer tokens than patches.
        """
        image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(device).float() / 255
        size = (grid[0] * self.patch_size, grid[1] * self.patch_size)
        image = F.interpolate(image, size=size, mode="bilinear", antialias=True)
        pixels = (image - self.mean.to(device)) / self.std.to(device)
        try:
            tokens: Tensor = self.model.to(device)(pixel_values=pixels, **self.options).last_hidden_state
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            if is_out_of_memory(error):
                raise
            raise WeightsError(
                f"{self.source}: {WANTED}; {type(self.model).__name__} cannot take an image "
                f"({one_line(first_line(error))})"
            ) from None
        count = grid[0] * grid[1]
        if tokens.ndim != 3 or tokens.shape[1] < count:
            raise WeightsError(
                f"{self.source}: a token for each of {count} patches expected of a second encoder; found "
                f"{tuple(tokens.shape)}"
            )
        return tokens[0, -count:].float()


def foreign_affinity(patches: Tensor) -> Tensor:
    """Patch similarity, sharpened and without negatives.

    Args:
        patches: `(N, D)` float.

    Returns:
        `(N, N)` float32, 0…1, rows summing to 1; a patch always keeps some weight of itself.
    """
    unit = F.normalize(patches.float(), dim=-1)
    similarity = unit @ unit.T
    scores = SHARPNESS * (similarity - SHIFT * similarity.mean())
    kept = (scores > 0) | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores.masked_fill(~kept, -torch.inf).softmax(dim=-1)


def load_second_encoder(source: str) -> SecondEncoder:
    """A second encoder from a folder in transformers' format or from the hub; it runs no code of theirs.

    Raises:
        WeightsError: none there, or one without patches.
    """
    location = str(expand_home(source)) if expand_home(source).is_dir() else source
    model, _ = load_pretrained(
        location,
        lambda settings: AutoModel,
        complaint=f"{source}: no weights to be had for a second encoder",
        advice="; name a folder in the format of transformers or a hub id, for instance "
        "facebook/dinov2-with-registers-base",
    )
    own_norm = model.config.model_type == "radio"  # it normalises pixels itself
    return SecondEncoder(model, source, pixel_statistics(location, ((0.0,) * 3, (1.0,) * 3) if own_norm else IMAGENET))


@dataclass(frozen=True)
class SecondAffinity:
    """The second encoder and what its affinity is for.

    Args:
        encoder: the second encoder.
        role: "replace" takes it in place of the attention, "join" the mean of the two.
    """

    encoder: SecondEncoder
    role: Role = "replace"


def spread_with(second: SecondAffinity | None, sample: Sample, grid: tuple[int, int], attention: Tensor) -> Tensor:
    """The matrix `(hw, hw)` that spreads the maps of a sample.

    Args:
        second: None leaves the attention.
        sample: the image.
        grid: `(h, w)` of the maps.
        attention: `(hw, hw)` of the first encoder.
    """
    if second is None:
        return attention
    affinity = second.encoder.affinity(sample, grid, attention.device)
    if second.role == "replace":
        return affinity
    return (attention / attention.sum(dim=1, keepdim=True) + affinity) / 2


@dataclass(frozen=True, kw_only=True)
class AttentionSeeds(EncoderSeeds):
    """Seeds whose maps are spread by the attention of the run's frozen encoder.

    Args:
        affinity_encoder: a second encoder whose patch similarity spreads the maps: a folder in transformers' format or
            a hub id of a vision transformer (DINOv2, DINOv3, RADIO); None for none.
        affinity_role: whether it replaces the attention of the first encoder, or joins it: the mean of the two.
    """

    affinity_encoder: str | None = None
    affinity_role: Role = "replace"

    @property
    def sources(self) -> dict[str, str | None]:
        """The second encoder's weights."""
        return {"affinity encoder": self.affinity_encoder, **super().sources}

    def second(self) -> SecondAffinity | None:
        """The second encoder, loaded, where there is one."""
        if self.affinity_encoder is None:
            return None
        return SecondAffinity(load_second_encoder(self.affinity_encoder), self.affinity_role)
