"""Laws of PAR: probabilities stay probabilities, flow on one colour and stop at edges; stages call it as the CRF."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from weakclip.config import changed_settings, dump_config, load_config, parse_config
from weakclip.config.reading import read_yaml
from weakclip.crf import VOC_CRF, PARParams, refine
from weakclip.crf.par import refine_batch
from weakclip.datasets import Sample
from weakclip.errors import DataError
from weakclip.inference.pseudo_masks import PseudoMaskSettings, pseudo_mask
from weakclip.prediction import PredictSettings
from weakclip.seeds import CAM, SeedSettings, seed_masks
from weakclip.store.keys import result_settings

NEAR = PARParams(dilations=(1, 2), iterations=2)


def slow(image: np.ndarray, probs: np.ndarray, params: PARParams) -> np.ndarray:
    """The docstring's formula, pixel by pixel: `(C, H, W)` and `(K, H, W)`."""
    height, width = image.shape[1:]
    steps = [(y * far, x * far) for far in params.dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    distances = np.array([math.hypot(y, x) for y, x in steps])

    def softmax(values: np.ndarray) -> np.ndarray:
        powers = np.exp(values - values.max())
        return powers / powers.sum()

    position = softmax(-((distances / (0.3 * distances.std(ddof=1))) ** 2))
    for _ in range(params.iterations):
        after = np.zeros_like(probs)
        for i in range(height):
            for j in range(width):
                rows = np.array([min(max(i + y, 0), height - 1) for y, _ in steps])
                columns = np.array([min(max(j + x, 0), width - 1) for _, x in steps])
                colours = image[:, rows, columns]
                deviation = colours.std(axis=1, ddof=1, keepdims=True)
                unlike = (np.abs(colours - image[:, i, j, None]) / (0.3 * deviation + 1e-8)) ** 2
                weights = (softmax(-unlike.mean(axis=0)) + 0.01 * position) / 1.01
                after[:, i, j] = probs[:, rows, columns] @ weights
        probs = after
    return probs


def batch(make_image: Callable[..., Any], make_probs: Callable[..., Any], *size: int) -> tuple[Any, Any]:
    return torch.from_numpy(make_image(*size)).movedim(-1, 0)[None].float(), torch.from_numpy(make_probs(4, *size))[
        None
    ]


def test_it_is_its_formula(make_image: Callable[..., Any], make_probs: Callable[..., Any]) -> None:
    images, probs = batch(make_image, make_probs, 7, 5)
    expected = slow(images[0].double().numpy(), probs[0].double().numpy(), NEAR)
    np.testing.assert_allclose(refine_batch(images, probs, NEAR)[0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (33, 17)])
def test_probabilities_stay_probabilities(
    size: tuple[int, int], make_image: Callable[..., Any], make_probs: Callable[..., Any], device: torch.device
) -> None:
    images, probs = (each.to(device) for each in batch(make_image, make_probs, *size))
    found = refine_batch(images, probs.double(), PARParams())
    assert found.dtype == torch.float32 and found.device == probs.device
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, *size, device=found.device))
    assert (found.amax((2, 3)) <= probs.amax((2, 3)) + 1e-5).all()
    turned = refine_batch(images, probs[:, [2, 0, 3, 1]], PARParams())
    torch.testing.assert_close(turned, found[:, [2, 0, 3, 1]])
    torch.testing.assert_close(refine_batch(images, 3 * probs, PARParams(iterations=0)), probs)


def test_a_batch_is_its_images(make_image: Callable[..., Any], make_probs: Callable[..., Any]) -> None:
    both = [batch(make_image, make_probs, 20, 30), batch(make_image, make_probs, 20, 30)]
    both[1] = (both[1][0].flip(3), both[1][1].flip(1))
    images, probs = (torch.cat(parts) for parts in zip(*both, strict=True))
    together = refine_batch(images, probs, NEAR)
    for one, (image, prob) in zip(together, both, strict=True):
        torch.testing.assert_close(one, refine_batch(image, prob, NEAR)[0])


def test_it_smooths_one_colour_and_stops_at_an_edge() -> None:
    probs = torch.zeros(1, 2, 32, 32)
    probs[:, 1, :, :16] = 1
    probs[:, 0] = 1 - probs[:, 1]
    grey, edge = torch.full((1, 3, 32, 32), 80.0), torch.full((1, 3, 32, 32), 80.0)
    edge[..., 16:] = 200
    steps = PARParams(dilations=(1, 2, 4), iterations=10)
    smoothed, kept = refine_batch(grey, probs, steps), refine_batch(edge, probs, steps)
    assert smoothed[0, 1, 16, 20] > 0.1
    assert kept[0, 1, 16, 20] < 0.02 and kept[0, 1, 16, 12] > 0.98
    speck = torch.zeros(1, 2, 32, 32)
    speck[:, 0] = 1
    speck[:, :, 10, 10] = torch.tensor([0.0, 1.0])
    assert refine_batch(grey, speck, steps).argmax(dim=1).sum() == 0


def test_stages_call_it_as_they_call_the_dense_crf(
    make_image: Callable[..., Any], make_probs: Callable[..., Any], device: torch.device
) -> None:
    image, probs = make_image(24, 30), make_probs(3, 24, 30)
    expected = refine(image, probs, PARParams(), device=str(device))
    sample = Sample("a", image, (1, 2))
    mask, confidence = pseudo_mask(probs, sample, PseudoMaskSettings(crf=PARParams()), device=device)
    np.testing.assert_array_equal(mask, expected.argmax(axis=0))
    np.testing.assert_allclose(confidence, expected.max(axis=0), atol=1e-5)
    settings = SeedSettings(crf=PARParams(), background_confidence=0, foreground_confidence=0)
    seeds = seed_masks(sample, CAM((1, 2), probs[1:]), settings, device=str(device))
    assert (seeds.dense != seed_masks(sample, CAM((1, 2), probs[1:]), SeedSettings(crf=None)).dense).any()
    with pytest.raises(DataError, match=r"PAR: found an image \(1, 3, 24, 30\) and probabilities \(1, 2, 3, 4\)"):
        refine(image, np.full((2, 3, 4), 0.5), PARParams())
    with pytest.raises(DataError, match=r"PAR: dilations is \(0,\), expected whole numbers of 1 or more"):
        PARParams(dilations=(0,))


def test_it_is_a_setting_and_the_dense_crf_keeps_its_keys() -> None:
    plain = load_config("demo")
    changed = load_config("demo", ["pseudo_masks.crf.method=par", "seeds.masks.crf.method=par"])
    assert changed.pseudo_masks.crf == changed.seeds.masks.crf == PARParams()  # type: ignore[union-attr]
    assert "pseudo_masks.crf.kernels" in result_settings(plain) and "pseudo_masks.crf.method" not in result_settings(
        plain
    )
    assert result_settings(changed)["pseudo_masks.crf.method"] == "par"
    assert parse_config(read_yaml(dump_config(changed), "config"), origin="config") == changed
    predicting = changed_settings(PredictSettings(crf=VOC_CRF), ["crf.method=par"], origin="prediction")
    assert predicting.crf == PARParams()
    back = load_config("demo", ["pseudo_masks.crf.method=dense"])
    assert back == plain
