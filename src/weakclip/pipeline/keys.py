"""What the result of each stage depends on, as a key: settings, data, and the keys of the stages before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weakclip.pipeline.context import RunContext
from weakclip.pipeline.manifest import StageKey
from weakclip.pipeline.stages import STAGES
from weakclip.report import STAGE_FOLDERS


def stage_keys(context: RunContext, wanted: Sequence[str]) -> dict[str, StageKey]:
    """Keys of the wanted stages and of all that they build on. They follow from settings and data; nothing is run."""
    keys: dict[str, StageKey] = {}
    for stage in STAGE_FOLDERS:
        if stage in wanted or any(stage in _all_upstream(other) for other in wanted):
            keys[stage] = _key(context, stage, keys)
    return keys


def _all_upstream(stage: str) -> set[str]:
    direct = STAGES[stage].upstream
    return set(direct).union(*(_all_upstream(other) for other in direct))


def _key(context: RunContext, stage: str, keys: Mapping[str, StageKey]) -> StageKey:
    spec = STAGES[stage]
    inputs = {f"data ({name})": digest for name, digest in context.fingerprints(spec.data).items()}
    inputs |= {upstream: keys[upstream].digest for upstream in spec.upstream}
    return StageKey(settings=context.settings(spec.sections), inputs=inputs, code=spec.code)
