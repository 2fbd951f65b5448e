"""WeakCLIP: a frozen CLIP, a learnable prompt, a pyramid adapter, co-attention matching and a text-guided decoder.

    class names -> prompt -> frozen text tower  -> t_p ----------+
                                                                 +-> co-attention -> match map --+
    image -> frozen image tower -> f_p --------------------------+                               +-> decoder -> logits
                                -> four layers -> pyramid adapter -------------------------------+

Source: Zhu et al., "WeakCLIP: Adapting CLIP for Weakly-Supervised Semantic Segmentation", IJCV 2024.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn

from weakclip.clip import Encoder, check_encoder
from weakclip.clip.cast_weights import autocast_type, state_of
from weakclip.clip.encoder import check_features
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError, WeightsError
from weakclip.modeling.ablations import PlainMatching, ResizedPyramid, UnguidedDecoder
from weakclip.modeling.co_attention import CoAttention, match_pixels
from weakclip.modeling.decoder import TextGuidedDecoder
from weakclip.modeling.output import WeakCLIPOutput
from weakclip.modeling.prompt import LearnablePrompt
from weakclip.modeling.pyramid_adapter import PyramidAdapter
from weakclip.modeling.state_files import misfits
from weakclip.store.ranges import check_range

PYRAMID_LEVELS = 4
_FROZEN = "clip."


class WeakCLIP(nn.Module):
    """The whole model, composed of finished parts. Everything but `clip` trains.

    Args:
        clip: the frozen encoder: a `FrozenCLIP` that taps four layers, or another `Encoder`; it is frozen in place.
        class_set: the classes, background first.
        prompt: learnable prompt before the class names.
        pyramid_adapter: patch features -> pyramid.
        co_attention: text and pixels attend to each other.
        decoder: pyramid and match map -> logits.

    The stand-ins of `ablations` take the place of a part that is left out.

    Raises:
        EncoderError: `clip` is no `Encoder`.

    Attributes:
        origin: for a model that `load_weakclip` made, one line on what was loaded: the file and its format, classes,
            sizes, and what was not in the file and where that was taken from. Empty for a model built fresh.
    """

    def __init__(
        self,
        *,
        clip: Encoder,
        class_set: ClassSet,
        prompt: LearnablePrompt,
        pyramid_adapter: PyramidAdapter | ResizedPyramid,
        co_attention: CoAttention | PlainMatching,
        decoder: TextGuidedDecoder | UnguidedDecoder,
    ) -> None:
        super().__init__()
        self.origin = ""
        self.class_set = class_set
        self.clip = check_encoder(clip)
        cast(nn.Module, clip).requires_grad_(False)
        self.prompt = prompt
        self.pyramid_adapter = pyramid_adapter
        self.co_attention = co_attention
        self.decoder = decoder
        self._known_text: tuple[tuple[object, ...], Tensor, Tensor] | None = None

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode of all that trains; the encoder stays in evaluation mode."""
        super().train(mode)
        cast(nn.Module, self.clip).train(False)
        return self

    def forward(self, images: Tensor) -> WeakCLIPOutput:
        """Segment a batch.

        Args:
            images: `(B, 3, H, W)` RGB, uint8 0...255 or float 0...1, any size; a side that is no multiple of the patch
                is resized up to the next one.

        Returns:
            Logits, match map and class embeddings; see `WeakCLIPOutput`.

        Raises:
            EncoderError: the encoder gives something else than it says.
        """
        return self.segment(images, self.text_embeddings())

    def segment(self, images: Tensor, text_embeddings: Tensor) -> WeakCLIPOutput:
        """`forward` with class embeddings that are there already.

        Args:
            images: as for `forward`.
            text_embeddings: `t_p`, `(K, E)` float, as `text_embeddings()` gives them.
        """
        with torch.no_grad():
            features = self.clip.encode_image(images)
        if not torch.compiler.is_compiling():
            check_features(self.clip, features)
        text, image = self.co_attention(text_embeddings, features.tokens)
        match_map = match_pixels(image, text, features.grid, prefix=features.prefix)
        levels = self.pyramid_adapter.levels(features.layers)
        del features, image  # no longer needed where memory peaks
        logits = self.decoder(levels, match_map)
        return WeakCLIPOutput(logits=logits, match_map=match_map, class_embeddings=text)

    def text_embeddings(self) -> Tensor:
        """`t_p`, `(K, E)`: the prompted class names through the frozen text tower, once for all images.

        Without gradients the last result is kept until the prompt is written to (`state_of`).
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.clip.encode_text_embeddings(*self.prompt())
        vectors = self.prompt.vectors
        state = (*state_of(vectors), autocast_type(vectors.device))
        if self._known_text is None or self._known_text[0] != state:
            text = self.clip.encode_text_embeddings(*self.prompt())
            self._known_text = (state, vectors.detach(), text)  # while the memory is held, no other tensor gets it
        return self._known_text[2]

    def trainable_state(self) -> dict[str, Tensor]:
        """All that training changes, batch-norm statistics included, and nothing of CLIP; detached, not copied."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(_FROZEN)}

    def load_trainable_state(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Take over a `trainable_state`, all of it or nothing.

        Args:
            state: name -> tensor.
            source: where it comes from, for the message.

        Raises:
            WeightsError: names that are missing or unexpected, or shapes that differ; eight of them are told.
        """
        own = self.trainable_state()
        if problems := misfits(own, state):
            raise WeightsError(f"{source}: does not fit this model: {problems}; build the model with the same settings")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The numbers of the model, as `build_weakclip` takes them.

    Args:
        prompt_length: learnable vectors before the class words; 0 for none.
        tap_layers: the four image-tower layers that feed the pyramid, counted from 1; None takes those at 1/3, 1/2,
            2/3 and 1 of the depth (4, 6, 8, 12 of 12). They are given to `load_clip`; only for CLIP.
        co_attention_width: narrow width of the co-attention layers.
        co_attention_heads: attention heads, a divisor of that width.
        co_attention_layers: layers in each direction.
        decoder_channels: width of the feature pyramid and the head.
        dropout: in co-attention and before the classifier, 0...1.
        temperature_init: first value of alpha and beta.

    Raises:
        ConfigError: a number out of range.
    """

    prompt_length: int = 8
    tap_layers: tuple[int, ...] | None = None
    co_attention_width: int = 256
    co_attention_heads: int = 4
    co_attention_layers: int = 3
    decoder_channels: int = 256
    dropout: float = 0.1
    temperature_init: float = 0.1

    def __post_init__(self) -> None:
        widths = ("co_attention_width", "co_attention_heads", "co_attention_layers", "decoder_channels")
        check_range(self, *widths, least=1)
        check_range(self, "prompt_length", least=0)
        check_range(self, "dropout", least=0, below=1)
        if not math.isfinite(self.temperature_init):
            raise ConfigError(f"temperature_init is a finite number; found {self.temperature_init}")
        if self.co_attention_width % self.co_attention_heads:
            heads, width = self.co_attention_heads, self.co_attention_width
            raise ConfigError(f"co_attention_heads divides co_attention_width; found {heads} heads for width {width}")
        if self.tap_layers is not None and len(self.tap_layers) != PYRAMID_LEVELS:
            raise ConfigError(f"tap_layers names {PYRAMID_LEVELS} layers; found {list(self.tap_layers)}")

    def build(self, clip: Encoder, class_set: ClassSet, *, outline: bool = False) -> WeakCLIP:
        """`build_weakclip` with these numbers; `clip` was loaded with these `tap_layers`.

        Args:
            clip: as there.
            class_set: as there.
            outline: the parts behind the prompt get shapes and no values, on torch's meta device.
        """
        taps, found = self.tap_layers, getattr(clip, "tap_layers", None)
        if taps is not None and tuple(taps) != found:
            raise ConfigError(f"tap_layers {list(taps)} differ from those of the encoder, {found}; null takes those")
        return _composed(clip, class_set, replace(self, tap_layers=found), outline=outline)


class ModelNumbers(TypedDict, total=False):
    """The numbers that `build_weakclip` takes: those of `ModelSettings` but `tap_layers`, which the encoder has."""

    prompt_length: int
    co_attention_width: int
    co_attention_heads: int
    co_attention_layers: int
    decoder_channels: int
    dropout: float
    temperature_init: float


def build_weakclip(clip: Encoder, class_set: ClassSet, **numbers: Unpack[ModelNumbers]) -> WeakCLIP:
    """WeakCLIP with fresh weights from torch's global generator, on the device of `clip`.

    Args:
        clip: the frozen encoder; any widths, depth and patch size, four maps.
        class_set: the classes, background first.
        numbers: `prompt_length=8`, `co_attention_width=256`, `co_attention_heads=4`, `co_attention_layers=3`,
            `decoder_channels=256`, `dropout=0.1` and `temperature_init=0.1`, as `ModelSettings` describes them.

    Returns:
        The model, in training mode. With ViT-B/16 and 21 classes 21,240,853 parameters train.

    Raises:
        ConfigError: a number out of range, or a CLIP that does not tap four layers.
        DataError: prompt and class name together longer than CLIP's context.
        EncoderError: `clip` is no `Encoder`.
        TypeError: a keyword that is none of these numbers.
    """
    return _composed(clip, class_set, ModelSettings(tap_layers=getattr(clip, "tap_layers", None), **numbers))


def _composed(clip: Encoder, class_set: ClassSet, numbers: ModelSettings, *, outline: bool = False) -> WeakCLIP:
    channels, dropout = numbers.decoder_channels, numbers.dropout
    prompt = LearnablePrompt.for_classes(clip, class_set, length=numbers.prompt_length)
    with torch.device("meta") if outline else contextlib.nullcontext():
        model = WeakCLIP(
            clip=clip,
            class_set=class_set,
            prompt=prompt,
            pyramid_adapter=PyramidAdapter(clip.layer_widths, scales=clip.layer_scales),
            co_attention=CoAttention(
                clip.embed_dim,
                width=numbers.co_attention_width,
                heads=numbers.co_attention_heads,
                num_layers=numbers.co_attention_layers,
                dropout=dropout,
                temperature_init=numbers.temperature_init,
            ),
            decoder=TextGuidedDecoder(clip.layer_widths, class_set.num_classes, channels=channels, dropout=dropout),
        )
    return model if outline else model.to(clip.device)
