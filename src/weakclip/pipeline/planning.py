"""Before anything runs: what is there already, what will be done and why, and what must not be done unasked."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakclip.config import dump_config
from weakclip.errors import ConfigError, DataError, RunError, first_line
from weakclip.inference.mask_writing import images_without
from weakclip.inference.windows import is_out_of_memory
from weakclip.pipeline.bad_files import Screening, drop_screening, find_bad_files, save_screening
from weakclip.pipeline.context import TRAIN_DATA, RunContext
from weakclip.pipeline.items import item_digests, take_over
from weakclip.pipeline.stages import Stage, stages_of
from weakclip.segmenters.segmenter import check_available
from weakclip.segmenters.train import WEAKCLIP
from weakclip.store.events import stage_events
from weakclip.store.files import atomic_write, write_json, write_text, writing
from weakclip.store.keys import ResultKey, output_settings, result_settings
from weakclip.store.layout import CONFIG, ERRORS, ITEMS, LOG, SHARDS, UNTAGGED
from weakclip.store.manifest import Manifest, State
from weakclip.store.outputs import send_now, sending
from weakclip.store.share import current
from weakclip.training.settings import TrainSettings

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
        return self.manifest.start(stage, self.keys[stage], self._outputs(stage))

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


def make_plan(context: RunContext, wanted: Sequence[str], *, redo: bool) -> Plan:
    """Check what is there, say what will be done, and write `config.yaml`.

    Args:
        context: the run.
        wanted: the stages that are asked for.
        redo: whether finished results may make way for new ones.

    Raises:
        RunError: a stage that a wanted one builds on is missing; or a finished result would have to make way.
        ConfigError: masks or scores by a step that the training would not keep.
        DataError: data that a wanted stage cannot work on; proposals or saliency maps of none of the images.
        WeightsError: the network that is to be retrained is not there.
    """
    screening = _screened(context)
    plan = Plan.of(context, wanted)
    if "retrain_truth" in wanted and not context.train.has_masks:
        raise DataError(f"split {context.train.split!r} has no true masks; the upper bound of --full needs them")
    for stage in wanted:
        for upstream in plan.stages[stage].upstream:
            if upstream not in wanted and plan.state(upstream) != "done":
                _complain(plan, stage, upstream)
    config = context.config
    _tell_images_without(plan, wanted)
    if "train" in wanted and plan.state("train") != "done":
        _check_step("pseudo_masks.step", config.pseudo_masks.step, "train", config.train)
    if "retrain" in wanted:
        _check_bad_masks(context, plan.keys["pseudo_masks"])
        if plan.state("retrain") != "done":
            _check_step("evaluate.step", config.evaluate.step, "retrain.train", config.retrain.train)
            if config.retrain.model not in (None, WEAKCLIP):
                check_available(config.retrain.model)
    elif "evaluate" in wanted and config.retrain.model is None and context.bad:
        bad = len(context.bad)
        logger.info("%d masks are marked bad, and no stage trains on masks: retrain.model is null", bad)
    if not redo:
        _refuse_to_replace(plan, wanted)
    plan.manifest.save()
    save_screening(context.out, screening) if screening else drop_screening(context.out)
    _list_untagged(context)
    for stage in wanted:
        _announce(plan, stage)
    write_text(context.out / CONFIG, dump_config(context.config))
    return plan


def _screened(context: RunContext) -> Screening | None:
    """Unusable files, where they are to be left out: `context` leaves them out from here on."""
    if context.config.data.on_error == "stop":
        return None
    screening = find_bad_files(context.config, context.out)
    context.broken = screening.broken
    if screening.broken:
        logger.warning(
            "%d of %d images are left out, %d more only of the scores; %s lists them",
            screening.left_out,
            screening.images,
            len(screening.broken) - screening.left_out,
            context.out / ERRORS,
        )
    return screening


def _list_untagged(context: RunContext) -> None:
    """Write `untagged.txt`, or remove it where every image has labels."""
    path, names = context.out / UNTAGGED, context.train.untagged
    if not names:
        with writing(path):
            path.unlink(missing_ok=True)
        return
    logger.warning("%d images have no labels and are left out; %s lists them", len(names), path)
    with atomic_write(path, "w") as file:
        file.writelines(f"{name}\n" for name in names)


def _refuse_to_replace(plan: Plan, wanted: Sequence[str]) -> None:
    """Refuse where finished results would have to make way for new ones: nobody has asked for that.

    Raises:
        RunError: there is such a result.
    """
    replaced = [stage for stage in wanted if plan.manifest.replaces_a_result(stage, plan.keys[stage])]
    if not replaced:
        return
    reasons, said = [], {f"{name} is new" for name in replaced}
    for stage in replaced:
        own = [reason for reason in plan.manifest.differences(stage, plan.keys[stage]) if reason not in said]
        said.update(own)
        reasons.append(f"{stage} ({'; '.join(own)})" if own else stage)
    raise RunError(
        f"{plan.manifest.folder}: finished, and would be made anew: {', '.join(reasons)}; add --redo to do so (the old "
        "result of a stage stays until its new one is done), give another --out, or take the change back"
    )


def _tell_images_without(plan: Plan, wanted: Sequence[str]) -> None:
    """Look for proposals and saliency maps hours before the masks; where those come at once, they look themselves."""
    if "pseudo_masks" in wanted and plan.state("train") != "done":
        for line in images_without(plan.context.config.pseudo_masks, plan.context.train.names):
            logger.warning(line)


def _check_step(setting: str, step: int | None, section: str, train: TrainSettings) -> None:
    """Refuse a training that does not keep the step whose weights a setting asks for."""
    if step is not None and (train.keep_every is None or step % train.keep_every or step > train.steps):
        kept = f"every {train.keep_every}" if train.keep_every else "none"
        raise ConfigError(
            f"{setting}: {step} expected to be kept; the training has {train.steps} steps and keeps {kept}: "
            f"set a {section}.keep_every that divides it"
        )


def _check_bad_masks(context: RunContext, masks: ResultKey) -> None:
    """Refuse a training on no masks before anything is removed; say which marks are on masks of the past."""
    bad, images = context.bad, len(context.train)
    if len(bad) == images:
        raise DataError(
            f"all {images} masks are marked bad, and none is left to train on; `weakclip review` changes marks"
        )
    earlier = sum(mark.masks not in (None, masks.digest) for mark in bad.values())
    if earlier:
        logger.info(
            "retrain: %d of %d bad marks were made on other masks than this run's; `weakclip review` shows them",
            earlier,
            len(bad),
        )


def _complain(plan: Plan, stage: str, upstream: str) -> None:
    """Say why a stage cannot run: the one before it has no result under its key.

    Raises:
        RunError: always.
    """
    state = plan.state(upstream)
    why = {"new": "has not been run", "unfinished": "is not finished"}.get(state, "was made with other settings")
    if state == "unfinished" and (plan.context.folder(upstream) / SHARDS).is_dir():
        raise RunError(
            f"{plan.manifest.folder}: {stage} needs {upstream}, whose shards are not merged; run "
            f"`weakclip merge {plan.manifest.folder}`"
        )
    differences = plan.manifest.differences(upstream, plan.keys[upstream]) if state == "changed" else []
    details = f" ({'; '.join(differences)})" if differences else ""
    command = upstream.replace("_", "-") + (" --redo" if state == "changed" else "")
    raise RunError(
        f"{plan.manifest.folder}: {stage} needs {upstream}, which {why}{details}; "
        f"run `weakclip {command}` or `weakclip run`"
    )


def _announce(plan: Plan, stage: str) -> None:
    """Tell the log what will be done about a stage, and why."""
    state = plan.state(stage)
    if state == "done":
        logger.info("%s: done already with the same settings and data; skipped", stage)
    elif state == "unfinished":
        finished = plan.manifest.records[stage].get("done")
        logger.info(
            "%s: %s", stage, "finished; adds the files that are missing" if finished else "not finished; continues"
        )
    elif state == "changed":
        why = plan.manifest.differences(stage, plan.keys[stage])
        logger.info("%s: runs again, because %s", stage, "; ".join(why))
