"""A validation split by class: the same share of each class, the same images each time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from weakclip.errors import ConfigError


def choose_val(labels: Mapping[str, tuple[int, ...]], share: float) -> list[str]:
    """The images of a validation split.

    The rarest class is served first, and an image counts for all of its classes, as in the iterative stratification of
    Sechidis et al. (ECML PKDD 2011). Each class keeps at least half of its images for the training. Which images are
    taken depends on their names, and on nothing random: with other images beside them, the choice changes little.

    Args:
        labels: image name → indices of the classes that it shows.
        share: of each class's images, above 0 and at most 0.5, rounded to whole images.

    Returns:
        Names, sorted.

    Raises:
        ConfigError: another share, or too few images for a validation split.

    >>> names = {f"{number}": (1 + (number > 9),) for number in range(20)}
    >>> sorted(names[name] for name in choose_val(names, 0.1))
    [(1,), (2,)]
    """
    if not 0 < share <= 0.5:
        raise ConfigError(f"--val: a share above 0 and at most 0.5 expected, such as 0.1; found {share:g}")
    ranked = sorted(labels, key=lambda name: hashlib.sha256(name.encode()).digest())
    counts = Counter(label for name in labels for label in labels[name])
    taken: dict[str, None] = {}
    have: Counter[int] = Counter()
    for label, count in sorted(counts.items(), key=lambda pair: (pair[1], pair[0])):
        wanted = min(int(count * share + 0.5), count // 2)
        for name in ranked:
            if have[label] >= wanted:
                break
            shown = labels[name]
            if label in shown and name not in taken and all(2 * (have[each] + 1) <= counts[each] for each in shown):
                taken[name] = None
                have.update(shown)
    if not taken:
        raise ConfigError(
            f"--val {share:g}: no class has images enough; the most that one has is {max(counts.values())}: give a "
            "larger share, or leave --val out"
        )
    return sorted(taken)
