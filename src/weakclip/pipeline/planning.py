"""Before anything runs: what is there already, what will be done and why, and what must not be done unasked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from weakclip.config import dump_config
from weakclip.errors import ConfigError, DataError, RunError
from weakclip.inference.mask_writing import GivenFiles
from weakclip.pipeline.bad_files import Screening, drop_screening, find_bad_files, save_screening
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.plan import Plan
from weakclip.segmenters.segmenter import check_available
from weakclip.segmenters.train import WEAKCLIP
from weakclip.store.files import atomic_write, write_text, writing
from weakclip.store.keys import ResultKey
from weakclip.store.layout import CONFIG, ERRORS, SHARDS, UNTAGGED
from weakclip.training.settings import TrainSettings

logger = logging.getLogger("weakclip")


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
        for line in GivenFiles(plan.context.config.pseudo_masks).lacking(plan.context.train.names):
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
    state, key, manifest = plan.state(upstream), plan.keys[upstream], plan.manifest
    if state == "unfinished" and (plan.context.folder(upstream) / SHARDS).is_dir():
        raise RunError(
            f"{manifest.folder}: {stage} needs {upstream}, whose shards are not merged; run "
            f"`weakclip merge {manifest.folder}`"
        )
    command, why = upstream.replace("_", "-"), "is not finished"
    if state == "new":
        why = "has not been run"
    elif state == "changed" and manifest.comes_back(upstream, key):
        why = "is being made with other settings; its previous result has these, and is taken back"
    elif state == "changed":
        replaces = manifest.replaces_a_result(upstream, key)
        command += " --redo" if replaces else ""
        made = "was made with other settings" if replaces else "was begun with other settings and is not finished"
        why = f"{made} ({'; '.join(_differences(plan, upstream))})"
    raise RunError(
        f"{manifest.folder}: {stage} needs {upstream}, which {why}; run `weakclip {command}` or `weakclip run`"
    )


def _differences(plan: Plan, stage: str) -> list[str]:
    """The changes since a stage ran; those of a stage before it, in place of the word that its result is new."""
    found: list[str] = []
    for reason in plan.manifest.differences(stage, plan.keys[stage]):
        before = next((name for name in plan.stages[stage].upstream if reason == f"{name} is new"), None)
        outdated = before is not None and plan.state(before) == "changed"
        found += _differences(plan, before) if before is not None and outdated else [reason]
    return list(dict.fromkeys(found))


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
    elif plan.manifest.comes_back(stage, plan.keys[stage]):
        logger.info("%s: its previous result has these settings; the one that was begun since makes way for it", stage)
    elif state == "changed":
        why = plan.manifest.differences(stage, plan.keys[stage])
        logger.info("%s: runs again, because %s", stage, "; ".join(why))
