"""FrozenCLIP: a CLIP that never trains, with its own pixel statistics and any input size."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedTokenizerBase

from weakclip.clip.cast_weights import CastWeights, KnownExponential
from weakclip.clip.encoder import ImageFeatures
from weakclip.clip.frozen_encoder import FrozenEncoder
from weakclip.clip.text import clean_text, end_positions, run_text_tower, tokenize
from weakclip.clip.vision import (
    PartialPatches,
    PositionInterpolation,
    attend,
    attention_output,
    cut_to_patches,
    default_tap_layers,
    embed_patches,
    interpolate_positions,
    queries_keys_values,
    resize_to_patches,
    run_blocks,
    to_map,
)

CLIP_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of RGB pixels in 0…1 that OpenAI's CLIP was trained with (openai/CLIP, clip/clip.py)."""

CLIP_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of RGB pixels in 0…1 that OpenAI's CLIP was trained with (openai/CLIP, clip/clip.py)."""


class FrozenCLIP(FrozenEncoder):
    """CLIP (Radford et al., 2021) as a fixed encoder: no parameter trains, evaluation mode whatever the parent does.

    The image tower builds no graph. The text tower passes gradients through to the embeddings that drive it.
    `pixel_mean` and `pixel_std` are buffers and `normalize` is the only place where pixels are normalised.

    Args:
        model: the network, a `CLIPModel`; it is frozen in place.
        tokenizer: the tokenizer that goes with it.
        pixel_mean: mean of RGB pixels in 0…1.
        pixel_std: standard deviation of RGB pixels in 0…1.
        source: what the weights were loaded from; kept in checkpoints.
        tap_layers: image-tower blocks whose outputs `encode_image` gives, counted from 1; None takes the layers at
            1/3, 1/2, 2/3 and the whole of the depth (4, 6, 8, 12 of 12).
        position_interpolation: how positions are brought to another grid than the trained one: bicubic as in
            `transformers`, or bilinear as in the released WeakCLIP and CLIP-ES.
        partial_patches: what happens to a side that is no multiple of the patch: resized bilinearly up to the next
            one, so that every pixel is seen, or cut to the last one as in the released WeakCLIP.

    Raises:
        ValueError: a tapped layer outside the depth.
    """

    family = "CLIP"
    usual_statistics = (CLIP_PIXEL_MEAN, CLIP_PIXEL_STD)
    prompt_position = 1
    prefix = 1
    tap_layers: tuple[int, ...]
    clean_text = staticmethod(clean_text)

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pixel_mean: Sequence[float] = CLIP_PIXEL_MEAN,
        pixel_std: Sequence[float] = CLIP_PIXEL_STD,
        source: str,
        tap_layers: Sequence[int] | None = None,
        position_interpolation: PositionInterpolation = "bicubic",
        partial_patches: PartialPatches = "resized",
    ) -> None:
        super().__init__(source=source, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.model = model.requires_grad_(False)
        self._cast = CastWeights()
        self._known_scale = KnownExponential()
        self.tap(tap_layers)
        self.tokenizer = tokenizer
        self.position_interpolation: PositionInterpolation = position_interpolation
        self.partial_patches: PartialPatches = partial_patches
        self.train(False)

    @staticmethod
    def network() -> Any:
        """The class of transformers that holds the weights.

        Raises:
            WeightsError: the transformers that is installed has none.
        """
        return CLIPModel

    def with_positions(self, interpolation: PositionInterpolation) -> FrozenCLIP:
        """The same CLIP, its weights shared, with another interpolation of the positions."""
        other = copy.copy(self)
        other.position_interpolation = interpolation
        return other

    def tap(self, layers: Sequence[int] | None) -> None:
        """Choose the layers that `encode_image` gives.

        Args:
            layers: counted from 1; None takes the layers at 1/3, 1/2, 2/3 and the whole of the depth.

        Raises:
            ValueError: a layer outside the depth.
        """
        depth = len(self.blocks)
        chosen = default_tap_layers(depth) if layers is None else tuple(layers)
        if not chosen or not all(1 <= layer <= depth for layer in chosen):
            raise ValueError(f"tap_layers are counted from 1 to {depth}; found {chosen}")
        self.tap_layers = chosen

    @property
    def _vision_config(self) -> Any:  # transformers types its sub-configs as optional
        return self.model.config.vision_config

    @property
    def _text_config(self) -> Any:
        return self.model.config.text_config

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the text tower knows."""
        return int(self._text_config.vocab_size)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self._vision_config.patch_size)

    @property
    def image_size(self) -> int:  # type: ignore[override]
        """Side in pixels of the square images that the position table was learned on."""
        return int(self._vision_config.image_size)

    @property
    def embed_dim(self) -> int:
        """`E`, width of the joint embedding."""
        return int(self.model.visual_projection.out_features)

    @property
    def vision_width(self) -> int:
        """`D`, width of the image tower."""
        return int(self._vision_config.hidden_size)

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Channels of the tapped layers: `D` each."""
        return (self.vision_width,) * len(self.tap_layers)

    @property
    def text_width(self) -> int:
        """`C`, width of the text tower."""
        return int(self._text_config.hidden_size)

    @property
    def context_length(self) -> int:  # type: ignore[override]
        """The most tokens that the text tower reads."""
        return int(self._text_config.max_position_embeddings)

    @property
    def logit_scale(self) -> float:  # type: ignore[override]
        """Factor of cosine similarities before a softmax; 100 in OpenAI's models."""
        return self._known_scale.of(self.model.logit_scale)

    def embed_image(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Input of the first block of the image tower, for callers that run the blocks themselves.

        Args:
            images: `(B, 3, H, W)` RGB, uint8 0…255 or float 0…1, any size.

        Returns:
            `(B, 1+hw, D)`, the class token first, and the grid `(h, w)`.
        """
        fit = resize_to_patches if self.partial_patches == "resized" else cut_to_patches
        pixels = fit(self.normalize(images), self.patch_size)
        grid = (pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)
        return self.embed_pixels(pixels, grid), grid

    def embed_pixels(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normalised pixels `(B, 3, H, W)` of a whole grid of patches as input of the first block."""
        return embed_patches(self._network.vision_model, pixels, self.positions(grid))

    @property
    def _network(self) -> Any:
        """The network, under autocast the one with cast weights, which gives the same numbers."""
        return self._cast.under_autocast(self.model, self.device)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings `(1+hw, D)` of the image tower for a patch grid `(h, w)`."""
        table = self.model.vision_model.embeddings.position_embedding.weight
        return interpolate_positions(table, grid, self.position_interpolation)

    def pool(self, normed: Tensor, tokens: Tensor) -> Tensor:
        """The whole image in the joint embedding space, `(B, E)`: the class token.

        Args:
            normed: `(B, N, D)`, the image tower's output after its last norm.
            tokens: `(B, N, E)`, the same projected.
        """
        return tokens[:, 0]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the image tower, the first one first."""
        return list(self._network.vision_model.encoder.layers)

    def run_block(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """A whole block: `(B, N, D)` to `(B, N, D)`."""
        output: Tensor = block(hidden, None)
        return output

    def attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        """A block's input `(B, N, D)` after its first norm: what its attention reads."""
        normed: Tensor = block.layer_norm1(hidden)
        return normed

    attend = staticmethod(attend)
    queries_keys_values = staticmethod(queries_keys_values)
    attention_output = staticmethod(attention_output)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm after the last block."""
        return self._network.vision_model.post_layernorm(hidden)

    def project(self, normed: Tensor) -> Tensor:
        """Normed tokens `(…, D)` into the joint embedding space, `(…, E)`."""
        return self._network.visual_projection(normed)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Patch features of the tapped layers and projected tokens, in one pass; see `Encoder`.

        A side that is no multiple of the patch is treated as `partial_patches` says.
        """
        hidden, grid = self.embed_image(images)
        outputs = run_blocks(self.blocks, hidden)
        layers = tuple(to_map(outputs[layer - 1], grid, self.prefix) for layer in self.tap_layers)
        normed = self.final_norm(outputs[-1])
        tokens = self.project(normed)
        pooled = self.pool(normed, tokens)
        return ImageFeatures(layers=layers, tokens=tokens, grid=grid, prefix=self.prefix, pooled=pooled)

    @torch.no_grad()
    def token_embeddings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts as rows of token embeddings: start token, words, end token, padding.

        Args:
            texts: `K` texts.

        Returns:
            Embeddings `(K, L, C)` without positions, `L` the longest text's tokens, and end positions `(K,)` int64.

        Raises:
            DataError: a text longer than the context.
        """
        ids, lengths = tokenize(self.tokenizer, texts, self.context_length, self.clean_text)
        embeddings: Tensor = self.model.text_model.embeddings.token_embedding(ids.to(self.device))
        return embeddings, self.end_positions(ids, lengths).to(self.device)

    def end_positions(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Where each text ends, `(K,)`, from its ids `(K, L)` and how many of them are no padding."""
        return end_positions(ids, self._text_config.eos_token_id)

    def encode_text_embeddings(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Drive the frozen text tower from embeddings; positions 0…L-1 are added inside. See `Encoder`.

        Raises:
            DataError: more tokens than the tower has positions for.
        """
        return run_text_tower(self._network, embeddings, end_positions)

    def fingerprint(self) -> str:
        """Sixteen hex digits of the two projections: other weights, other digits."""
        digest = hashlib.sha256()
        for weight in self.telling_weights():
            digest.update(weight.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def telling_weights(self) -> tuple[Tensor, ...]:
        """A weight of each tower that differs between any two checkpoints."""
        return self.model.visual_projection.weight, self.model.text_projection.weight

    def describe(self) -> str:
        """Sizes of both towers."""
        vision, text = self._vision_config, self._text_config
        return (
            f"{self.family} with images of {vision.image_size} pixels in patches of {vision.patch_size}, "
            f"{vision.num_hidden_layers} layers of {vision.hidden_size} (texts: {text.num_hidden_layers} of "
            f"{text.hidden_size}), joint width {self.embed_dim}"
        )
