"""The base of encoders: pixel statistics, evaluation mode for ever, a fingerprint, and numbers that many share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn

from weakclip.clip.encoder import MAPS, Encoder


class FrozenEncoder(nn.Module):
    """Base of encoders: what they share. One of your own adds the rest of `Encoder`; numbers are plain attributes.

    Args:
        source: where the weights come from, in a few words.
        pixel_mean: mean of RGB pixels in 0…1 that the weights were trained with.
        pixel_std: standard deviation of RGB pixels in 0…1 that the weights were trained with.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    image_size: int = 224
    layer_scales: tuple[float, ...] = (1.0,) * MAPS
    context_length: int = 77
    prompt_position: int = 0
    known_texts: frozenset[str] | None = None
    logit_scale: float = 100.0
    logit_bias: float | None = None
    """The offset of a scaled cosine before a sigmoid, in encoders that were trained with one (SigLIP)."""

    def __init__(
        self,
        *,
        source: str,
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.source = source
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std, dtype=torch.float32).view(3, 1, 1))

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: `mode` is ignored, so that no parent can wake dropout."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pixel_mean.device

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels as the image tower wants them.

        Args:
            images: `(B, 3, H, W)` RGB, uint8 0…255 or float 0…1.

        Returns:
            `(B, 3, H, W)` in the type of the weights.

        Raises:
            ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are (B, 3, H, W); found {tuple(images.shape)}")
        pixels = images.to(self.pixel_mean.dtype)
        if not images.is_floating_point():
            pixels = pixels / 255
        return (pixels - self.pixel_mean) / self.pixel_std

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts in the joint embedding space.

        Args:
            texts: `K` texts.

        Returns:
            `(K, E)`, not normalised.

        Raises:
            DataError: a text that is too long, or that the encoder does not know.
        """
        encoder = cast(Encoder, self)
        return encoder.encode_text_embeddings(*encoder.token_embeddings(texts))

    def fingerprint(self) -> str:
        """Sixteen hex digits of all weights and buffers."""
        return weights_fingerprint(self)

    def describe(self) -> str:
        """The class, the source and the widths."""
        encoder = cast(Encoder, self)
        widths = ", ".join(map(str, encoder.layer_widths))
        return f"{type(self).__name__} with maps of {widths} channels, joint width {encoder.embed_dim}"


def weights_fingerprint(module: nn.Module) -> str:
    """Sixteen hex digits of everything in a module's state: other names or values, other digits."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
