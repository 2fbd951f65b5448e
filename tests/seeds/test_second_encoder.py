"""The affinity of a second encoder: the published formula, any vision transformer, one line for what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from weakclip.clip import FrozenCLIP
from weakclip.config import parse_config
from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.errors import RunError, WeightsError
from weakclip.pipeline import run_stage
from weakclip.seeds import ClipGradCAM, PatchText
from weakclip.seeds.second_encoder import SecondAffinity, foreign_affinity, load_second_encoder, spread_with

CLASSES = ClassSet.from_foreground(["cat", "dog"])
SAMPLE = Sample(name="a", image=np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8), labels=(1, 2))
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def save(folder: Path, family: str, **more: Any) -> str:
    """A tiny random network in transformers' format; a test is skipped where the installed one has no such family."""
    if not hasattr(transformers, f"{family}Model"):
        pytest.skip(f"transformers {transformers.__version__} has no {family}Model")
    config = getattr(transformers, f"{family}Config")(**SMALL | more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("dinov2"), "Dinov2", mlp_ratio=2)


def reference(patches: Tensor) -> Tensor:
    """ProxyCLIP's formula in plain loops."""
    unit = [patch / patch.norm() for patch in patches]
    cosines = [[float(one @ other) for other in unit] for one in unit]
    mean = sum(map(sum, cosines)) / len(unit) ** 2
    rows = []
    for index, row in enumerate(cosines):
        scores = [3 * (cosine - 1.2 * mean) for cosine in row]
        weights = [np.exp(score) if score > 0 or place == index else 0.0 for place, score in enumerate(scores)]
        rows.append([weight / sum(weights) for weight in weights])
    return torch.tensor(rows, dtype=torch.float32)


def test_the_affinity_is_the_published_one() -> None:
    patches = torch.randn(12, 6)
    found = foreign_affinity(patches)
    torch.testing.assert_close(found, reference(patches), rtol=1e-4, atol=1e-6)
    assert (found == 0).any() and (found.diagonal() > 0).all()
    torch.testing.assert_close(foreign_affinity(5 * patches), found)


def test_patches_that_are_all_alike_keep_themselves() -> None:
    assert torch.equal(foreign_affinity(torch.ones(3, 6)), torch.eye(3))


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("Dinov2", {}),
        ("Dinov2WithRegisters", {"num_register_tokens": 4}),
        ("DINOv3ViT", {"num_register_tokens": 4, "intermediate_size": 32}),
        ("ViT", {"intermediate_size": 32}),
        ("Radio", {"patch_size": 16, "max_img_size": 256}),
    ],
)
@pytest.mark.parametrize("grid", [(5, 7), (2, 2), (9, 3)])
def test_any_vision_transformer_at_any_grid(family: str, more: dict[str, Any], grid: tuple[int, int], tmp_path) -> None:
    encoder = load_second_encoder(save(tmp_path / "second", family, **more))
    found = encoder.affinity(SAMPLE, grid, torch.device("cpu"))
    assert found.shape == (grid[0] * grid[1],) * 2
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)))
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_it_replaces_or_joins_the_attention(tiny_clip: FrozenCLIP, dinov2: str) -> None:
    encoder, attention = load_second_encoder(dinov2), torch.rand(35, 35, device=tiny_clip.device)
    assert spread_with(None, SAMPLE, (5, 7), attention) is attention
    replaced = spread_with(SecondAffinity(encoder), SAMPLE, (5, 7), attention)
    joined = spread_with(SecondAffinity(encoder, "join"), SAMPLE, (5, 7), attention)
    torch.testing.assert_close(replaced, encoder.affinity(SAMPLE, (5, 7), tiny_clip.device))
    torch.testing.assert_close(joined, (attention / attention.sum(dim=1, keepdim=True) + replaced) / 2)
    for method in (PatchText, ClipGradCAM):
        plain = method(tiny_clip, CLASSES).cam(SAMPLE)
        second = method(tiny_clip, CLASSES, second=SecondAffinity(encoder)).cam(SAMPLE)
        assert second.maps.shape == plain.maps.shape and np.isfinite(second.maps).all()
        assert not np.allclose(second.maps, plain.maps, atol=1e-3)


@pytest.mark.parametrize("method", ["patch_text", "clip_gradcam"])
def test_a_run_with_a_second_encoder(
    method: str, tiny_settings: Callable[..., dict[str, Any]], dinov2: str, tmp_path: Path
) -> None:
    """The stage makes its seeds; another second encoder is another key."""
    seeds = {"method": method, "affinity_encoder": dinov2}
    run_stage(parse_config({**tiny_settings(), "seeds": seeds}, origin="test"), tmp_path, "seeds")
    assert len(list((tmp_path / "1_seeds/masks").glob("*.png"))) == 6
    for other in ({"affinity_encoder": None}, {"affinity_role": "join"}):
        config = parse_config({**tiny_settings(), "seeds": seeds | other}, origin="test")
        with pytest.raises(RunError, match=r"seeds\.affinity_"):
            run_stage(config, tmp_path, "seeds")


def test_what_is_no_second_encoder_is_one_line(tmp_path: Path) -> None:
    convolutions = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    transformers.ResNetModel(convolutions).save_pretrained(tmp_path / "resnet")
    for source, words in (
        (str(tmp_path / "resnet"), "is a vision transformer .* found ResNetModel"),
        (str(tmp_path), "no weights to be had for a second encoder"),
        ("nobody/nothing", "hub id, for instance facebook/dinov2"),
    ):
        with pytest.raises(WeightsError, match=words) as caught:
            load_second_encoder(source)
        assert "\n" not in str(caught.value)
