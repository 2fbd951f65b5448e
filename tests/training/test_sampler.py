from __future__ import annotations

import pytest

from weakclip.training.sampler import StepBatches, item_seed, step_seed


def _batches(**changes: int) -> list[list[tuple[int, int]]]:
    return list(StepBatches(**{"length": 7, "batch_size": 4, "start": 0, "steps": 12, "seed": 3, **changes}))


def test_every_epoch_is_a_permutation_and_no_two_are_alike():
    indices = [index for batch in _batches(steps=7) for index, _ in batch]
    epochs = [tuple(indices[first : first + 7]) for first in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 1


@pytest.mark.parametrize("start", [0, 1, 5, 11, 12])
def test_starting_later_gives_the_same_batches(start: int):
    assert _batches(start=start) == _batches()[start:]


def test_the_shares_of_two_processes_make_the_batch_of_one():
    shares = [_batches(rank=rank, processes=2) for rank in range(2)]
    assert [first + second for first, second in zip(*shares, strict=True)] == _batches()


def test_a_data_set_smaller_than_a_batch_is_gone_through_again():
    (batch,) = _batches(length=2, batch_size=5, steps=1)
    assert sorted(index for index, _ in batch[:4]) == [0, 0, 1, 1]


def test_seeds_differ_between_items_steps_purposes_and_runs():
    seeds = [item_seed(seed, position) for seed in range(3) for position in range(50)]
    seeds += [step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(2)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
