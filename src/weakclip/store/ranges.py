"""Ranges of the numbers in settings, checked and told in one way."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import Any

from weakclip.errors import ConfigError

SCALES: Mapping[str, float] = {"least": 0.1, "most": 100}
"""Bounds of factors on an image's sides: a slip of the finger asks for no image of a terabyte, or of no pixel."""


def check_range(
    settings: Any,
    *names: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise a `ConfigError` where a setting, or one of several in it, lies outside of a range; or where it has none.

    A setting that is None passes.

    Args:
        settings: a dataclass.
        names: of its fields.
        least: the smallest number that may be.
        above: a number that all must be above.
        most: the largest number that may be.
        below: a number that all must be below.

    >>> from weakclip.training.settings import RateFactor
    >>> check_range(RateFactor(part="head", factor=2.0), "factor", least=0, most=1)
    Traceback (most recent call last):
    weakclip.errors.ConfigError: factor: 0 to 1 expected; found 2.0
    """
    bounds = {
        "{} or more": (operator.ge, least),
        "above {}": (operator.gt, above),
        "at most {}": (operator.le, most),
        "below {}": (operator.lt, below),
    }
    asked = {words: (holds, bound) for words, (holds, bound) in bounds.items() if bound is not None}
    kinds = {field.name: str(field.type) for field in dataclasses.fields(settings)}
    for name in names:
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple | list) else () if value is None else (value,)
        if value is not None and not numbers:
            raise ConfigError(f"{name}: one or more expected; found none")
        for number in numbers:
            if not math.isfinite(number):
                raise ConfigError(f"{name}: a finite number expected; found {number}")
            if not all(holds(number, bound) for holds, bound in asked.values()):
                expected = " and ".join(words.format(bound) for words, (_, bound) in asked.items())
                if least is not None and most is not None:
                    expected = f"{least} to {most}"
                null = ", or null," if "None" in kinds[name] else ""
                raise ConfigError(f"{name}: {expected}{null} expected; found {number}")
