"""The batches of each step: data order and all random numbers are functions of the seed and the step.

A run that is killed and resumed, or fed by another number of data workers, therefore meets the same batches, the same
augmentation and the same dropout masks as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from weakclip.training.sampling import Repeats

_ORDER, _ITEM, _STEP = range(3)  # what a derived seed is for: equal coordinates with another purpose give another seed


def _derive(*coordinates: int) -> int:
    return int(np.random.SeedSequence(coordinates).generate_state(1, np.uint64)[0] >> np.uint64(1))


def item_seed(seed: int, position: int) -> int:
    """Seed of the augmentation of one item, 0 … 2^63 - 1.

    Args:
        seed: seed of the run.
        position: number of items that the run has seen before this one.
    """
    return _derive(seed, _ITEM, position)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seed of torch's generator (dropout) during one step of one process, 0 … 2^63 - 1."""
    return _derive(seed, _STEP, step, rank)


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of `(index, rng_seed)` from step `start` to step `steps`: permutations of the data, one after another.

    With `repeats`, every epoch is a permutation of the data in which images of rare classes are more than once.

    An epoch may end inside a batch; a data set smaller than a batch is gone through several times in one.

    Args:
        length: number of items in the data set.
        batch_size: items of one step over all processes.
        start: the first step.
        steps: the step before which to stop.
        seed: seed of the run.
        rank: this process.
        processes: number of processes; `batch_size` must be a multiple of it.
        repeats: how often each item comes in an epoch; None for once.

    >>> [index for batch in StepBatches(length=3, batch_size=2, start=0, steps=3, seed=0) for index, _ in batch]
    [2, 0, 1, 0, 2, 1]
    """

    def __init__(
        self,
        *,
        length: int,
        batch_size: int,
        start: int,
        steps: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        repeats: Repeats | None = None,
    ) -> None:
        self.repeats = repeats
        self.length, self.batch_size, self.start, self.steps, self.seed = length, batch_size, start, steps, seed
        self.share = batch_size // processes
        self.offset = rank * self.share

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        items = self.repeats.items if self.repeats else self.length
        for step in range(self.start, self.steps):
            batch = []
            first = step * self.batch_size + self.offset
            for position in range(first, first + self.share):
                if position // items != epoch:
                    epoch = position // items
                    rng = np.random.default_rng(_derive(self.seed, _ORDER, epoch))
                    order = self.repeats.order(rng) if self.repeats else rng.permutation(self.length)
                batch.append((int(order[position % items]), item_seed(self.seed, position)))
            yield batch
