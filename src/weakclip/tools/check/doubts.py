"""Warnings about a sound data set that will give poor masks or no score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weakclip.config import DataSettings
from weakclip.datasets.classes import ClassSet
from weakclip.tools.check.dataset import SplitCheck

FEW = 10
"""A class with fewer training images is named."""

NOTHING = ("none", "nan", "na", "n/a", "null", "nil", "nothing", "empty", "unknown", "unlabeled", "?", "-")
"""Words with which people and programs say that there is no label."""


def doubts(checks: Sequence[SplitCheck], settings: DataSettings) -> Iterator[str]:
    """Sentences on the data, each with what to do.

    Args:
        checks: the splits.
        settings: which of them is for training, and whether there is one for validation.
    """
    by_name = {check.split: check for check in checks}
    train = by_name.get(settings.train_split)
    if train is not None:
        yield from _about_training(train)
    for check in checks:
        if train is not None and check is not train:
            yield from _never_trained(check, train)
    if settings.val_split is None and train is not None and len(checks) == 1:
        yield (
            "no validation split: the network is not scored; `weakclip init DIR --val 0.1` sets images aside for one "
            "(a score needs their masks, too)"
        )


def _about_training(train: SplitCheck) -> Iterator[str]:
    counts = train.images_of_classes()
    few = [f"{name} ({counts[name][0]})" for name in train.class_set.names[1:] if counts[name][0] < FEW]
    if few:
        yield f"{train.split}: fewer than {FEW} images of {', '.join(few)}; add some, or leave the class out"
    yield from odd_names(train.class_set)


def odd_names(class_set: ClassSet) -> Iterator[str]:
    """Sentences on classes whose names are no words for things: CLIP is asked for these words."""
    numbers = [name for name in class_set.names[1:] if name.replace(".", "").isdecimal()]
    if numbers:
        named = ", ".join(numbers)
        yield f"classes called by numbers: {named}; CLIP is asked for words: write `prompts` in the class file"
    nothing = [name for name in class_set.names[1:] if name.casefold() in NOTHING]
    if nothing:
        named = ", ".join(map(repr, nothing))
        yield f"classes called {named}: where that means no label, leave the cell empty, or move the images out"


def _never_trained(check: SplitCheck, train: SplitCheck) -> Iterator[str]:
    known, counts = train.images_of_classes(), check.images_of_classes()
    names = [name for name in check.class_set.names[1:] if max(counts[name]) and not known[name][0]]
    if names:
        advice = "the network cannot find them; tag images of them in the training, or take them out"
        yield f"{check.split}: classes that no image of {train.split} is labelled with: {', '.join(names)}; {advice}"
