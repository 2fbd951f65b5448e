from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from weakclip.datasets.base import ImageLabelDataset, Sample
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import read_mask, write_mask
from weakclip.errors import BrokenFileError, ConfigError, DataError
from weakclip.inference import mask_writing, pseudo_masks
from weakclip.inference.label_probabilities import label_probabilities, with_seeds
from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.inference.pseudo_masks import PseudoMaskSettings, RefinedMask, pseudo_mask, refine_mask
from weakclip.inference.windows import InferenceSettings

ONE_PASS = InferenceSettings(scales=(1.0,), flip=False, crop=24, stride=16, fit_crop=False)
PLAIN = PseudoMaskSettings(inference=ONE_PASS, crf=None)


class Stripes(ImageLabelDataset):
    """Left half red (class 1), right half blue (class 2); only class 1 is among the labels."""

    def __init__(self, count: int = 5, broken: int | None = None) -> None:
        names = [f"deep/er/{index}" for index in range(count)]
        super().__init__(ClassSet.from_foreground(["red", "blue"]), "train", names)
        self.broken = broken
        self.asked: list[int] = []

    def image(self, index: int) -> np.ndarray:
        self.asked.append(index)
        if index == self.broken:
            raise DataError(f"{self.names[index]}.jpg: broken")
        image = np.zeros((20, 30 + index, 3), dtype=np.uint8)
        image[:, :15, 0] = 200
        image[:, 15:, 2] = 200
        return image

    def labels(self, index: int) -> tuple[int, ...]:
        return (1,)

    def size(self, index: int) -> tuple[int, int]:
        return 20, 30 + index


def colors(images: Tensor) -> Tensor:
    """Logits that name the colour: red 1, blue 2, else background."""
    red, blue = images[:, 0] / 20.0, images[:, 2] / 20.0
    return torch.stack([torch.full_like(red, 5.0), red, blue], dim=1)


def _probs(*rows: float) -> np.ndarray:
    return np.array(rows, dtype=np.float32)[:, None, None] * np.ones((1, 4, 5), dtype=np.float32)


SAMPLE = Sample("a", np.zeros((4, 5, 3), dtype=np.uint8), (1, 3))


def test_absent_classes_are_dropped_and_the_rest_normalised():
    mask, confidence = pseudo_mask(_probs(0.1, 0.2, 0.6, 0.1), SAMPLE, PLAIN)
    assert (mask == 1).all()
    np.testing.assert_allclose(confidence, 0.5, rtol=1e-5)


def test_the_foreground_keeps_what_its_absent_classes_lose():
    settings = dataclasses.replace(PLAIN, keep_foreground=True)
    probs = _probs(0.3, 0.1, 0.55, 0.05)  # class 2 is absent: something stands here, and it is 1 or 3
    mask, confidence = pseudo_mask(probs, SAMPLE, settings)
    assert (mask == 1).all()
    np.testing.assert_allclose(confidence, 0.1 + 0.55 * 0.1 / 0.15, rtol=1e-5)
    assert (pseudo_mask(probs, SAMPLE, PLAIN)[0] == 0).all()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("labels", [(), (1,), (1, 3), (1, 2, 3)])
def test_label_probabilities_sum_to_one_and_permute_with_the_classes(keep: bool, labels: tuple[int, ...]):
    probs = np.random.default_rng(0).dirichlet(np.ones(4), size=20).T.reshape(4, 4, 5).astype(np.float32)
    kept = np.array([0, *labels])
    rows = label_probabilities(probs, kept, keep_foreground=keep)
    np.testing.assert_allclose(rows.sum(axis=0), 1, rtol=1e-5)
    order = np.array([0, *reversed(labels)])
    np.testing.assert_allclose(
        label_probabilities(probs, order, keep_foreground=keep)[1:], rows[1:][::-1], rtol=1e-5, atol=1e-7
    )
    if keep and labels:
        np.testing.assert_allclose(rows[0], probs[0], rtol=1e-5)
    if len(labels) == 3:
        np.testing.assert_allclose(rows, probs, rtol=1e-5)


def test_balance_gives_a_class_that_the_network_hardly_sees_the_place_where_it_sees_it_most():
    probs = np.full((4, 4, 5), 0.001, np.float32)
    probs[1], probs[3], probs[3, :, 4] = 0.7, 0.02, 0.2  # class 3 is likeliest in the last column, and nowhere first
    probs[0] = 1 - probs[1:].sum(axis=0)
    settings = dataclasses.replace(PLAIN, balance=1.0)
    assert 3 not in pseudo_mask(probs, SAMPLE, PLAIN)[0]
    mask, _ = pseudo_mask(probs, SAMPLE, settings)
    assert (mask[:, 4] == 3).all() and (mask[:, :4] == 1).all()
    anyone = dataclasses.replace(settings, restrict_to_labels=False)  # who is there is not known then
    assert np.array_equal(pseudo_mask(probs, SAMPLE, anyone)[0], probs.argmax(axis=0))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_seeds_get_their_share_of_the_probabilities(share: float):
    probs = np.random.default_rng(0).dirichlet(np.ones(4), size=20).T.reshape(4, 4, 5).astype(np.float32)
    seeds = np.random.default_rng(1).choice(np.array([0, 1, 3, 255], dtype=np.uint8), size=(4, 5))
    mixed = with_seeds(probs, seeds, range(4), share)
    for (row, column), seed in np.ndenumerate(seeds.astype(int)):
        expected = (1 - share) * probs[:, row, column]
        expected[seed : seed + 1] += share  # nothing for 255, which is no class
        np.testing.assert_allclose(mixed[:, row, column], expected, rtol=1e-6)
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(with_seeds(probs[[0, 3]], seeds, [0, 3], share), mixed[[0, 3]])


@pytest.mark.parametrize("restrict", [True, False])
def test_masks_ask_for_the_seeds_that_have_a_share(tmp_path: Path, restrict: bool, monkeypatch: pytest.MonkeyPatch):
    dataset, settings = Stripes(), dataclasses.replace(PLAIN, restrict_to_labels=restrict, seed_share=0.9)
    with pytest.raises(ConfigError, match=r"pseudo_masks\.seed_share: 0\.9 found, but no seeds; give their folder"):
        write_pseudo_masks(colors, dataset, tmp_path, settings)
    for index, name in enumerate(dataset.names):
        seed = np.zeros(dataset.size(index), dtype=np.uint8)
        seed[:5] = 1
        write_mask(tmp_path / f"dense/{name}.png", seed, dataset.class_set.palette)
    readers, here = set[int](), threading.get_ident()
    monkeypatch.setattr(mask_writing, "read_mask", lambda path: readers.add(threading.get_ident()) or read_mask(path))
    write_pseudo_masks(colors, dataset, tmp_path, settings, seeds=str(tmp_path / "dense"))
    assert readers and here not in readers, "the network waits for no file"
    for name in dataset.names:
        assert (tmp_path / f"masks/{name}.png").read_bytes() == (tmp_path / f"dense/{name}.png").read_bytes()
    write_mask(tmp_path / f"dense/{name}.png", seed[:, 1:], dataset.class_set.palette)
    with pytest.raises(BrokenFileError, match=r"4\.png: \(20, 33\) found, the image's \(20, 34\) expected"):
        write_pseudo_masks(colors, dataset, tmp_path / "again", settings, seeds=tmp_path / "dense")


@pytest.mark.parametrize("balance", [0.5, 1.0, 2.0])
def test_balance_leaves_the_background_as_it_is_and_one_class_alone(balance: float):
    probs = np.random.default_rng(1).dirichlet(np.ones(4), size=20).T.reshape(4, 4, 5).astype(np.float32)
    for labels in ((2,), (1, 3), (1, 2, 3)):
        kept = np.array([0, *labels])
        plain = label_probabilities(probs, kept, keep_foreground=True)
        rows = label_probabilities(probs, kept, keep_foreground=True, balance=balance)
        np.testing.assert_allclose(rows[0], plain[0], rtol=1e-5)
        np.testing.assert_allclose(rows.sum(axis=0), 1, rtol=1e-5)
        assert np.array_equal(rows, plain) == (len(labels) == 1)
    weights = plain[1:] / plain[1:].mean(axis=(1, 2), keepdims=True) ** balance
    np.testing.assert_allclose(rows[1:], (1 - rows[0]) * weights / weights.sum(axis=0), rtol=1e-4)


def test_a_temperature_softens_what_the_dense_crf_is_told_and_changes_no_winner():
    hot = dataclasses.replace(PLAIN, temperature=4.0)
    probs = _probs(0.1, 0.6, 0.2, 0.1)
    mask, confidence = pseudo_mask(probs, SAMPLE, hot)
    assert (mask == pseudo_mask(probs, SAMPLE, PLAIN)[0]).all()
    expected = np.array([0.1, 0.6, 0.1]) ** 0.25
    np.testing.assert_allclose(confidence, expected[1] / expected.sum(), rtol=1e-5)


def test_without_restriction_any_class_may_win():
    settings = dataclasses.replace(PLAIN, restrict_to_labels=False)
    mask, confidence = pseudo_mask(_probs(0.1, 0.2, 0.6, 0.1), SAMPLE, settings)
    assert (mask == 2).all()
    np.testing.assert_allclose(confidence, 0.6, rtol=1e-5)


def test_the_crf_is_told_only_the_classes_that_win_somewhere(monkeypatch: pytest.MonkeyPatch):
    """As the retraining repository does it: logits of the classes in the argmax, softmax among them, dense CRF."""
    logits = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    logits[[1, 4]] -= 20
    probs = np.exp(logits) / np.exp(logits).sum(axis=0)
    told: list[np.ndarray] = []

    def note(image: np.ndarray, rows: np.ndarray, how: object, *, device: str) -> np.ndarray:
        told.append(rows)
        return rows

    monkeypatch.setattr(pseudo_masks, "refine", note)
    sample = Sample("n", np.zeros((6, 7, 3), np.uint8), ())
    settings = PseudoMaskSettings(restrict_to_labels=False, winners_only=True)
    refined = refine_mask(probs, sample, settings)
    winners = [0, 2, 3]
    expected = np.exp(logits[winners]) / np.exp(logits[winners]).sum(axis=0)
    np.testing.assert_allclose(told[0], expected, rtol=1e-4)
    assert (refined.mask == probs.argmax(axis=0)).all()
    refine_mask(probs, sample, dataclasses.replace(settings, winners_only=False))
    assert len(told[1]) == 5


def test_an_image_without_labels_is_background():
    for crf in (None, PseudoMaskSettings().crf):
        settings = dataclasses.replace(PLAIN, crf=crf)
        mask, confidence = pseudo_mask(_probs(0.0, 1.0), dataclasses.replace(SAMPLE, labels=()), settings)
        assert not mask.any()
        assert (confidence == 1).all()


def test_the_crf_follows_the_edges_of_the_image():
    image = np.zeros((24, 24, 3), dtype=np.uint8)
    image[:, 12:] = 255
    truth = (np.arange(24) >= 12).astype(np.float32) * np.ones((24, 1), dtype=np.float32)
    noisy = np.where(np.random.default_rng(0).random((24, 24)) < 0.2, 1 - truth, truth) * 0.4 + 0.3
    probs = np.stack([1 - noisy, noisy]).astype(np.float32)
    settings = PseudoMaskSettings(inference=ONE_PASS)
    mask, _ = pseudo_mask(probs, Sample("a", image, (1,)), settings)
    rough, _ = pseudo_mask(probs, Sample("a", image, (1,)), PLAIN)
    assert (mask == truth).mean() > 0.98 > (rough == truth).mean()


def test_masks_are_palette_files_under_nested_names(tmp_path: Path):
    dataset = Stripes()
    settings = dataclasses.replace(PLAIN, confidence=True)
    assert write_pseudo_masks(colors, dataset, tmp_path, settings) == 5
    for index, name in enumerate(dataset.names):
        mask = read_mask(tmp_path / "masks" / f"{name}.png")
        assert mask.shape == dataset.size(index)
        assert (mask[:, :15] == 1).all()
        assert not mask[:, 15:].any()  # blue is not among the labels
        confidence = np.array(Image.open(tmp_path / "confidence" / f"{name}.png"))
        assert confidence.dtype == np.uint8
        assert confidence.shape == mask.shape
        assert confidence.min() > 127
    with Image.open(tmp_path / "masks" / f"{dataset.names[0]}.png") as image:
        assert image.mode == "P"
        assert np.array(image.getpalette()).reshape(-1, 3)[1].tolist() == list(dataset.class_set.colors[1])


def test_what_is_there_is_passed_over_and_the_rest_is_the_same(tmp_path: Path):
    write_pseudo_masks(colors, Stripes(), tmp_path / "whole", PLAIN)
    with pytest.raises(DataError, match=r"deep/er/3\.jpg: broken"):
        write_pseudo_masks(colors, Stripes(broken=3), tmp_path / "parts", PLAIN)
    dataset = Stripes()
    assert write_pseudo_masks(colors, dataset, tmp_path / "parts", PLAIN) == 2
    assert sorted(dataset.asked) == [3, 4]
    for name in dataset.names:
        whole, parts = (tmp_path / part / "masks" / f"{name}.png" for part in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def test_the_next_image_is_read_while_the_network_works(tmp_path: Path):
    """The network waits for it: were it read afterwards, this would end in the assertion."""
    read = threading.Event()

    class Watched(Stripes):
        def image(self, index: int) -> np.ndarray:
            if index == 1:
                read.set()
            return super().image(index)

    def network(images: Tensor) -> Tensor:
        assert read.wait(timeout=60)
        return colors(images)

    assert write_pseudo_masks(network, Watched(), tmp_path, PLAIN) == 5


def test_what_the_crf_changed_and_what_the_network_thought_is_told():
    probs = _probs(0.4, 0.6, 0.0, 0.0).copy()
    probs[:, 1, 2] = (0.6, 0.4, 0.0, 0.0)  # one pixel that the CRF gives to its neighbours
    refined = refine_mask(probs, SAMPLE, PseudoMaskSettings(inference=ONE_PASS))
    assert (refined.mask == 1).all()
    assert np.argwhere(refined.network_mask != refined.mask).tolist() == [[1, 2]]
    assert refined.network_confidence[1, 2] == pytest.approx(0.4, abs=1e-5)
    assert refined.network_confidence[0, 0] == pytest.approx(0.6, abs=1e-5)
    assert refined.confidence.min() > 0.6
    plain = refine_mask(probs, SAMPLE, PLAIN)
    assert (plain.mask == plain.network_mask).all() and (plain.confidence == plain.network_confidence).all()


def test_every_mask_is_observed_before_it_is_there(tmp_path: Path):
    seen: dict[str, np.ndarray] = {}

    def observe(sample: Sample, refined: RefinedMask) -> None:
        assert not (tmp_path / "masks" / f"{sample.name}.png").exists()
        seen[sample.name] = refined.mask

    dataset = Stripes()
    write_pseudo_masks(colors, dataset, tmp_path, PLAIN, observe=observe)
    assert sorted(seen) == sorted(dataset.names)
    for name, mask in seen.items():
        assert (read_mask(tmp_path / "masks" / f"{name}.png") == mask).all()
    write_pseudo_masks(colors, dataset, tmp_path, PLAIN, observe=observe)  # nothing is made, nothing is observed
