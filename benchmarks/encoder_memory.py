"""Peak memory of a whole small run with an encoder of real size and random weights: nothing is downloaded.

    python benchmarks/encoder_memory.py siglip2-base-patch16-512

Two drawn images go through the run: patch-text seeds, one training step with both, pseudo masks. The weights are
random, so that the masks say nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import weakclip
from weakclip.clip.families import FAMILIES
from weakclip.clip.frozen_clip import FrozenCLIP
from weakclip.clip.vocabulary import byte_characters, tokenizer_from_merges
from weakclip.config import limit_training

LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def _clip(vision: dict[str, Any], text: dict[str, Any], joint: int) -> Any:
    tokens = len(tokenizer_from_merges([]))
    text = {**text, "bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "projection_dim": joint}
    vision = {**vision, "projection_dim": joint}
    return transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=joint)


def _siglip(vision: dict[str, Any], text: dict[str, Any]) -> Any:
    text = {**text, "vocab_size": 256_000, "projection_size": text["hidden_size"]}
    return transformers.SiglipConfig(vision_config=vision, text_config=text)


def _tips() -> Any:
    return transformers.Tipsv2Config()  # its defaults are those of B/14


SIZES: dict[str, tuple[str, int, Callable[[], Any]]] = {
    "clip-vit-large-patch14-336": (
        "clip",
        504,
        lambda: _clip(
            {**LARGE, "image_size": 336, "patch_size": 14},
            {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
            768,
        ),
    ),
    "siglip2-base-patch16-512": (
        "siglip",
        512,
        lambda: _siglip({**BASE, "image_size": 512, "patch_size": 16}, BASE),
    ),
    "tipsv2-b14": ("tipsv2", 518, _tips),
}
"""By the name of the checkpoint: family, side of the images, configuration."""


def build(name: str) -> tuple[FrozenCLIP, int]:
    """The encoder with random weights, and the side of the images that suits it."""
    kind, side, config = SIZES[name]
    family = FAMILIES[kind]
    torch.manual_seed(0)
    model = family.network()(config())
    mean, std = family.usual_statistics
    tokenizer: Any = tokenizer_from_merges([])
    if kind != "clip":
        vocabulary = {token: index for index, token in enumerate(["<pad>", *byte_characters()])}
        bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, pad_token="<pad>")
    return family(model, tokenizer, pixel_mean=mean, pixel_std=std, source=f"random {name}"), side


def measure(name: str, side: int | None = None) -> dict[str, Any]:
    """Run it, and say what it took; `side` replaces the side of the images."""
    started = time.perf_counter()
    encoder, usual = build(name)
    side = side or usual
    settings = [
        "data.train_limit=2",
        "data.val_split=null",
        f"data.scene_size={side}",
        f"augment.crop_size={side}",
        "train.batch_size=2",
        f"pseudo_masks.inference={{scales: [1.0], flip: false, crop: {side}, stride: {side}}}",
    ]
    config = limit_training(weakclip.load_config("demo", settings), 1)
    with tempfile.TemporaryDirectory() as out:
        weakclip.run_pipeline(config, out, clip=encoder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return {
        "encoder": name,
        "side": side,
        "parameters": parameters,
        "peak_gib": round(peak, 1),
        "seconds": round(time.perf_counter() - started),
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description="Peak memory of a run with an encoder of real size.")
    parser.add_argument("encoder", choices=SIZES)
    parser.add_argument("--side", type=int, help="of the images, pixels; the encoder's own where left out")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.encoder, arguments.side)))


if __name__ == "__main__":
    main()
