"""How the stages of a run stand: their keys, and what its folder has of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakclip.errors import RunError, first_line
from weakclip.inference.windows import is_out_of_memory
from weakclip.pipeline.context import TRAIN_DATA, RunContext
from weakclip.pipeline.items import item_digests, take_over
from weakclip.pipeline.stages import Stage, stages_of
from weakclip.store.events import stage_events
from weakclip.store.files import write_json
from weakclip.store.keys import ResultKey, output_settings, result_settings
from weakclip.store.layout import ITEMS, LOG, SHARDS
from weakclip.store.manifest import Manifest, State
from weakclip.store.outputs import send_now, sending
from weakclip.store.share import current

logger = logging.getLogger("weakclip")

_BY_ITEM = frozenset(f"data ({source})" for source in (*TRAIN_DATA, "labels from the review", "verified masks"))
"""Inputs of a stage's key that `item_digests` tells image by image."""


@dataclass(frozen=True)
class Plan:
    """How the stages of a run stand.

    Args:
        context: the run.
        manifest: what its folder has.
        stages: the stages of its settings.
        keys: of the wanted stages and of all that they build on.
    """

    context: RunContext
    manifest: Manifest
    stages: Mapping[str, Stage]
    keys: Mapping[str, ResultKey]

    @classmethod
    def of(cls, context: RunContext, wanted: Sequence[str]) -> Plan:
        """Reads how the wanted stages stand; writes nothing."""
        return cls(context, Manifest.open(context.out), stages_of(context.config), stage_keys(context, wanted))

    def state(self, stage: str) -> State:
        """How a stage stands; a result without files that the settings ask for is unfinished."""
        return self.manifest.state(stage, self.keys[stage], self._outputs(stage))

    def start(self, stage: str) -> Path:
        """Note that a stage begins, or continues; its folder."""
        return self.manifest.start(stage, self.keys[stage])

    def take_over(self, stage: str) -> None:
        """Of a stage whose images do not depend on each other, take what did not change from its previous result."""
        parts = self.stages[stage].item_parts
        previous = self.manifest.previous_but_for(stage, self.keys[stage], _BY_ITEM) if parts else None
        if previous is not None:
            digests = item_digests(self.context)
            kept = take_over(previous, self.context.folder(stage), digests, parts)
            logger.info("%s: %d of %d images are as they were; the others are made again", stage, kept, len(digests))

    def run(self, stage: str) -> None:
        """Make a stage's result, or this process's share of it.

        Raises:
            RunError: there is too little memory for it.
        """
        spec, folder = self.stages[stage], self.context.folder(stage)
        try:
            with stage_events(self.context.out / LOG, stage), sending():
                spec.run(self.context, spec.view(self.context.config), folder)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"{stage}: out of memory ({first_line(error)}); lower the batch_size, the crop or the image sizes "
                "of this stage's settings, or free memory, and give the same command again"
            ) from None
        if spec.item_parts:
            current().once(lambda: write_json(folder / ITEMS, item_digests(self.context)))

    def finish(self, stage: str, seconds: float) -> None:
        """Note that a stage's result is complete."""
        shutil.rmtree(self.context.folder(stage) / SHARDS, ignore_errors=True)
        self.manifest.finish(stage, seconds, self._outputs(stage))
        send_now()

    def _outputs(self, stage: str) -> dict[str, object]:
        spec = self.stages[stage]
        asked = output_settings(spec.view(self.context.config))
        return {name: asked[name] for name in spec.outputs}


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
