"""The key of each stage: its settings, its data, and the keys of the stages before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weakclip.pipeline.context import RunContext
from weakclip.pipeline.stages import Stage, stages_of
from weakclip.store.keys import ResultKey, result_settings


def stage_keys(context: RunContext, wanted: Sequence[str]) -> dict[str, ResultKey]:
    """Keys of the wanted stages and of all that they build on. They follow from settings and data; nothing is run."""
    stages = stages_of(context.config)
    keys: dict[str, ResultKey] = {}
    for name in stages:
        if name in wanted or any(name in _all_upstream(other, stages) for other in wanted):
            keys[name] = _key(context, stages[name], keys)
    return keys


def _all_upstream(stage: str, stages: Mapping[str, Stage]) -> set[str]:
    direct = stages[stage].upstream
    return set(direct).union(*(_all_upstream(other, stages) for other in direct))


def _key(context: RunContext, stage: Stage, keys: Mapping[str, ResultKey]) -> ResultKey:
    inputs = {f"data ({name})": digest for name, digest in context.fingerprints(stage.data).items()}
    inputs |= {upstream: keys[upstream].digest for upstream in stage.upstream}
    return ResultKey(settings=result_settings(stage.view(context.config)), inputs=inputs, code=stage.code)
