"""Laws of repeat-factor sampling: who is repeated and how often, exact counts, and the plain order where nobody is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from weakclip.datasets.base import ImageLabelDataset
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError, RunError
from weakclip.training.loop import fit
from weakclip.training.sampler import StepBatches
from weakclip.training.sampling import MOST_REPEATS, Repeats, class_repeats, repeats_of
from weakclip.training.settings import TrainSettings


class Tagged(ImageLabelDataset):
    """Images with given labels; whoever asks for pixels or pixel labels fails."""

    def __init__(self, labels: Sequence[tuple[int, ...]], classes: int = 3) -> None:
        names = [str(index) for index in range(len(labels))]
        super().__init__(ClassSet.from_foreground([f"class{k}" for k in range(1, classes)]), "train", names)
        self._labels = labels

    def image(self, index: int) -> np.ndarray:
        raise AssertionError("sampling asked for an image")

    def labels(self, index: int) -> tuple[int, ...]:
        return self._labels[index]

    def size(self, index: int) -> tuple[int, int]:
        return 8, 8

    def mask(self, index: int) -> np.ndarray | None:
        raise AssertionError("sampling asked for pixel labels")


class Items:
    """Training data made of labelled images; an item says which image it is of."""

    def __init__(self, dataset: ImageLabelDataset, verified: Iterable[int] = ()) -> None:
        self.dataset = dataset
        self.verified = [dataset.names[index] for index in verified]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, rng_seed = key
        noise = np.random.default_rng(rng_seed).normal(index, 1, 2).astype(np.float32)
        return {"x": torch.from_numpy(noise), "name": str(index)}


FACTORS = st.lists(st.floats(1, MOST_REPEATS, allow_nan=False), min_size=1, max_size=40).map(np.array)
UNEVEN = [(1,)] * 8 + [(1, 2)]


@settings(max_examples=200, deadline=None)
@given(FACTORS, st.integers(0, 2**32))
def test_every_image_comes_floor_or_ceil_times_and_every_epoch_is_as_long(factors: np.ndarray, seed: int) -> None:
    repeats = Repeats(factors)
    counts = np.bincount(repeats.order(np.random.default_rng(seed)), minlength=len(factors))
    assert np.all((counts == np.floor(factors)) | (counts == np.ceil(factors)))
    assert counts.sum() == repeats.items
    assert abs(repeats.items - factors.sum()) <= 0.5 + 1e-9


def test_in_the_mean_an_image_comes_as_often_as_its_factor_says() -> None:
    factors = np.array([1.0, 1.25, 1.25, 2.7, 3.0, 1.8])  # sum of the fractions: 3, a whole number
    repeats, epochs = Repeats(factors), 4000
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([repeats.order(rng) for _ in range(epochs)]), minlength=6)
    np.testing.assert_allclose(counts / epochs, factors, atol=0.03)


def test_factors_follow_the_square_root_between_their_bounds() -> None:
    labels = [(1,)] * 900 + [(2,)] * 90 + [(3,)] * 9 + [(4,)] + [()] * 1000
    mean = 250  # of the four classes that occur; an image without labels changes no ratio
    found = class_repeats(labels, 7, threshold=0.5)
    np.testing.assert_allclose(found[:4], [1, 1, np.sqrt(125 / 90), np.sqrt(125 / 9)])
    assert found[4] == MOST_REPEATS < np.sqrt(0.5 * mean / 1)
    assert found[5] == found[6] == 1


def test_a_class_in_one_of_ten_thousand_images_is_bounded() -> None:
    assert class_repeats([(1,)] * 9999 + [(2,)], 3, threshold=1.0).tolist() == [1, 1, MOST_REPEATS]


def test_a_rarer_class_is_never_repeated_less() -> None:
    labels = [(k,) for k in range(1, 21) for _ in range(k)]
    factors = class_repeats(labels, 21, threshold=1.0)[1:]
    assert list(factors) == sorted(factors, reverse=True)
    assert factors[0] > factors[5] > 1 == factors[-1]


@pytest.mark.parametrize("classes", [2, 5, 21, 81])
def test_even_classes_keep_the_plain_order(classes: int) -> None:
    even = Tagged([(1 + index % (classes - 1),) for index in range(3 * classes)], classes)
    assert repeats_of(Items(even), 0.75) is None
    assert repeats_of(Items(Tagged([(), ()])), 0.75) is None


def test_an_image_counts_by_its_rarest_class() -> None:
    repeats = repeats_of(Items(Tagged(UNEVEN)), 0.75)
    assert repeats is not None
    np.testing.assert_allclose(repeats.factors, [1] * 8 + [np.sqrt(0.75 * 5)])


def _batches(**changes: Any) -> list[list[tuple[int, int]]]:
    repeats = repeats_of(Items(Tagged(UNEVEN)), 0.75)
    asked = {"length": 9, "batch_size": 4, "start": 0, "steps": 15, "seed": 3, "repeats": repeats, **changes}
    return list(StepBatches(**asked))


@pytest.mark.parametrize("start", [1, 5, 14, 15])
def test_starting_later_gives_the_same_batches(start: int) -> None:
    assert _batches(start=start) == _batches()[start:]


def test_the_shares_of_two_processes_make_the_batch_of_one() -> None:
    shares = [_batches(rank=rank, processes=2) for rank in range(2)]
    assert [first + second for first, second in zip(*shares, strict=True)] == _batches()


def test_epochs_have_one_length_and_hold_every_image() -> None:
    indices = [index for batch in _batches() for index, _ in batch]
    epochs = [indices[first : first + 10] for first in range(0, 60, 10)]
    assert all(sorted(epoch) == [*range(9), 8] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_an_epoch_of_as_many_images_as_coco_has_holds_them_all() -> None:
    repeats = Repeats(np.random.default_rng(0).uniform(1, 4, 82_783))
    order = repeats.order(np.random.default_rng(1))
    assert len(order) == repeats.items
    assert len(np.unique(order)) == 82_783


def test_the_log_says_in_one_line_who_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    labels = [(1,)] * 1000 + [(k,) for k in range(2, 10)]
    with caplog.at_level(logging.INFO, "weakclip"):
        repeats_of(Items(Tagged(labels, 10)), 0.75)
    (line,) = caplog.messages
    assert line.startswith("images of rare classes come up to 9.2 times an epoch: class2 9.2, class3 9.2,")
    assert line.endswith("class6 9.2 and 3 more classes")


@pytest.mark.parametrize(("verified", "factor"), [(1, 4.0), (2, 3.5), (3, 2.0), (5, 1.0), (9, 1.0), (0, 1.0)])
def test_verified_images_come_more_often_up_to_half_of_an_epoch(verified: int, factor: float) -> None:
    data = Items(Tagged([(1,)] * 9), verified=range(verified))
    repeats = repeats_of(data, None, 4.0)
    assert (repeats.factors.tolist() if repeats else [1.0] * 9) == [factor] * verified + [1.0] * (9 - verified)


def test_the_larger_of_two_factors_counts() -> None:
    repeats = repeats_of(Items(Tagged(UNEVEN), verified=[0, 8]), 0.75, 1.5)
    assert repeats is not None
    np.testing.assert_allclose(repeats.factors, [1.5] + [1] * 7 + [np.sqrt(0.75 * 5)])
    with pytest.raises(ConfigError, match="verified_repeats: 1 or more expected; found 0"):
        TrainSettings(verified_repeats=0.5)


def test_data_without_labels_is_refused_only_where_repeats_are_asked_for() -> None:
    assert repeats_of([1, 2, 3], None) is None
    with pytest.raises(ConfigError, match=r"repeat_threshold: null expected for data without image-level labels"):
        repeats_of([1, 2, 3], 0.75)
    with pytest.raises(ConfigError, match="repeat_threshold: above 0"):
        TrainSettings(repeat_threshold=0.0)


def _loss(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    return {"loss": model(batch["x"]).square().mean()}


def _train(labels: Sequence[tuple[int, ...]], folder: Path, **changes: Any) -> Tensor:
    chosen = TrainSettings(
        steps=changes.pop("steps", 12), batch_size=2, learning_rate=0.1, warmup_steps=0, ema_decay=0.0,
        checkpoint_every=6, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    fit(model, Items(Tagged(labels)), _loss, chosen, folder)
    return model.weight.detach()


def test_training_on_even_classes_is_bit_for_bit_the_plain_one(tmp_path: Path) -> None:
    even = [(1,), (2,)] * 3
    plain, repeated = _train(even, tmp_path / "a"), _train(even, tmp_path / "b", repeat_threshold=0.75)
    assert torch.equal(plain, repeated)
    assert not torch.equal(_train(UNEVEN, tmp_path / "c"), _train(UNEVEN, tmp_path / "d", repeat_threshold=0.75))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    weights = [_train(UNEVEN, tmp_path / str(n), repeat_threshold=0.75, workers=n) for n in (0, 2)]
    assert torch.equal(*weights)


def test_a_training_is_not_continued_with_other_repeats(tmp_path: Path) -> None:
    _train(UNEVEN, tmp_path, repeat_threshold=0.75)
    with pytest.raises(RunError, match=r"made with repeat_threshold 0\.75, now None"):
        _train(UNEVEN, tmp_path)
    with pytest.raises(RunError, match=r"made with repeats 10 items an epoch \(\w{8}\), now 9 items"):
        _train([*UNEVEN[:6], (2,), (2,), (1, 2)], tmp_path, repeat_threshold=0.75)
    with pytest.raises(RunError, match=r"made with repeats 10 items an epoch \(\w{8}\), now None"):
        _train([(1,)] * 9, tmp_path, repeat_threshold=0.75)
