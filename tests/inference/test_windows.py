"""Laws of sliding-window, multi-scale, flipped inference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import weakclip
from weakclip.datasets import ScenesDataset
from weakclip.inference.stitching import NEAR, stitching_matrix, window_starts
from weakclip.inference.windows import (
    InferenceSettings,
    predict_batch,
    predict_probs,
    resized_images,
    stitched_logits,
)
from weakclip.modeling import mixed_logits

PLAIN = InferenceSettings(scales=(1.0,), flip=False, crop=32, stride=21, fit_crop=False)
DEMO = InferenceSettings(scales=(1.0,), flip=False, crop=128, stride=96)


def image_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def colours(images: Tensor) -> Tensor:
    """The identity as a network: logits are the pixels."""
    return images.float() / 50


def expected_of(image: np.ndarray) -> np.ndarray:
    return (torch.from_numpy(image).permute(2, 0, 1).float() / 50).softmax(dim=0).numpy()


@pytest.mark.parametrize("size", [(32, 32), (20, 27), (33, 80), (90, 15), (1, 70), (75, 64)])
@pytest.mark.parametrize("flip", [False, True])
def test_the_identity_gives_the_identity(size: tuple[int, int], flip: bool) -> None:
    image = image_of(*size)
    settings = InferenceSettings(scales=(1.0,), flip=flip, crop=32, stride=21, fit_crop=False)
    probs = predict_probs(colours, image, settings, device="cpu")
    assert probs.dtype == np.float32
    assert np.allclose(probs, expected_of(image), atol=1e-6)


def test_probabilities_sum_to_one_whatever_the_scales() -> None:
    settings = InferenceSettings(crop=32, stride=21)
    probs = predict_probs(colours, image_of(37, 53), settings, device="cpu")
    assert probs.shape == (3, 37, 53)
    assert np.allclose(probs.sum(axis=0), 1, atol=1e-6)
    assert probs.min() >= 0


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_images_together_are_as_images_alone(batch_size: int) -> None:
    """Windows of several images may share a batch; each image gets its own back."""
    settings = InferenceSettings(scales=(1.0, 1.5), crop=32, stride=21, batch_size=batch_size)
    images = [image_of(37, 53, seed) for seed in range(3)]
    for together, image in zip(predict_batch(colours, images, settings, device="cpu"), images, strict=True):
        assert np.array_equal(together, predict_probs(colours, image, settings, device="cpu"))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 52, 53, 54, 100, 341, 1195])
@pytest.mark.parametrize(("crop", "stride"), [(32, 21), (32, 32), (32, 1), (512, 341)])
def test_windows_cover_every_pixel_and_stay_inside(length: int, crop: int, stride: int) -> None:
    starts = window_starts(length, crop, stride)
    covered = np.zeros(length, int)
    for start in starts:
        assert 0 <= start <= max(0, length - crop)
        covered[start : start + crop] += 1
    assert covered.min() >= 1
    assert starts == sorted(set(starts))
    grid = [*range(0, max(0, length - crop), stride), max(0, length - crop)]
    left_out = set(grid) - set(starts)
    assert len(left_out) <= 1 and all(0 < starts[-1] - start < crop / NEAR for start in left_out)


def test_windows_a_pixel_apart_are_one_and_masks_hardly_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """375×500 at 1.75: columns 682 and 683. The whole grid counts the last window twice."""
    assert window_starts(1195, 512, 341) == [0, 341, 683]
    assert window_starts(513, 512, 341) == [0, 1], "nothing else covers the first pixel"
    image, calls = image_of(375, 500), 0
    settings = InferenceSettings(scales=(1.75,), flip=False, batch_size=100)

    def blurred(images: Tensor) -> Tensor:
        nonlocal calls
        calls += len(images)
        return F.avg_pool2d(colours(images), 16) + torch.linspace(0, 0.2, images.shape[3] // 16)

    fewer, count = predict_probs(blurred, image, settings, device="cpu"), calls
    monkeypatch.setattr("weakclip.inference.stitching.NEAR", 10**6)
    whole = predict_probs(blurred, image, settings, device="cpu")
    assert (count, calls - count) == (9, 12)
    assert np.abs(fewer - whole).max() < 0.06 and (fewer.argmax(0) == whole.argmax(0)).mean() > 0.98


def test_rows_of_some_classes_are_those_of_all() -> None:
    image = image_of(40, 61)
    for average in ("probabilities", "logits"):
        settings = InferenceSettings(scales=(0.75, 1.0), crop=32, stride=21, average=average)
        whole = predict_probs(colours, image, settings, device="cpu")
        rows = predict_probs(colours, image, settings, device="cpu", classes=[0, 2])
        assert np.array_equal(rows, whole[[0, 2]])


def test_images_resized_ahead_give_the_same() -> None:
    images = [image_of(40, 61, seed) for seed in range(2)]
    settings = InferenceSettings(scales=(0.75, 1.0), crop=32, stride=21)
    ahead = [resized_images(image, settings) for image in images]
    assert [one.shape for one in ahead[0]] == [(3, 24, 37), (3, 32, 49)]
    together = predict_batch(colours, images, settings, device="cpu", resized=ahead)
    assert all(map(np.array_equal, together, predict_batch(colours, images, settings, device="cpu")))


def test_stitching_matrices_are_made_once() -> None:
    first, again = (stitching_matrix(starts, 32, 53, 4, 200) for starts in ([0, 21], (0, 21)))
    assert first is again
    large = [stitching_matrix(range(0, 3400, 100), 128, 3428, 32, 4000) for _ in range(2)]
    assert large[0] is not large[1], "kept, it would fill the memory"
    assert stitching_matrix([0], 32, 32, 4, 8, device="meta").device.type == "meta"


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3)])
def test_a_narrow_image_is_enlarged_to_eight_windows_at_most(size: tuple[int, int]) -> None:
    windows = 0

    def spy(images: Tensor) -> Tensor:
        nonlocal windows
        windows += len(images)
        return colours(images)

    settings = InferenceSettings(scales=(1.0,), flip=False, crop=32, stride=32)
    assert predict_probs(spy, image_of(*size), settings, device="cpu").shape == (3, *size)
    assert windows <= 8


def test_overlapping_logits_are_averaged_whatever_the_batches() -> None:
    """A network that knows a window's mean alone: each pixel must get the mean over the windows that hold it."""
    image = torch.from_numpy(image_of(50, 70)).permute(2, 0, 1)

    def means(images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3), keepdim=True).expand(-1, -1, *images.shape[2:])

    total, count = torch.zeros(3, 50, 70), torch.zeros(50, 70)
    for left in reversed(window_starts(70, 32, 21)):
        for top in window_starts(50, 32, 21):
            total[:, top : top + 32, left : left + 32] += (
                image[:, top : top + 32, left : left + 32].float().mean(dim=(1, 2), keepdim=True)
            )
            count[top : top + 32, left : left + 32] += 1
    for batch_size in (1, 2, 5, 100):
        settings = InferenceSettings(crop=32, stride=21, batch_size=batch_size)
        (found,) = stitched_logits(means, image[None], (50, 70), settings)
        assert torch.allclose(found, total / count, rtol=1e-6)


def test_windows_are_uint8_of_one_size_in_bounded_batches() -> None:
    seen: list[tuple[int, ...]] = []

    def spy(images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert not torch.is_grad_enabled()
        seen.append(tuple(images.shape))
        return colours(images)

    settings = InferenceSettings(scales=(1.0,), flip=False, crop=32, stride=21, fit_crop=False, batch_size=4)
    predict_probs(spy, image_of(32, 120), settings, device="cpu")
    assert seen == [(4, 3, 32, 32), (2, 3, 32, 32)]
    seen.clear()
    predict_probs(spy, image_of(20, 40), settings, device="cpu")
    assert seen == [(2, 3, 20, 32)]
    seen.clear()
    predict_probs(spy, image_of(20, 12), settings, device="cpu")
    assert seen == [(1, 3, 20, 12)]


def test_with_flip_a_mirrored_image_gives_a_mirrored_result() -> None:
    def lopsided(images: Tensor) -> Tensor:
        ramp = torch.linspace(0, 2, images.shape[3])
        return colours(images) + ramp * torch.tensor([1.0, 0.0, -1.0])[:, None, None]

    settings = InferenceSettings(scales=(0.75, 1.0), flip=True, crop=32, stride=21)
    image = image_of(40, 61)
    probs = predict_probs(lopsided, image, settings, device="cpu")
    mirrored = predict_probs(lopsided, np.ascontiguousarray(image[:, ::-1]), settings, device="cpu")
    assert np.allclose(mirrored[..., ::-1], probs, atol=2e-3)
    alone = predict_probs(lopsided, image, PLAIN, device="cpu")
    assert np.abs(alone - predict_probs(lopsided, image[:, ::-1].copy(), PLAIN, device="cpu")[..., ::-1]).max() > 0.1


def test_scales_are_averaged_as_probabilities() -> None:
    """A network sure of class 0 at one size and of class 1 at the other: a half each, whatever the logits' heights."""

    def by_size(images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 2, *images.shape[2:])
        logits[:, 0 if images.shape[3] == 32 else 1] = 100.0 if images.shape[3] == 32 else 20.0
        return logits

    settings = InferenceSettings(scales=(0.5, 1.0), flip=False, crop=32, stride=21)
    assert np.allclose(predict_probs(by_size, image_of(32, 32), settings, device="cpu"), 0.5, atol=1e-6)


def test_scales_and_flips_are_averaged_as_logits() -> None:
    """Logits of 6 at one size and 2 of the other class at the other: the softmax of their means, over all passes."""

    def by_size(images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 2, *images.shape[2:])
        logits[:, 0 if images.shape[3] == 32 else 1] = 6.0 if images.shape[3] == 32 else 2.0
        return logits

    settings = InferenceSettings(scales=(0.5, 1.0), flip=True, crop=32, stride=21, average="logits")
    probs = predict_probs(by_size, image_of(32, 32), settings, device="cpu")
    expected = torch.tensor([3.0, 1.0]).softmax(dim=0).numpy()
    assert np.allclose(probs, expected[:, None, None], atol=1e-6)


def test_one_pass_is_averaged_the_same_either_way() -> None:
    image = image_of(40, 33)
    first, second = (dataclasses.replace(PLAIN, average=kind) for kind in ("logits", "probabilities"))
    found = [predict_probs(colours, image, settings, device="cpu") for settings in (first, second)]
    assert np.allclose(*found, atol=1e-6)


@pytest.mark.parametrize("match_share", [0.0, 0.5, 1.0])
def test_masks_of_both_precisions_agree(match_share: float) -> None:
    """bf16 has eight bits of mantissa; masks differ at the borders of classes, where probabilities are nearly equal."""
    clip, dataset = weakclip.load_clip("demo"), ScenesDataset("val", count=2)
    model = weakclip.build_weakclip(clip, dataset.class_set, decoder_channels=32, co_attention_width=32).eval()
    seen: set[bool] = set()

    def logits_of(images: Tensor) -> Tensor:
        output = model(images)
        seen.add(torch.is_autocast_enabled("cpu"))
        return mixed_logits(output, match_share)

    for index in range(len(dataset)):
        one, other = (
            predict_probs(logits_of, dataset.image(index), dataclasses.replace(DEMO, precision=kind), device="cpu")
            for kind in ("fp32", "bf16")
        )
        assert other.dtype == np.float32 and np.allclose(other.sum(axis=0), 1, atol=1e-5)
        assert np.abs(one - other).max() < 0.03
        assert (one.argmax(axis=0) == other.argmax(axis=0)).mean() > 0.98
    assert seen == {False, True}


@pytest.mark.parametrize("amx", [False, True])
def test_a_cpu_computes_in_float32_unless_it_has_tiles_for_bf16(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})

    def logits_of(images: Tensor) -> Tensor:
        assert torch.is_autocast_enabled("cpu") == amx
        return colours(images)

    predict_probs(logits_of, image_of(20, 20), PLAIN, device="cpu")


def test_scale_one_brings_the_shorter_side_to_the_crop() -> None:
    seen: set[tuple[int, ...]] = set()

    def spy(images: Tensor) -> Tensor:
        seen.add(tuple(images.shape[2:]))
        return colours(images)

    predict_probs(spy, image_of(100, 160), InferenceSettings(scales=(1.0, 0.5), crop=32, stride=21), device="cpu")
    assert seen == {(32, 32), (16, 26)}


def test_permuting_classes_permutes_the_result() -> None:
    settings = InferenceSettings(scales=(0.5, 1.25), crop=32, stride=21)
    order = [2, 0, 1]
    plain = predict_probs(colours, image_of(30, 44), settings, device="cpu")
    permuted = predict_probs(lambda images: colours(images)[:, order], image_of(30, 44), settings, device="cpu")
    assert np.allclose(permuted, plain[order], atol=1e-6)


@pytest.mark.parametrize("size", [(50, 70), (33, 41), (80, 100)])
def test_stitching_equals_resizing_averaging_and_resizing_one_by_one(size: tuple[int, int]) -> None:
    """The published procedure, step by step."""
    image = torch.from_numpy(image_of(50, 70)).permute(2, 0, 1)
    settings = InferenceSettings(crop=32, stride=21)

    def coarse(images: Tensor) -> Tensor:
        return F.avg_pool2d(colours(images), 4)

    total, count = torch.zeros(3, 50, 70), torch.zeros(50, 70)
    for top in window_starts(50, 32, 21):
        for left in window_starts(70, 32, 21):
            rows, columns = slice(top, top + 32), slice(left, left + 32)
            total[:, rows, columns] += F.interpolate(coarse(image[None, :, rows, columns]), (32, 32), mode="bilinear")[
                0
            ]
            count[rows, columns] += 1
    expected = F.interpolate((total / count)[None], size, mode="bilinear")[0]
    (found,) = stitched_logits(coarse, image[None], size, settings)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("length", "coarse", "target"), [(100, 8, 37), (32, 32, 32), (53, 4, 200), (20, 5, 1)])
def test_stitching_keeps_constants(length: int, coarse: int, target: int) -> None:
    starts = window_starts(length, 32, 21)
    matrix = stitching_matrix(starts, min(32, length), length, coarse, target)
    assert matrix.shape == (target, len(starts) * coarse)
    assert torch.allclose(matrix.sum(dim=1), torch.ones(target), atol=1e-5)


def test_coarse_logits_are_brought_to_the_window_bilinearly() -> None:
    def coarse(images: Tensor) -> Tensor:
        return F.avg_pool2d(colours(images), 4)

    image = image_of(32, 32)
    logits = F.interpolate(coarse(torch.from_numpy(image).permute(2, 0, 1)[None]), size=(32, 32), mode="bilinear")
    assert np.allclose(predict_probs(coarse, image, PLAIN, device="cpu"), logits[0].softmax(dim=0), atol=1e-6)
