"""Time and peak memory of a whole small run with an encoder of random weights: nothing is downloaded.

    python benchmarks/encoder_memory.py siglip2-base-patch16-512
    python benchmarks/encoder_memory.py tiny-tipsv2 --root VOCdevkit/VOC2012 --images 20 --steps 10

Drawn images, or photos of a VOC folder, go through the run: patch-text seeds, training steps with two images each,
pseudo masks and, of photos, a small network that is trained on them and scored on as many others. The weights are
random, so that the masks say nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import weakclip
from weakclip.clip.families import FAMILIES
from weakclip.clip.frozen_clip import FrozenCLIP
from weakclip.clip.vocabulary import byte_characters, tokenizer_from_merges
from weakclip.config import limit_training


def _tower(width: int, mlp: int, layers: int, heads: int) -> dict[str, Any]:
    return {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads}


TINY = _tower(32, 64, 4, 2)
BASE, LARGE = _tower(768, 3072, 12, 12), _tower(1024, 4096, 24, 16)
HUGE, GIANT, SHAPE_OPTIMIZED = _tower(1280, 5120, 32, 16), _tower(1408, 6144, 40, 16), _tower(1152, 4304, 27, 16)


def _clip(vision: dict[str, Any], text: dict[str, Any], joint: int) -> Any:
    tokens = len(tokenizer_from_merges([]))
    text = {**text, "bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "projection_dim": joint}
    vision = {**vision, "projection_dim": joint}
    return transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=joint)


def _metaclip2(vision: dict[str, Any], text: dict[str, Any], joint: int, words: int = 901_629) -> Any:
    text = {**text, "vocab_size": words, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    towers = {"vision_config": {**vision, "projection_dim": joint}, "text_config": {**text, "projection_dim": joint}}
    return transformers.MetaClip2Config(**towers, projection_dim=joint)


def _siglip(vision: dict[str, Any], text: dict[str, Any], words: int = 256_000) -> Any:
    text = {**text, "vocab_size": words, "projection_size": text["hidden_size"]}
    return transformers.SiglipConfig(vision_config=vision, text_config=text)


def _tips() -> Any:
    return transformers.Tipsv2Config()  # its defaults are those of B/14


def _tiny_tips() -> Any:
    vision = {**TINY, "image_size": 56, "patch_size": 14, "mlp_ratio": 2}
    return transformers.Tipsv2Config(vision_config=vision, text_config={**TINY, "vocab_size": 300})


SIZES: dict[str, tuple[str, int, Callable[[], Any]]] = {
    "tiny-clip": ("clip", 112, lambda: _clip({**TINY, "image_size": 56, "patch_size": 8}, TINY, 16)),
    "tiny-metaclip_2": (
        "metaclip_2", 112, lambda: _metaclip2({**TINY, "image_size": 56, "patch_size": 8}, TINY, 16, 300),
    ),
    "tiny-siglip": ("siglip", 112, lambda: _siglip({**TINY, "image_size": 56, "patch_size": 8}, TINY, 300)),
    "tiny-tipsv2": ("tipsv2", 112, _tiny_tips),
    "siglip2-base-patch16-512": (
        "siglip", 512, lambda: _siglip({**BASE, "image_size": 512, "patch_size": 16}, BASE),
    ),
    "tipsv2-b14": ("tipsv2", 518, _tips),
    "clip-vit-large-patch14-336": (
        "clip", 504, lambda: _clip({**LARGE, "image_size": 336, "patch_size": 14}, _tower(768, 3072, 12, 12), 768),
    ),
    "CLIP-ViT-H-14": (
        "clip", 448, lambda: _clip({**HUGE, "image_size": 224, "patch_size": 14}, LARGE, 1024),
    ),
    "CLIP-ViT-g-14": (
        "clip", 448, lambda: _clip({**GIANT, "image_size": 224, "patch_size": 14}, LARGE, 1024),
    ),
    "siglip2-so400m-patch14-384": (
        "siglip", 448, lambda: _siglip({**SHAPE_OPTIMIZED, "image_size": 384, "patch_size": 14}, SHAPE_OPTIMIZED),
    ),
    "metaclip-2-worldwide-huge": (
        "metaclip_2", 448, lambda: _metaclip2({**HUGE, "image_size": 224, "patch_size": 14}, LARGE, 1024),
    ),
}  # fmt: skip
"""By the name of the checkpoint: family, side of the images, configuration."""


def _tokenizer(kind: str) -> Any:
    """One token a byte, with the special tokens of the family."""
    if kind == "clip":
        return tokenizer_from_merges([])
    special = ["<s>", "<pad>", "</s>"] if kind == "metaclip_2" else ["<pad>"]
    vocabulary = {token: index for index, token in enumerate([*special, *byte_characters()])}
    bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "metaclip_2":
        ends = [("<s>", 0), ("</s>", 2)]
        bytewise.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, pad_token="<pad>")


def build(name: str) -> tuple[FrozenCLIP, int]:
    """The encoder with random weights, and the side of the images that suits it."""
    kind, side, config = SIZES[name]
    family = FAMILIES[kind]
    torch.manual_seed(0)
    model = family.network()(config())
    mean, std = family.usual_statistics
    return family(model, _tokenizer(kind), pixel_mean=mean, pixel_std=std, source=f"random {name}"), side


def measure(
    name: str, side: int | None = None, *, root: Path | None = None, images: int = 2, steps: int = 1
) -> dict[str, Any]:
    """Run it, and say what it took.

    Args:
        name: a key of `SIZES`.
        side: of the images, pixels; the encoder's own where left out.
        root: a VOC folder; None for drawn images.
        images: how many are trained on, and of a VOC folder as many are scored.
        steps: of each training.
    """
    started = time.perf_counter()
    encoder, usual = build(name)
    side = side or usual
    settings = [
        f"data.train_limit={images}",
        f"augment.crop_size={side}",
        "train.batch_size=2",
        f"pseudo_masks.inference={{scales: [1.0], flip: false, crop: {side}, stride: {side}}}",
    ]
    if root is None:
        settings += ["data.val_split=null", f"data.scene_size={side}"]
    else:
        data = f"data={{dataset: voc12, root: {root}, train_split: train_aug, val_split: val}}"
        settings = [data, f"data.val_limit={images}", *settings]
    config = limit_training(weakclip.load_config("demo", settings), steps)
    with tempfile.TemporaryDirectory() as out:
        result = weakclip.run_pipeline(config, out, clip=encoder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return {
        "encoder": name,
        "side": side,
        "images": images,
        "scores": len(result.scores),
        "parameters": parameters,
        "peak_gib": round(peak, 1),
        "seconds": round(time.perf_counter() - started),
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description="Time and peak memory of a run with an encoder of random weights.")
    parser.add_argument("encoder", choices=SIZES)
    parser.add_argument("--side", type=int, help="of the images, pixels; the encoder's own where left out")
    parser.add_argument("--root", type=Path, help="a VOC folder; drawn images where left out")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1)
    given = parser.parse_args()
    found = measure(given.encoder, given.side, root=given.root, images=given.images, steps=given.steps)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
