"""Outlier tokens are found and filled; where there is none, nothing changes by a byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from weakclip.clip import FrozenCLIP, load_clip
from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.scenes import ScenesDataset
from weakclip.seeds import ClipGradCAM, GradCAMSettings, PatchText, PatchTextSettings
from weakclip.seeds.outliers import fill_outliers

CLASSES = ClassSet.from_foreground(["cat", "dog", "boat"])
SAMPLE = Sample(
    name="a", image=np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8), labels=(1, 2, 3)
)


def planted(hidden: Tensor, *places: int, prefix: int = 1) -> Tensor:
    loud = hidden.clone()
    loud[:, [prefix + place for place in places]] *= 40
    return loud


def test_without_outliers_the_very_tensor_comes_back() -> None:
    hidden = torch.randn(2, 1 + 20, 32)
    assert fill_outliers(hidden, (4, 5), 1) is hidden


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_a_planted_patch_is_the_mean_of_its_neighbours(prefix: int) -> None:
    hidden = torch.randn(2, prefix + 20, 32)
    filled = fill_outliers(planted(hidden, 6, prefix=prefix), (4, 5), prefix)
    around = [0, 1, 2, 5, 7, 10, 11, 12]  # of 6 in rows of 5
    torch.testing.assert_close(filled[:, prefix + 6], hidden[:, [prefix + place for place in around]].mean(dim=1))
    others = [place for place in range(prefix + 20) if place != prefix + 6]
    assert torch.equal(filled[:, others], hidden[:, others])


def test_a_group_of_them_is_filled_from_its_edge_and_only_in_its_image() -> None:
    hidden = torch.randn(2, 49, 32)
    loud = hidden.clone()
    group = [8, 9, 10, 15, 16, 17, 22, 23, 24]  # 3 x 3 in rows of 7
    loud[0, group] *= 40
    filled = fill_outliers(loud, (7, 7), 0)
    assert torch.equal(filled[1], hidden[1]) and torch.isfinite(filled).all()
    assert filled.norm(dim=-1).max() <= hidden.norm(dim=-1).max()


def test_the_class_token_may_be_loud() -> None:
    hidden = torch.randn(1, 1 + 20, 32)
    hidden[:, 0] *= 40
    assert fill_outliers(hidden, (4, 5), 1) is hidden


@pytest.mark.parametrize(("method", "settings"), [(PatchText, PatchTextSettings), (ClipGradCAM, GradCAMSettings)])
def test_a_planted_outlier_does_not_reach_the_maps(
    tiny_clip: FrozenCLIP, method: Callable[..., Any], settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One patch shouts from the first block on; the maps are those of an image tower that has its neighbours' mean."""

    def maps(*, fill: bool) -> np.ndarray:
        found: np.ndarray = method(tiny_clip, CLASSES, settings(fill_outliers=fill)).cam(SAMPLE).maps
        return found

    assert (maps(fill=True) == maps(fill=False)).all(), "without outliers nothing changes"
    embed, shout = FrozenCLIP.embed_image, 100 * torch.randn(32, device=tiny_clip.device)

    def planted(self: FrozenCLIP, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        hidden, grid = embed(self, images)
        hidden[:, 18] = shout
        return hidden, grid

    def with_mean(self: FrozenCLIP, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        hidden, grid = planted(self, images)
        return fill_outliers(hidden, grid, 1), grid

    monkeypatch.setattr(FrozenCLIP, "embed_image", planted)
    kept, filled = maps(fill=False), maps(fill=True)
    monkeypatch.setattr(FrozenCLIP, "embed_image", with_mean)
    assert (filled == maps(fill=False)).all() and not np.allclose(filled, kept, atol=0.05)


def test_the_demo_clip_has_none() -> None:
    """On drawings the seeds of the demo stay what they are."""
    clip, dataset = load_clip("demo"), ScenesDataset("train", count=2)
    images = torch.stack([torch.from_numpy(dataset.image(index)).permute(2, 0, 1) for index in range(2)])
    with torch.no_grad():
        hidden, grid = clip.embed_image(images)
        for block in clip.blocks:
            assert fill_outliers(hidden, grid, clip.prefix) is hidden
            hidden = clip.run_block(block, hidden)
