"""The benchmark of an encoder's memory runs the whole method, and knows the published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from by_path import load_script
from transformers import SiglipConfig

from weakclip.clip.families import FAMILIES


def test_a_small_encoder_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load_script("benchmarks/encoder_memory.py")
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**small, "image_size": 64, "patch_size": 16}, text_config={**small, "projection_size": 32}
    )
    monkeypatch.setitem(benchmark.SIZES, "siglip2-base-patch16-512", ("siglip", 64, lambda: config))
    found = benchmark.measure("siglip2-base-patch16-512")
    assert found["side"] == 64 and found["parameters"] > 0 and 0.1 < found["peak_gib"] < 4


def test_a_tiny_encoder_of_every_family_ends_a_run(voc_root: Path) -> None:
    """Of photos of a VOC folder, with a network that is trained on the masks, and scores."""
    benchmark = load_script("benchmarks/encoder_memory.py")
    tiny = {benchmark.SIZES[name][0] for name in benchmark.SIZES if name.startswith("tiny-")}
    assert tiny == {*FAMILIES}
    found = benchmark.measure("tiny-metaclip_2", 56, root=voc_root, images=2)
    assert (found["images"], found["scores"]) == (2, 4) and found["parameters"] < 1e6


def test_the_sizes_are_the_published_ones() -> None:
    benchmark = load_script("benchmarks/encoder_memory.py")
    for name, (width, patch) in {
        "clip-vit-large-patch14-336": (1024, 14),
        "siglip2-base-patch16-512": (768, 16),
        "CLIP-ViT-g-14": (1408, 14),
        "siglip2-so400m-patch14-384": (1152, 14),
        "metaclip-2-worldwide-huge": (1280, 14),
    }.items():
        _, side, config = benchmark.SIZES[name]
        vision = config().vision_config
        assert (vision.hidden_size, vision.patch_size) == (width, patch) and side % patch == 0
