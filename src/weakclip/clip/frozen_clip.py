"""FrozenCLIP: a CLIP that never trains, with its own pixel statistics and any input size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedTokenizerBase

from weakclip.clip.text import end_positions, run_text_tower, tokenize
from weakclip.clip.vision import (
    ImageFeatures,
    PartialPatches,
    PositionInterpolation,
    cut_to_patches,
    default_tap_layers,
    embed_patches,
    interpolate_positions,
    resize_to_patches,
    run_blocks,
    to_map,
)

CLIP_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of RGB pixels in 0…1 that OpenAI's CLIP was trained with (openai/CLIP, clip/clip.py)."""

CLIP_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of RGB pixels in 0…1 that OpenAI's CLIP was trained with (openai/CLIP, clip/clip.py)."""


class FrozenCLIP(nn.Module):
    """CLIP (Radford et al., 2021) as a fixed encoder: no parameter trains, evaluation mode whatever the parent does.

    The image tower builds no graph. The text tower passes gradients through to the embeddings that drive it.
    `pixel_mean` and `pixel_std` are buffers and `normalize` is the only place where pixels are normalised.

    Args:
        model: the network; it is frozen in place.
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

    pixel_mean: Tensor
    pixel_std: Tensor
    tap_layers: tuple[int, ...]

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pixel_mean: Sequence[float] = CLIP_PIXEL_MEAN,
        pixel_std: Sequence[float] = CLIP_PIXEL_STD,
        source: str,
        tap_layers: Sequence[int] | None = None,
        position_interpolation: PositionInterpolation = "bicubic",
        partial_patches: PartialPatches = "resized",
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.tap(tap_layers)
        self.tokenizer = tokenizer
        self.source = source
        self.position_interpolation: PositionInterpolation = position_interpolation
        self.partial_patches: PartialPatches = partial_patches
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std, dtype=torch.float32).view(3, 1, 1))
        self.train(False)

    def train(self, mode: bool = True) -> FrozenCLIP:
        """Stay in evaluation mode: `mode` is ignored, so that no parent can wake dropout."""
        return super().train(False)

    def tap(self, layers: Sequence[int] | None) -> None:
        """Choose the layers that `encode_image` gives.

        Args:
            layers: counted from 1; None takes the layers at 1/3, 1/2, 2/3 and the whole of the depth.

        Raises:
            ValueError: a layer outside the depth.
        """
        depth = len(self.model.vision_model.encoder.layers)
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
    def image_size(self) -> int:
        """Side in pixels of the square images that the position table was learned on."""
        return int(self._vision_config.image_size)

    @property
    def embed_dim(self) -> int:
        """`E`, width of the joint embedding."""
        return self.model.visual_projection.out_features

    @property
    def vision_width(self) -> int:
        """`D`, width of the image tower."""
        return int(self._vision_config.hidden_size)

    @property
    def text_width(self) -> int:
        """`C`, width of the text tower."""
        return int(self._text_config.hidden_size)

    @property
    def context_length(self) -> int:
        """The most tokens that the text tower reads."""
        return int(self._text_config.max_position_embeddings)

    @property
    def logit_scale(self) -> float:
        """Factor of cosine similarities before a softmax; 100 in OpenAI's models."""
        return float(self.model.logit_scale.exp())

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
        return embed_patches(self.model.vision_model, pixels, self.positions(grid)), grid

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings `(1+hw, D)` of the image tower for a patch grid `(h, w)`."""
        table = self.model.vision_model.embeddings.position_embedding.weight
        return interpolate_positions(table, grid, self.position_interpolation)

    def project_tokens(self, hidden: Tensor) -> Tensor:
        """Image-tower output `(B, N, D)` through the final norm and the projection: `(B, N, E)`."""
        projected: Tensor = self.model.visual_projection(self.model.vision_model.post_layernorm(hidden))
        return projected

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Patch features of the tapped layers and projected tokens, in one pass without a graph.

        Args:
            images: `(B, 3, H, W)` RGB, uint8 0…255 or float 0…1, any size; a side that is no multiple of the patch is
                treated as `partial_patches` says.

        Returns:
            `ImageFeatures`; `.grid` says `(h, w)`.
        """
        hidden, grid = self.embed_image(images)
        outputs = run_blocks(list(self.model.vision_model.encoder.layers), hidden)
        layers = tuple(to_map(outputs[layer - 1], grid) for layer in self.tap_layers)
        return ImageFeatures(layers=layers, tokens=self.project_tokens(outputs[-1]), grid=grid)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Projected embeddings of texts, as `CLIPModel.get_text_features` gives them.

        Args:
            texts: `K` texts.

        Returns:
            `(K, E)`, not normalised.

        Raises:
            DataError: a text longer than the context.
        """
        return self.encode_text_embeddings(*self.token_embeddings(texts))

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
        ids = tokenize(self.tokenizer, texts, self.context_length).to(self.device)
        embeddings: Tensor = self.model.text_model.embeddings.token_embedding(ids)
        return embeddings, end_positions(ids, self._text_config.eos_token_id)

    def encode_text_embeddings(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Drive the frozen text tower from embeddings; positions 0…L-1 are added inside.

        Args:
            embeddings: `(K, L, C)` without positions; gradients flow back to them.
            end_positions: `(K,)` int64, the end token of each row.

        Returns:
            `(K, E)`, not normalised.

        Raises:
            DataError: more tokens than CLIP has positions for.
        """
        return run_text_tower(self.model, embeddings, end_positions)
