"""Two numbers of the model under study: how many prompt vectors are learned, and where alpha and beta start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from weakclip.config import RunConfig
from weakclip.errors import ConfigError
from weakclip.modeling import ModelSettings
from weakclip.study.results import VariantStudy
from weakclip.study.variants import Variant, study_variants

PROMPT_LENGTHS = (1, 2, 4, 8, 16)
TEMPERATURES = (0.01, 0.1, 0.5, 1.0)


def study_prompts(
    config: RunConfig, out: Path | str, *, lengths: Sequence[int] = PROMPT_LENGTHS, seeds: int = 3
) -> VariantStudy:
    """Measures numbers `N` of learned prompt vectors; arguments and errors as `study_variants`."""
    variants = [_with_model(config, f"N_{length}", replace(config.model, prompt_length=length)) for length in lengths]
    return study_variants(config, out, "number of prompt vectors", variants, seeds=seeds)


def study_temperature(
    config: RunConfig, out: Path | str, *, values: Sequence[float] = TEMPERATURES, seeds: int = 3
) -> VariantStudy:
    """Measures first values of alpha and beta; arguments and errors as `study_variants`."""
    for value in values:
        if not math.isfinite(value):
            raise ConfigError(f"value: a finite number expected; found {value}")
    variants = [
        _with_model(config, repr(value).removesuffix(".0"), replace(config.model, temperature_init=value))
        for value in values
    ]
    return study_variants(config, out, "first value of alpha and beta", variants, seeds=seeds)


def _with_model(config: RunConfig, name: str, model: ModelSettings) -> Variant:
    return Variant(name=name, config=replace(config, model=model))
