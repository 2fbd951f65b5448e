"""The benchmark of an encoder's memory runs the whole method, and knows the published sizes."""

from __future__ import annotations

import pytest
from by_path import load_script
from transformers import SiglipConfig


def test_a_small_encoder_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load_script("benchmarks/encoder_memory.py")
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**small, "image_size": 64, "patch_size": 16}, text_config={**small, "projection_size": 32}
    )
    monkeypatch.setitem(benchmark.SIZES, "siglip2-base-patch16-512", ("siglip", 64, lambda: config))
    found = benchmark.measure("siglip2-base-patch16-512")
    assert found["side"] == 64 and found["parameters"] > 0 and 0.1 < found["peak_gib"] < 4


def test_the_sizes_are_the_published_ones() -> None:
    benchmark = load_script("benchmarks/encoder_memory.py")
    for name, (width, patch) in {
        "clip-vit-large-patch14-336": (1024, 14),
        "siglip2-base-patch16-512": (768, 16),
    }.items():
        _, side, config = benchmark.SIZES[name]
        vision = config().vision_config
        assert (vision.hidden_size, vision.patch_size) == (width, patch) and side % patch == 0
