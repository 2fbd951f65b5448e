"""Checkpoints of the released WeakCLIP code (github.com/hustvl/WeakCLIP), read into this package's model.

The released code departs from its paper; the model here does not, and needs no switch to compute the same:
- its co-attention layers do not chain, only the last one counts: a chain of one layer, the last, is the same;
- it adds the class embedding twice: the stored one is doubled;
- it normalises pixels with ImageNet's statistics, resizes positions bilinearly and does not see pixels beyond the
  last whole patch: these belong to the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerBase

from weakclip.clip import FrozenCLIP
from weakclip.clip.openai_archive import _renamed
from weakclip.clip.vocabulary import OPENAI_TOKENIZER, load_tokenizer
from weakclip.datasets.classes import COCO14, VOC12, ClassSet
from weakclip.errors import WeakCLIPError, WeightsError
from weakclip.modeling.co_attention import CoAttention
from weakclip.modeling.loading_note import loading_note
from weakclip.modeling.official.names import depth, frozen_names, trained_names, unused_names
from weakclip.modeling.official.words import VOCABULARY_SIZE, KnownWords, knows
from weakclip.modeling.weakclip import WeakCLIP, build_weakclip
from weakclip.store.untrusted_text import parse_json, some
from weakclip.store.untrusted_weights import check_room, load_torch

IMAGENET_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
"""RGB statistics in the released configurations (mmsegmentation's img_norm_cfg), here for pixels in 0...1."""

_TOWERS = ("backbone", "text_encoder")
_HEAD_WIDTH = 64  # of every published CLIP
_CO_ATTENTION_HEADS = 4  # configs/_base_/models/weakclip_vitb.py of the released code


def load_released(
    path: Path, *, architecture: Mapping[str, Any] | str | Path | None = None, vocabulary: str | Path | None = None
) -> WeakCLIP:
    """Read a released checkpoint.

    Args:
        path: `.pth` with `state_dict` and `meta`.
        architecture: what no weight shape tells, as a mapping or a JSON file; every entry may be left out:
            `{"vision": {"heads", "taps"}, "text": {"heads"}, "co_attention": {"heads"}, "class_names"}`, taps counted
            from 0. Without it, heads of 64 channels (4 in co-attention), taps as in ViT-B/16, and the names in `meta`.
        vocabulary: CLIP's tokenizer, see `load_clip`. Left out, class names of VOC and COCO need none, and for others
            OpenAI's comes from the hub.

    Returns:
        The model, on the CPU.

    Raises:
        WeightsError: not such a checkpoint, or one whose tensors do not fit. No code in the file is run.
    """
    state, meta = _read(path)
    told = _architecture(architecture)
    given = told.get("class_names") or meta.get("CLASSES") or ()
    names = tuple(map(str, given)) if isinstance(given, list | tuple) else ()
    classes = state["decode_head.conv_seg.weight"].shape[0]
    if len(names) != classes:
        raise WeightsError(
            f"{path}: {classes} classes, but {len(names)} names; give them in `architecture` as class_names"
        )
    try:
        clip = _frozen_clip(path, state, told, _tokenizer(state, names, vocabulary))
        model = build_weakclip(
            clip,
            _class_set(names),
            prompt_length=state["contexts"].shape[1],
            co_attention_width=state["context_decoder.text_proj.1.weight"].shape[0],
            co_attention_heads=told.get("co_attention", {}).get("heads", _CO_ATTENTION_HEADS),
            co_attention_layers=1,
            decoder_channels=state["decode_head.conv_seg.weight"].shape[1],
        )
    except WeightsError:
        raise
    except (WeakCLIPError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(f"{path}: cannot be built as a released WeakCLIP: {error}") from None
    trained = {own: state[name] for name, own in trained_names(state).items()}
    trained["prompt.vectors"] = trained["prompt.vectors"][0]
    model.load_trainable_state(trained, source=str(path))
    model.origin = loading_note(model, f"{path}: released WeakCLIP", _elsewhere(model, told, vocabulary))
    return model


def _elsewhere(model: WeakCLIP, told: Mapping[str, Any], vocabulary: str | Path | None) -> list[str]:
    """The parts of the model that the file does not tell: given in `architecture`, or assumed."""

    def source(part: str, key: str, otherwise: str) -> str:
        return "`architecture`" if key in told.get(part, {}) else otherwise

    clip, co_attention = cast(FrozenCLIP, model.clip), cast(CoAttention, model.co_attention)
    vision, text = clip.model.vision_model.config, clip.model.text_model.config
    channels = f"{_HEAD_WIDTH} channels each assumed"
    layers = ", ".join(map(str, clip.tap_layers))
    known = "the words of VOC and COCO" if isinstance(clip.tokenizer, KnownWords) else OPENAI_TOKENIZER
    return [
        *(["class names (`architecture`)"] if told.get("class_names") else []),
        f"image heads {vision.num_attention_heads} ({source('vision', 'heads', channels)})",
        f"tapped layers {layers} ({source('vision', 'taps', 'at 1/3, 1/2, 2/3 and 1 of the depth')})",
        f"text heads {text.num_attention_heads} ({source('text', 'heads', channels)})",
        f"co-attention heads {co_attention.heads} ({source('co_attention', 'heads', 'those of the released code')})",
        "pixel statistics (ImageNet's, as in the released code)",
        f"tokenizer ({vocabulary or known})",
    ]


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """State dict and meta of the file, with the names of a released WeakCLIP checked."""
    try:
        content = load_torch(path)
    except ValueError as error:
        raise WeightsError(f"{path}: not a checkpoint that can be read safely ({error})") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: not a released WeakCLIP checkpoint; expected a dictionary with `state_dict`")
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    try:
        check_room(state, ())
    except ValueError as error:
        raise WeightsError(f"{path}: not a released WeakCLIP checkpoint ({error})") from None
    if not any(name in state for name in ("contexts", "context_decoder.text_proj.1.weight")):
        raise WeightsError(f"{path}: not a released WeakCLIP checkpoint; it has none of the names of one")
    needed = {*trained_names(state), *frozen_names(state)}
    problems = [f"missing {name}" for name in sorted(needed - set(state))]
    problems += [f"unexpected {name}" for name in sorted(set(state) - needed - unused_names(state))]
    if problems:
        found = some(problems, 8, more=f" and {len(problems) - 8} more")
        raise WeightsError(f"{path}: not a whole released WeakCLIP checkpoint: {found}")
    meta = content.get("meta")
    return state, meta if isinstance(meta, Mapping) else {}


def _architecture(given: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any]:
    if given is None or isinstance(given, Mapping):
        return given or {}
    try:
        told = parse_json(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{given}: cannot be read as a JSON file ({error})") from None
    if not isinstance(told, dict):
        raise WeightsError(f"{given}: expected a JSON object with vision, text and co_attention")
    return told


def _class_set(names: tuple[str, ...]) -> ClassSet:
    """VOC's or COCO's, with their prompts and ids, where the names are theirs."""
    return next((known for known in (VOC12, COCO14) if known.names == names), None) or ClassSet(names=names)


def _tokenizer(
    state: Mapping[str, Tensor], names: tuple[str, ...], vocabulary: str | Path | None
) -> PreTrainedTokenizerBase:
    size = state["text_encoder.token_embedding.weight"].shape[0]
    if vocabulary is None and size == VOCABULARY_SIZE and knows(names):
        return cast(PreTrainedTokenizerBase, KnownWords())
    return load_tokenizer(str(vocabulary or OPENAI_TOKENIZER))


def _frozen_clip(
    path: Path, state: Mapping[str, Tensor], told: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> FrozenCLIP:
    """The CLIP inside the checkpoint, with the statistics and the position interpolation it was trained with."""
    tensors: dict[str, Tensor] = {}
    for name, openai_name in frozen_names(state).items():
        tensors |= _renamed(openai_name, state[name].float())
    tensors["vision_model.embeddings.class_embedding"] = 2 * tensors["vision_model.embeddings.class_embedding"]
    model = CLIPModel(_clip_config(state, told))
    try:
        model.load_state_dict(tensors, strict=False)  # logit_scale and position_ids are not in the file
    except RuntimeError as error:
        raise WeightsError(f"{path}: its CLIP does not fit: {str(error).splitlines()[-1].strip()}") from None
    taps = told.get("vision", {}).get("taps")
    return FrozenCLIP(
        model,
        tokenizer,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
        source=str(path),
        tap_layers=None if taps is None else [tap + 1 for tap in taps],
        position_interpolation="bilinear",
        partial_patches="cut",
    )


def _clip_config(state: Mapping[str, Tensor], told: Mapping[str, Any]) -> CLIPConfig:
    vision_width, _, patch, _ = state["backbone.conv1.weight"].shape
    side = round((state["backbone.positional_embedding"].shape[0] - 1) ** 0.5)
    vocabulary, text_width = state["text_encoder.token_embedding.weight"].shape
    embed_dim = state["text_encoder.text_projection"].shape[1]
    hidden = {tower: state[f"{tower}.transformer.resblocks.0.mlp.c_fc.weight"].shape[0] for tower in _TOWERS}
    widths = zip((vision_width, text_width), hidden.values(), strict=True)
    check_room(state, [width * max(3 * width, inner) for width, inner in widths])
    vision = {"image_size": side * patch, "patch_size": patch}
    text = {
        "vocab_size": vocabulary,
        "max_position_embeddings": state["text_encoder.positional_embedding"].shape[0],
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    for tower, kind, prefix, width in (
        (vision, "vision", "backbone", vision_width),
        (text, "text", "text_encoder", text_width),
    ):
        tower |= {
            "hidden_act": "quick_gelu",
            "hidden_size": width,
            "intermediate_size": hidden[prefix],
            "num_hidden_layers": depth(state, prefix),
            "num_attention_heads": told.get(kind, {}).get("heads", max(1, width // _HEAD_WIDTH)),
            "projection_dim": embed_dim,
        }
    return CLIPConfig(vision_config=vision, text_config=text, projection_dim=embed_dim)
