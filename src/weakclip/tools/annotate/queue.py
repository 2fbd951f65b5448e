"""The images whose masks a person should look at, the most doubtful first, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weakclip.errors import ConfigError
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.verdicts import mark_files, merged_marks
from weakclip.report.doubts import ImageFigures, reason
from weakclip.report.images import known_figures
from weakclip.store.untrusted_text import short

CHOICES = ("bad", "unmarked", "unverified")
"""Conditions on an image; besides there is `worst:N`."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """One image to look at.

    Args:
        index: its position in the training split.
        doubt: 0…1, 1 is the worst; None where the run has no figures of it.
        reason: what speaks most against its mask, in words; empty where nothing is known.
    """

    index: int
    doubt: float | None
    reason: str


def queue(context: RunContext, only: Sequence[str] = ()) -> list[Queued]:
    """The training images that pass all conditions, the most doubtful first; those without figures come last.

    Args:
        context: the run.
        only: "bad" (marked bad), "unmarked" (no mark), "unverified" (no verified mask), and "worst:N", the first N of
            those that pass the others.

    Raises:
        ConfigError: another word.
        WeakCLIPError: the run's data, marks or figures cannot be read.
    """
    count = _check(only)
    dataset, names = context.train, context.train.class_set.names
    marks = merged_marks(mark_files(context.config.data.marks, context.out))
    figures = known_figures(context.out)
    passes = {
        "bad": lambda name: name in marks and marks[name].mark == "bad",
        "unmarked": lambda name: name not in marks or marks[name].mark is None,
        "unverified": lambda name: name not in context.verified,
    }
    found = [
        _queued(index, figures.get(name), names)
        for index, name in enumerate(dataset.names)
        if all(passes[word](name) for word in only if word in passes)
    ]
    found.sort(key=lambda each: -1.0 if each.doubt is None else each.doubt, reverse=True)
    return found[:count]


def _check(only: Sequence[str]) -> int | None:
    """The number of `worst:N`, if it is there."""
    counts = [word.removeprefix("worst:") for word in only if word not in CHOICES]
    if len(counts) > 1 or not all(count.isascii() and count.isdigit() and int(count) for count in counts):
        wrong = next((word for word in only if word not in CHOICES), "")
        raise ConfigError(f"only: {', '.join(CHOICES)} and one worst:N with a number from 1 on; found {short(wrong)}")
    return int(counts[0]) if counts else None


def _queued(index: int, figures: ImageFigures | None, names: Sequence[str]) -> Queued:
    if figures is None:
        return Queued(index=index, doubt=None, reason="")
    return Queued(index=index, doubt=figures.doubt, reason=reason(figures, names))
