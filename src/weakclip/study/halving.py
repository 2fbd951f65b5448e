"""Successive halving: many candidates on little data, the better ones on more, the best on all of it.

References:
    Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

Score = Callable[[Sequence[int], int], Sequence[float]]
"""From candidates and a number of images to the score of each candidate on that many images, from the first on."""


@dataclass(frozen=True)
class Rung:
    """One round: some candidates on the same images.

    Args:
        images: how many images, the first ones of a fixed order.
        scores: score of each candidate; higher is better, NaN where there was nothing to score.
    """

    images: int
    scores: dict[int, float]

    def ranking(self) -> list[int]:
        """The candidates from best to worst; of equals the earlier one is first, and NaN is last.

        >>> Rung(8, {0: 0.4, 1: math.nan, 2: 0.6, 3: 0.4}).ranking()
        [2, 0, 3, 1]
        """
        order = {number: math.inf if math.isnan(score) else -score for number, score in self.scores.items()}
        return sorted(order, key=lambda number: (order[number], number))


def rung_sizes(candidates: int, images: int, eta: int) -> list[tuple[int, int]]:
    """How many candidates on how many images, rung by rung; the last rung is on all images.

    >>> rung_sizes(81, images=1000, eta=3)
    [(81, 37), (27, 111), (9, 333), (3, 1000)]
    """
    counts = [candidates]
    while counts[-1] > eta:
        counts.append(-(-counts[-1] // eta))
    last = len(counts) - 1
    return [(count, max(1, images // eta ** (last - rung))) for rung, count in enumerate(counts)]


def successive_halving(
    sizes: Sequence[tuple[int, int]], score: Score, *, done: Sequence[Rung] = (), always: Collection[int] = ()
) -> Iterator[Rung]:
    """Score all candidates, keep the better ones, score those on more, to the end.

    Args:
        sizes: candidates and images of every rung, as `rung_sizes` gives them.
        score: what a candidate is worth; the same arguments must give the same scores.
        done: rungs of an earlier call with the same arguments; the search goes on after them.
        always: candidates that stay to the end whatever their rank, beside the better ones.

    Yields:
        Every rung that is not `done`, as soon as it is.
    """
    previous = done[-1] if done else None
    for count, images in sizes[len(done) :]:
        better = range(count) if previous is None else previous.ranking()[:count]
        chosen = sorted({*better, *always})
        previous = Rung(images, dict(zip(chosen, score(chosen, images), strict=True)))
        yield previous
