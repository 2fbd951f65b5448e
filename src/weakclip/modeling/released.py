"""Checkpoints of the released WeakCLIP code (github.com/hustvl/WeakCLIP), read into this package's model.

The released code departs from its paper; the model here does not, and needs no switch to compute the same:
- its co-attention layers do not chain, only the last one counts: a chain of one layer, the last, is the same;
- it adds the class embedding twice: the stored one is doubled;
- it normalises pixels with ImageNet's statistics and resizes positions bilinearly: both belong to the encoder.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from weakclip.classes import ClassSet
from weakclip.clip import FrozenCLIP
from weakclip.clip.load import DEFAULT_VOCABULARY
from weakclip.clip.openai_archive import _renamed
from weakclip.clip.vocabulary import load_tokenizer
from weakclip.errors import WeakCLIPError, WeightsError
from weakclip.modeling.weakclip import WeakCLIP, build_weakclip

IMAGENET_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
"""RGB statistics in the released configurations (mmsegmentation's img_norm_cfg), here for pixels in 0...1."""

_HEAD_WIDTH = 64  # of every published CLIP
_CO_ATTENTION_HEADS = 4  # configs/_base_/models/weakclip_vitb.py of the released code
_OWN_NAMES = ("contexts", "gamma", "beta", "backbone.conv1.weight", "text_encoder.token_embedding.weight")
_LAYER = r"context_decoder\.(anti_)?decoder\.(\d+)\."


def load_released(
    path: Path,
    *,
    architecture: Mapping[str, Any] | str | Path | None = None,
    vocabulary: str | Path | None = None,
) -> WeakCLIP:
    """Read a released checkpoint.

    Args:
        path: `.pth` with `state_dict` and `meta`.
        architecture: what no weight shape tells, as a mapping or a JSON file; every entry may be left out:
            `{"vision": {"heads", "taps"}, "text": {"heads"}, "co_attention": {"heads"}, "class_names"}`, taps counted
            from 0. Without it, heads of 64 channels (4 in co-attention), taps as in ViT-B/16, and the names in `meta`.
        vocabulary: CLIP's tokenizer, see `load_clip`; OpenAI's from the hub where left out.

    Returns:
        The model, on the CPU.

    Raises:
        WeightsError: not such a checkpoint, or one whose tensors do not fit. No code in the file is run.
    """
    state, meta = _read(path)
    told = _architecture(architecture)
    names = tuple(told.get("class_names") or meta.get("CLASSES") or ())
    classes = state["decode_head.conv_seg.weight"].shape[0]
    if len(names) != classes:
        raise WeightsError(
            f"{path}: {classes} classes, but {len(names)} names; give them in `architecture` as class_names"
        )
    try:
        clip = _frozen_clip(path, state, told, vocabulary)
        model = build_weakclip(
            clip,
            ClassSet(names=names),
            prompt_length=state["contexts"].shape[1],
            co_attention_width=state["context_decoder.text_proj.1.weight"].shape[0],
            co_attention_heads=told.get("co_attention", {}).get("heads", _CO_ATTENTION_HEADS),
            co_attention_layers=1,
            decoder_channels=state["decode_head.conv_seg.weight"].shape[1],
        )
    except KeyError as error:
        raise WeightsError(f"{path}: not a whole released WeakCLIP checkpoint; missing {error}") from None
    except WeightsError:
        raise
    except (WeakCLIPError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be built as a released WeakCLIP: {error}") from None
    model.load_trainable_state(_trained_tensors(state), source=str(path))
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """State dict and meta of the file, with the names of a released WeakCLIP checked."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: not a checkpoint that can be read safely ({reason})") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: not a released WeakCLIP checkpoint; expected a dictionary with `state_dict`")
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    missing = [name for name in (*_OWN_NAMES, "decode_head.conv_seg.weight") if name not in state]
    if missing:
        raise WeightsError(f"{path}: not a released WeakCLIP checkpoint; missing {', '.join(missing)}")
    return state, content.get("meta") or {}


def _architecture(given: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any]:
    if given is None or isinstance(given, Mapping):
        return given or {}
    try:
        told = json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{given}: cannot be read as a JSON file ({error})") from None
    if not isinstance(told, dict):
        raise WeightsError(f"{given}: expected a JSON object with vision, text and co_attention")
    return told


def _frozen_clip(
    path: Path, state: Mapping[str, Tensor], told: Mapping[str, Any], vocabulary: str | Path | None
) -> FrozenCLIP:
    """The CLIP inside the checkpoint, with the statistics and the position interpolation it was trained with."""
    tensors: dict[str, Tensor] = {}
    for name, value in _openai_tensors(state).items():
        tensors |= _renamed(name, value.float())
    tensors["vision_model.embeddings.class_embedding"] = 2 * tensors["vision_model.embeddings.class_embedding"]
    model = CLIPModel(_clip_config(state, told))
    tensors["logit_scale"] = model.logit_scale.detach()
    expected = {name: value for name, value in model.state_dict().items() if not name.endswith("position_ids")}
    wrong = [f"missing {name}" for name in expected if name not in tensors]
    wrong += [f"unexpected {name}" for name in tensors if name not in expected]
    if wrong:
        raise WeightsError(f"{path}: its CLIP is not whole: {', '.join(wrong[:8])}")
    model.load_state_dict(tensors, strict=False)
    taps = told.get("vision", {}).get("taps")
    return FrozenCLIP(
        model,
        load_tokenizer(str(vocabulary or DEFAULT_VOCABULARY)),
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
        source=str(path),
        tap_layers=None if taps is None else [tap + 1 for tap in taps],
        position_interpolation="bilinear",
    )


def _openai_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The frozen tensors by OpenAI's names."""
    towers = {"backbone.": "visual.", "text_encoder.": ""}
    return {
        towers[prefix] + name.removeprefix(prefix): value
        for prefix in towers
        for name, value in state.items()
        if name.startswith(prefix) and not name.startswith("backbone.fpn")
    }


def _clip_config(state: Mapping[str, Tensor], told: Mapping[str, Any]) -> CLIPConfig:
    vision_width, _, patch, _ = state["backbone.conv1.weight"].shape
    side = round((state["backbone.positional_embedding"].shape[0] - 1) ** 0.5)
    vocabulary, text_width = state["text_encoder.token_embedding.weight"].shape
    embed_dim = state["text_encoder.text_projection"].shape[1]
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
            "intermediate_size": state[f"{prefix}.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _depth(state, rf"{prefix}\.transformer\.resblocks\.(\d+)\."),
            "num_attention_heads": told.get(kind, {}).get("heads", max(1, width // _HEAD_WIDTH)),
            "projection_dim": embed_dim,
        }
    return CLIPConfig(vision_config=vision, text_config=text, projection_dim=embed_dim)


def _depth(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(match.group(1)) for name in state if (match := re.match(pattern, name))), default=-1)


_TRAINED_NAMES = (
    (r"gamma$", "co_attention.alpha"),
    (r"beta$", "co_attention.beta"),
    (r"backbone\.fpn1\.0\.", "pyramid_adapter.norms.0."),
    (r"backbone\.fpn1\.1\.", "pyramid_adapter.up_by_4.0."),
    (r"backbone\.fpn1\.2\.", "pyramid_adapter.up_by_4.1."),
    (r"backbone\.fpn1\.4\.", "pyramid_adapter.up_by_4.3."),
    (r"backbone\.fpn2\.0\.", "pyramid_adapter.norms.1."),
    (r"backbone\.fpn2\.1\.", "pyramid_adapter.up_by_2."),
    (r"backbone\.fpn3\.", "pyramid_adapter.norms.2."),
    (r"backbone\.fpn4\.0\.", "pyramid_adapter.norms.3."),
    (r"context_decoder\.memory_proj\.", "co_attention.image_projection."),
    (r"context_decoder\.text_proj\.", "co_attention.text_projection."),
    (r"context_decoder\.out_proj\.", "co_attention.text_output."),
    (r"context_decoder\.anti_out_proj\.", "co_attention.image_output."),
    (r"context_decoder\.decoder\.\d+\.", "co_attention.text_layers.0."),
    (r"context_decoder\.anti_decoder\.\d+\.", "co_attention.image_layers.0."),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"decoder.feature_pyramid.laterals.\1."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"decoder.feature_pyramid.outputs.\1."),
    (r"decode_head\.conv_seg\.", "decoder.head.classifier."),
    (r"decode_head\.scale_heads\.", "decoder.head.branches."),
)
_LAYER_PARTS = (
    (".self_attn.", ".self_attention."),
    (".cross_attn.", ".cross_attention."),
    ("attention.q_proj.", "attention.query."),
    ("attention.k_proj.", "attention.key."),
    ("attention.v_proj.", "attention.value."),
    ("attention.proj.", "attention.output."),
    (".norm1.", ".self_norm."),
    (".norm2.", ".cross_norm."),
    (".mlp.3.", ".mlp.4."),
    (".mlp.0.", ".mlp.1."),
    (".norm3.", ".mlp.0."),
)


def _trained_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained tensors by this package's names; of the co-attention layers the last alone, see the module."""
    last = _depth({name: value for name, value in state.items() if re.match(_LAYER, name)}, r".*?decoder\.(\d+)\.")
    trained = {"prompt.vectors": state["contexts"][0]}
    for name, value in state.items():
        layer = re.match(_LAYER, name)
        frozen = name.startswith(("backbone.", "text_encoder.")) and not name.startswith("backbone.fpn")
        if name == "contexts" or frozen or (layer and int(layer.group(2)) != last - 1):
            continue
        trained[_trained_name(name)] = value
    return trained


def _trained_name(name: str) -> str:
    for pattern, replacement in _TRAINED_NAMES:
        if re.match(pattern, name):
            name = re.sub(f"^{pattern}", replacement, name)
            break
    if name.startswith(("co_attention.text_layers.", "co_attention.image_layers.")):
        for old, new in _LAYER_PARTS:
            name = name.replace(old, new)
    if name.startswith("decoder.head.branches."):
        name = name.replace(".conv.", ".0.").replace(".bn.", ".1.")
    return name
