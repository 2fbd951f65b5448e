"""Laws of cosine seeds: what an encoder finds alike is strong, with and without words for the background."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_encoder import RandomEncoder

from weakclip.clip import FrozenCLIP, load_clip
from weakclip.datasets import Sample, ScenesDataset
from weakclip.datasets.classes import ClassSet
from weakclip.errors import DataError
from weakclip.inference.metrics import ConfusionMatrix
from weakclip.seeds import CAM, CosineSeeds, CosineSettings, SeedSettings, seed_masks
from weakclip.seeds.cosine import COSINE_POWER

CLASSES = ClassSet.from_foreground(["cat", "dog", "bird"], background_prompts=["sky", "sea"])
BARE = CosineSettings(prompt_templates=("{}",))


def picture(height: int, width: int, labels: tuple[int, ...]) -> Sample:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(name="noise", image=image, labels=labels)


def closed(prefix: int = 0) -> RandomEncoder:
    """An encoder that knows the classes alone."""
    encoder = RandomEncoder(prefix=prefix)
    encoder.known_texts = frozenset(CLASSES.names)
    return encoder


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_known_classes_are_held_against_the_patches(prefix: int) -> None:
    """On a whole grid of patches of 8 pixels, by the formula; no other token of the image has a say."""
    encoder, sample = closed(prefix), picture(16, 24, (1, 3))
    found = CosineSeeds(encoder, CLASSES).cam(sample)
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None]
    text = encoder.encode_text(["cat", "bird"])
    patches = encoder.encode_image(image).tokens[0, prefix:]
    cosines = torch.cosine_similarity(text[:, None], patches[None], dim=-1).clamp(min=0).unflatten(1, (2, 3))
    whole = F.interpolate(cosines[None], size=(16, 24), mode="bilinear", align_corners=False)[0]
    assert found.classes == (1, 3) and found.background_power == COSINE_POWER
    np.testing.assert_allclose(found.maps, whole.numpy(), rtol=0, atol=1e-5)


def test_words_for_the_background_take_part_where_any_text_is_known() -> None:
    encoder, sample = RandomEncoder(), picture(16, 24, (2,))
    found = CosineSeeds(encoder, CLASSES, BARE).cam(sample)
    text = F.normalize(encoder.encode_text(["dog", "sky", "sea"]), dim=-1)
    patches = encoder.encode_image(torch.from_numpy(sample.image).permute(2, 0, 1)[None]).patches[0]
    probabilities = (100 * F.normalize(patches, dim=-1) @ text.T).softmax(dim=-1)[:, :1].T.unflatten(1, (2, 3))
    low, high = probabilities.min(), probabilities.max()
    whole = F.interpolate(((probabilities - low) / (high - low))[None], size=(16, 24), mode="bilinear")[0]
    assert found.background_power == 1.0
    np.testing.assert_allclose(found.maps, whole.numpy(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(7, 40), (8, 8), (33, 47)])
@pytest.mark.parametrize("known", [True, False])
def test_maps_fit_the_image_and_its_labels(size: tuple[int, int], known: bool) -> None:
    method = CosineSeeds(closed() if known else RandomEncoder(), CLASSES, CosineSettings(scale=1.5))
    found = method.cam(picture(*size, (1, 2, 3)))
    assert found.maps.shape == (3, *size) and found.maps.dtype == np.float32
    assert found.maps.min() >= 0 and found.maps.max() <= 1 + 1e-5
    assert method.cam(picture(*size, ())).maps.shape == (0, *size)


def test_permuting_classes_permutes_the_maps() -> None:
    order = ClassSet.from_foreground(["bird", "cat", "dog"], background_prompts=["sky", "sea"])
    for encoder in (closed(), RandomEncoder()):
        plain = CosineSeeds(encoder, CLASSES).cam(picture(24, 16, (1, 2, 3))).maps
        other = CosineSeeds(encoder, order).cam(picture(24, 16, (1, 2, 3))).maps
        np.testing.assert_allclose(other, plain[[2, 0, 1]], rtol=0, atol=1e-4)


def test_a_class_that_is_not_known_is_named() -> None:
    encoder = closed()
    encoder.known_texts = frozenset(("background", "cat", "bird"))
    with pytest.raises(DataError, match=r"random numbers 0: this encoder does not know the class 'dog'$"):
        CosineSeeds(encoder, CLASSES)


def test_settings_win_over_the_power_that_suits_the_maps() -> None:
    sample = picture(8, 8, (1,))
    maps = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)

    def background(power: float | None, own: float) -> float:
        settings = SeedSettings(background_power=power, crf=None)
        return (seed_masks(sample, CAM((1,), maps, own), settings).dense == 0).mean()

    assert background(None, 1.0) == background(1.0, 8.0) > background(None, 8.0) == background(8.0, 1.0)


def test_the_demo_clip_finds_what_scenes_show(tiny_clip: FrozenCLIP) -> None:
    """A CLIP that was trained does so better than one with random weights, twice over."""
    dataset = ScenesDataset("train", count=12)

    def score(clip: FrozenCLIP) -> float:
        method, matrix = CosineSeeds(clip, dataset.class_set), ConfusionMatrix(dataset.class_set.num_classes)
        for index in range(len(dataset)):
            sample = dataset[index]
            dense = seed_masks(sample, method.cam(sample), SeedSettings(crf=None)).dense
            matrix.update(dense, dataset.mask(index))
        return matrix.mean_iou()

    assert score(load_clip("demo")) > 2 * score(tiny_clip)
