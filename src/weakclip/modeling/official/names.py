"""Names of the tensors in checkpoints of the released code, and where each goes in this package's model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_AFFINE = ("weight", "bias")
_WEIGHT = ("weight",)
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

Module = tuple[str, str, tuple[str, ...]]
"""Released module, own module, and the tensors in it."""

_ADAPTER: tuple[Module, ...] = (
    ("backbone.fpn1.0", "pyramid_adapter.norms.0", _AFFINE),
    ("backbone.fpn1.1", "pyramid_adapter.up_by_4.0", _AFFINE),
    ("backbone.fpn1.2", "pyramid_adapter.up_by_4.1", _BATCH_NORM),
    ("backbone.fpn1.4", "pyramid_adapter.up_by_4.3", _AFFINE),
    ("backbone.fpn2.0", "pyramid_adapter.norms.1", _AFFINE),
    ("backbone.fpn2.1", "pyramid_adapter.up_by_2", _AFFINE),
    ("backbone.fpn3", "pyramid_adapter.norms.2", _AFFINE),
    ("backbone.fpn4.0", "pyramid_adapter.norms.3", _AFFINE),
)
_PROJECTIONS: tuple[Module, ...] = (
    ("context_decoder.memory_proj.0", "co_attention.image_projection.0", _AFFINE),
    ("context_decoder.memory_proj.1", "co_attention.image_projection.1", _AFFINE),
    ("context_decoder.memory_proj.2", "co_attention.image_projection.2", _AFFINE),
    ("context_decoder.text_proj.0", "co_attention.text_projection.0", _AFFINE),
    ("context_decoder.text_proj.1", "co_attention.text_projection.1", _AFFINE),
    ("context_decoder.out_proj.0", "co_attention.text_output.0", _AFFINE),
    ("context_decoder.out_proj.1", "co_attention.text_output.1", _AFFINE),
    ("context_decoder.anti_out_proj.0", "co_attention.image_output.0", _AFFINE),
    ("context_decoder.anti_out_proj.1", "co_attention.image_output.1", _AFFINE),
)
_LAYER: tuple[Module, ...] = (
    ("norm1", "self_norm", _AFFINE),
    ("norm2", "cross_norm", _AFFINE),
    ("norm3", "mlp.0", _AFFINE),
    ("mlp.0", "mlp.1", _AFFINE),
    ("mlp.3", "mlp.4", _AFFINE),
    *(
        (f"{released}.{part}", f"{own}.{own_part}", tensors)
        for released, own in (("self_attn", "self_attention"), ("cross_attn", "cross_attention"))
        for part, own_part, tensors in (
            ("q_proj", "query", _WEIGHT),
            ("k_proj", "key", _WEIGHT),
            ("v_proj", "value", _WEIGHT),
            ("proj", "output", _AFFINE),
        )
    ),
)
_STACKS = (("context_decoder.decoder", "text_layers"), ("context_decoder.anti_decoder", "image_layers"))
_BLOCK = (
    *(f"{part}.{tensor}" for part in ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj", "attn.out_proj") for tensor in _AFFINE),
    "attn.in_proj_weight",
    "attn.in_proj_bias",
)
_IMAGE_TOWER = (
    *("class_embedding", "positional_embedding", "proj", "conv1.weight"),
    *("ln_pre.weight", "ln_pre.bias", "ln_post.weight", "ln_post.bias"),
)
_TEXT_TOWER = (
    *("positional_embedding", "text_projection", "token_embedding.weight"),
    *("ln_final.weight", "ln_final.bias"),
)


def trained_names(names: Iterable[str]) -> dict[str, str]:
    """Released name -> own name of every trained tensor that counts.

    Of the co-attention layers only the last counts; it becomes a chain of one.

    Args:
        names: all names in the checkpoint; they tell the number of co-attention layers.
    """
    pairs = {"contexts": "prompt.vectors", "gamma": "co_attention.alpha", "beta": "co_attention.beta"}
    last = _count(names, r"context_decoder\.(?:anti_)?decoder\.") - 1
    layers = [
        (f"{stack}.{last}.{released}", f"co_attention.{own_stack}.0.{own}", tensors)
        for stack, own_stack in _STACKS
        for released, own, tensors in _LAYER
    ]
    for released, own, tensors in (*_ADAPTER, *_PROJECTIONS, *layers, *_decoder()):
        pairs |= {f"{released}.{tensor}": f"{own}.{tensor}" for tensor in tensors}
    return pairs


def unused_names(names: Iterable[str]) -> set[str]:
    """Co-attention layers before the last: computed by the released code, and then thrown away."""
    layers = range(_count(names, r"context_decoder\.(?:anti_)?decoder\.") - 1)
    return {
        f"{stack}.{layer}.{released}.{tensor}"
        for stack, _ in _STACKS
        for layer in layers
        for released, _, tensors in _LAYER
        for tensor in tensors
    }


def frozen_names(names: Iterable[str]) -> dict[str, str]:
    """Released name -> OpenAI's name of every tensor of the CLIP in the checkpoint; `names` tell the depths."""
    names = list(names)
    pairs: dict[str, str] = {}
    for prefix, openai, tower in (("backbone.", "visual.", _IMAGE_TOWER), ("text_encoder.", "", _TEXT_TOWER)):
        depth = _count(names, re.escape(prefix) + r"transformer\.resblocks\.")
        blocks = (f"transformer.resblocks.{layer}.{name}" for layer in range(depth) for name in _BLOCK)
        pairs |= {prefix + name: openai + name for name in (*tower, *blocks)}
    return pairs


def depth(names: Iterable[str], tower: str) -> int:
    """Number of transformer blocks of `backbone` or `text_encoder`."""
    return _count(names, re.escape(tower) + r"\.transformer\.resblocks\.")


def _decoder() -> Iterator[Module]:
    for level in range(4):
        yield f"neck.lateral_convs.{level}.conv", f"decoder.feature_pyramid.laterals.{level}", _AFFINE
        yield f"neck.fpn_convs.{level}.conv", f"decoder.feature_pyramid.outputs.{level}", _AFFINE
        for block in range(max(1, level)):
            released, own = f"decode_head.scale_heads.{level}.{2 * block}", f"decoder.head.branches.{level}.{2 * block}"
            yield f"{released}.conv", f"{own}.0", _WEIGHT
            yield f"{released}.bn", f"{own}.1", _BATCH_NORM
    yield "decode_head.conv_seg", "decoder.head.classifier", _AFFINE


def _count(names: Iterable[str], prefix: str) -> int:
    """One more than the highest number that follows `prefix`, at least 1."""
    return max((1 + int(match.group(1)) for name in names if (match := re.match(prefix + r"(\d+)\.", name))), default=1)
