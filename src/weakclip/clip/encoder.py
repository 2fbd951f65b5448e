"""The protocol of a frozen image-text encoder: `Encoder`, and `BlockEncoder` for a few seed methods.

`FrozenCLIP` is one encoder. One of your own derives from `FrozenEncoder`, which has everything but the networks;
`examples/own_encoder.py` is a whole one that is no transformer and has no text tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from weakclip.errors import EncoderError
from weakclip.store.untrusted_text import some

MAPS = 4
"""How many maps of an image WeakCLIP reads."""


@dataclass(frozen=True)
class ImageFeatures:
    """The output of the image tower for a batch of images.

    Args:
        layers: maps `(B, D_i, h_i, w_i)` float, from the lowest layer to the highest. WeakCLIP reads four. In a ViT all
            have the size of the grid; `Encoder.layer_scales` says where they have not.
        tokens: `(B, prefix+hw, E)` float, in the joint embedding space: `prefix` others, then the patches row by row.
        grid: `(h, w)`, patches along height and width.
        prefix: how many tokens stand before the patches: 1 for a class token, more with registers, 0 for none.
        pooled: `(B, E)` float, the whole image in the joint embedding space; None where the encoder has no such thing.
    """

    layers: tuple[Tensor, ...]
    tokens: Tensor
    grid: tuple[int, int]
    prefix: int = 1
    pooled: Tensor | None = None

    @property
    def patches(self) -> Tensor:
        """The tokens of the patches, `(B, hw, E)`."""
        return self.tokens[:, self.prefix :]

    @property
    def image_embeddings(self) -> Tensor:
        """The whole images, `(B, E)`: `pooled`, or else the mean of the patches."""
        return self.patches.mean(dim=1) if self.pooled is None else self.pooled


@runtime_checkable
class Encoder(Protocol):
    """A frozen image tower and text tower with one joint embedding space. It is an `nn.Module`, too.

    What a seed method or command needs beyond this is asked for where it is used, and missing parts are one line of
    error there. Nothing of an encoder trains: WeakCLIP freezes it and keeps it in evaluation mode.
    """

    @property
    def source(self) -> str:
        """Where the weights come from, in a few words; kept in the folder of a trained model."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def pixel_mean(self) -> Tensor:
        """Mean of RGB pixels in 0…1, `(3, 1, 1)`; `encode_image` normalises by it."""

    @property
    def pixel_std(self) -> Tensor:
        """Standard deviation of RGB pixels in 0…1, `(3, 1, 1)`."""

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that the encoder was trained on; any size is taken."""

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """`D_1 … D_4`, channels of the maps; they may differ."""

    @property
    def layer_scales(self) -> tuple[float, ...]:
        """Side of each map in sides of the grid: all 1 in a ViT; 4, 2, 1 and 0.5 for strides 4, 8, 16, 32 and patches
        of 16 pixels. Powers of two."""

    @property
    def embed_dim(self) -> int:
        """`E`, width of the joint embedding."""

    @property
    def text_width(self) -> int:
        """`C`, width of a token embedding, and so of the learnable prompt."""

    @property
    def context_length(self) -> int:
        """The most token embeddings that the text tower reads, prompt included."""

    @property
    def prompt_position(self) -> int:
        """Before which token the learnable prompt stands: 1 after a start token, 0 where there is none."""

    @property
    def known_texts(self) -> frozenset[str] | None:
        """The texts that can be embedded; None where any can."""

    @property
    def logit_scale(self) -> float:
        """Factor of cosine similarities before a softmax."""

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Features of `(B, 3, H, W)` RGB, uint8 0…255 or float 0…1, of any size; no graph is built."""

    def token_embeddings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts as frozen token embeddings `(K, L, C)` without positions, and where each ends, `(K,)` int64.

        Raises:
            DataError: a text that is too long, or not among `known_texts`.
        """

    def encode_text_embeddings(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """The text tower, driven from `(K, L, C)`, the prompt inside: `(K, E)`, not normalised. Gradients flow back."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts in the joint embedding space, `(K, E)`, not normalised; errors as `token_embeddings`."""

    def fingerprint(self) -> str:
        """Digits that differ where the weights do: a trained model is loaded only with the encoder of its training."""

    def describe(self) -> str:
        """A phrase on what it is, without a full stop, for the line that a loaded model writes to the log."""


@runtime_checkable
class BlockEncoder(Encoder, Protocol):
    """An encoder whose image tower is a transformer that lies open: what Grad-CAM and patch-text seeds need.

    Hidden states are `(B, prefix+hw, D)`; attention is `(B, heads, N, d)` where heads are apart.
    """

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, the first one first."""

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches; with one or more, the first is the class token."""

    def embed_image(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Input of the first block `(B, prefix+hw, D)`, and the grid `(h, w)`; images as in `encode_image`."""

    def run_block(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """A whole block."""

    def attention_input(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The input of the block's attention: the block's input after the first norm."""

    def attend(self, block: nn.Module, hidden: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
        """A whole block from its input and that after the first norm.

        Returns:
            The output, and the attention `(B, N, N)`: the mean of the heads, rows summing to 1.
        """

    def queries_keys_values(self, block: nn.Module, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three projections of the attention's input, each `(B, heads, N, d)`."""

    def attention_output(self, block: nn.Module, mixed: Tensor) -> Tensor:
        """Mixed values `(B, heads, N, d)` through the attention's output projection: `(B, N, D)`."""

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm after the last block."""

    def project(self, normed: Tensor) -> Tensor:
        """Normed tokens `(…, D)` into the joint embedding space, `(…, E)`; linear."""


def check_encoder(encoder: object) -> Encoder:
    """The same object, if it has all that `Encoder` asks for.

    Raises:
        EncoderError: it lacks something, or its numbers do not go together.
    """
    missing = _missing(encoder, Encoder)
    if missing or not isinstance(encoder, nn.Module):
        lacks = f"it has no {some(missing, 4)}" if missing else "it is no torch.nn.Module"
        raise EncoderError(f"{type(encoder).__name__} is no weakclip.Encoder: {lacks}; derive it from FrozenEncoder")
    known = cast(Encoder, encoder)
    if len(known.layer_widths) != MAPS or len(known.layer_scales) != MAPS:
        found = f"layer_widths {tuple(known.layer_widths)} and layer_scales {tuple(known.layer_scales)}"
        raise EncoderError(f"{known.source}: WeakCLIP reads {MAPS} maps of an image; found {found}")
    return known


def with_blocks(encoder: Encoder, purpose: str) -> BlockEncoder:
    """The same encoder, if its transformer blocks lie open.

    Args:
        encoder: any encoder.
        purpose: what the blocks are for, for the message.

    Raises:
        EncoderError: it lacks something of `BlockEncoder`.
    """
    missing = _missing(encoder, BlockEncoder)
    if missing:
        raise EncoderError(
            f"{encoder.source}: {purpose} needs an encoder with open transformer blocks (weakclip.clip.BlockEncoder); "
            f"this one has no {some(missing, 4)}: take seeds.method=cosine, or imported seeds"
        )
    return cast(BlockEncoder, encoder)


def check_features(encoder: Encoder, features: ImageFeatures) -> None:
    """Whether an encoder gives what it says.

    Raises:
        EncoderError: maps of another number or width than `layer_widths`, or tokens that fit neither the grid nor `E`.
    """
    widths = tuple(each.shape[1] for each in features.layers)
    if widths != tuple(encoder.layer_widths):
        raise EncoderError(
            f"{encoder.source}: encode_image gives maps of {widths} channels; layer_widths says {encoder.layer_widths}"
        )
    height, width = features.grid
    expected = (features.prefix + height * width, encoder.embed_dim)
    if tuple(features.tokens.shape[1:]) != expected:
        raise EncoderError(
            f"{encoder.source}: encode_image gives tokens {tuple(features.tokens.shape)}; (B, {expected[0]}, "
            f"{expected[1]}) expected for a grid of {height}x{width}, prefix {features.prefix} and embed_dim "
            f"{encoder.embed_dim}"
        )


def _missing(found: object, protocol: type) -> list[str]:
    """Names that a protocol asks for and an object does not have."""
    asked = {name for base in protocol.__mro__ if base.__module__ == __name__ for name in vars(base)}
    return sorted(name for name in asked if not name.startswith("_") and not _has(found, name))


def _has(found: object, name: str) -> bool:
    """Whether there is an attribute; a property of the class is not computed."""
    return hasattr(type(found), name) or hasattr(found, name)
