"""Tiny encoders of every family, with random weights and tokenizers of bytes: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from weakclip.clip.families import FAMILIES
from weakclip.clip.frozen_clip import FrozenCLIP
from weakclip.clip.vocabulary import byte_characters, tokenizer_from_merges
from weakclip.errors import WeightsError

KINDS = tuple(FAMILIES)


def byte_tokenizer(special: list[str], template: str) -> PreTrainedTokenizerFast:
    """A token a byte; special tokens come first, as those of SentencePiece do, and `template` says where they stand."""
    vocabulary = {token: index for index, token in enumerate([*special, *byte_characters()])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if special[0] in template or special[-1] in template:
        pairs = [(token, vocabulary[token]) for token in special]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", padding_side="left")


def _tokenizer(kind: str) -> Any:
    if kind == "clip":
        return tokenizer_from_merges([])
    if kind == "metaclip_2":  # as XLM-V: the end token has a low id
        return byte_tokenizer(["<s>", "<pad>", "</s>"], "<s> $A </s>")
    return byte_tokenizer(["<pad>", "</s>"], "$A </s>" if kind == "siglip" else "$A")


def _config(kind: str, tokens: int, **vision: Any) -> Any:
    heads = {"num_attention_heads": 2, "projection_dim": 16}
    image: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "image_size": 32}
    image |= {"patch_size": 8, **vision}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": tokens}
    if kind == "clip":  # as LAION, DataComp and DFN: the activation is gelu, the end token the true one
        ends = {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "pad_token_id": 0, "hidden_act": "gelu"}
        image["hidden_act"] = "gelu"
    elif kind == "metaclip_2":
        ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    else:
        ends = {"pad_token_id": 0, "max_position_embeddings": 64}
    if kind == "siglip":
        heads = {"num_attention_heads": 2}
        ends["projection_size"] = 32
    if kind == "tipsv2":
        heads = {"num_attention_heads": 2}
        image["mlp_ratio"] = image.pop("intermediate_size") / image["hidden_size"]
    name = {"clip": "CLIPConfig", "metaclip_2": "MetaClip2Config", "siglip": "SiglipConfig", "tipsv2": "Tipsv2Config"}
    extra = {"projection_dim": 16} if "projection_dim" in heads else {}
    return getattr(transformers, name[kind])(vision_config=heads | image, text_config=heads | text | ends, **extra)


def tiny(kind: str, **vision: Any) -> FrozenCLIP:
    """An encoder of a family, patch 8, four layers, learned on 32 x 32; `vision` changes that.

    Equal arguments, equal weights. A test is skipped where the transformers that is installed has no such family.
    """
    family = FAMILIES[kind]
    try:
        network = family.network()
    except WeightsError as error:
        pytest.skip(str(error))
    tokenizer = _tokenizer(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network(_config(kind, len(tokenizer), **vision))
        for name, parameter in model.named_parameters():  # larger than at the start, so that differences show
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2 if "embed" not in name else 0.5)
            elif "bias" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    mean, std = family.usual_statistics
    return family(model, tokenizer, pixel_mean=mean, pixel_std=std, source=f"tiny {kind}")
