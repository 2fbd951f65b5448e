"""A run: what must be done, what is done already, and the stages in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weakclip.clip import Encoder
from weakclip.config import RunConfig, load_config
from weakclip.datasets import ImageLabelDataset
from weakclip.errors import BrokenFileError, ConfigError, DataError
from weakclip.inference.evaluation import Scores
from weakclip.pipeline.bad_files import find_bad_files, save_screening, write_errors
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.given import Given
from weakclip.pipeline.plan import Plan
from weakclip.pipeline.planning import make_plan
from weakclip.pipeline.space import check_space
from weakclip.pipeline.stages import stages_of
from weakclip.report import read_run, write_report
from weakclip.report.chosen import ChosenNetwork, read_chosen
from weakclip.seeds import SeedMethod
from weakclip.store.files import remove_leftovers
from weakclip.store.layout import ERRORS, MANIFEST
from weakclip.store.lock import FolderInUseError, FolderLock
from weakclip.store.manifest import Manifest
from weakclip.store.outputs import copy_of, mirrored
from weakclip.store.remote import is_url
from weakclip.store.share import current, sharing
from weakclip.training.processes import open_processes

logger = logging.getLogger("weakclip")

MAIN_STAGES = ("seeds", "train", "pseudo_masks", "retrain", "evaluate")
UPPER_BOUND_STAGES = ("retrain_truth", "evaluate_truth")


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Args:
        folder: the run folder; of a run at a URL, its copy on this machine.
        report: the report page in it.
        scores: the rows of the results table; empty where the data set has no pixel labels.
        ran: the stages that ran in this call.
        skipped: the stages that were done already with the same settings and data.
        left_out: how many entries `errors.jsonl` has: images, and rows of labels, that could not be used.
        chosen: the network that the run hands over, and why; None before one is trained.
        warnings: what the stages have warned of, a line each.
        url: where the run is, if at a URL; else empty.
    """

    folder: Path
    report: Path
    scores: tuple[Scores, ...]
    ran: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    left_out: int = 0
    chosen: ChosenNetwork | None = None
    warnings: tuple[str, ...] = ()
    url: str = ""


def run(config: RunConfig | str | Path, out: Path | str, *, redo: bool = False) -> RunResult:
    """`weakclip run CONFIG --out OUT` from Python.

    Args:
        config: the settings, the name of a shipped configuration, or a YAML file.
        out: the run folder, or its URL; made where it does not exist.
        redo: as for `run_pipeline`, which takes objects of a program, too.

    Raises:
        ConfigError: a file that is no configuration.
        WeakCLIPError: as `run_pipeline`.
    """
    return run_pipeline(config if isinstance(config, RunConfig) else load_config(config), out, redo=redo)


def run_pipeline(
    config: RunConfig,
    out: Path | str,
    *,
    full: bool = False,
    redo: bool = False,
    clip: Encoder | None = None,
    seed_method: SeedMethod | None = None,
    dataset: ImageLabelDataset | None = None,
    val_dataset: ImageLabelDataset | None = None,
) -> RunResult:
    """The whole job: seeds, training, pseudo masks, retraining, evaluation, report.

    A folder of an earlier run is continued: what was made with the same settings and data is kept. A finished result
    that was made otherwise is replaced only with `redo`. The logger "weakclip" tells what is done and why.

    Args:
        config: what to run.
        out: the run folder, made where it does not exist; or its URL, as `s3://bucket/runs/x`.
        full: also train the same network on the true masks, as an upper bound.
        redo: whether finished results that were made with other settings or data are made again; each old one stays
            until the new one is done.
        clip: an encoder in place of the one that `config` names; its `source` takes the place of `clip.source`.
        seed_method: anything with `cam(sample) -> CAM`, in place of the seed method that `config` names. A run is done
            anew when its class has another name, or its `fingerprint()`, if it has one, another value.
        dataset: the training split, in place of the data set that `config` names. What has changed in it is told from
            names, labels, files, and its `fingerprint()` where it has one; of images that are no files, the first
            stands for all.
        val_dataset: the split that the networks are scored on, where `dataset` is given; None for none.

    Returns:
        The run folder, its report and its scores.

    Raises:
        DataError: an image, a label or an imported seed that cannot be used, and how many more there are; with
            `data.on_error: skip` such images are left out instead.
        RunError: finished results would have to make way, and `redo` is false.
        FolderInUseError: another process works in the folder, and not all that is wanted is done.
        EncoderError: an encoder that lacks what a stage needs.
        StorageError: the disk is full or read-only; with room again, the same call goes on.
        RemoteError: a store cannot be reached, or refuses; the same call goes on.
        WeakCLIPError: anything else that the user can correct; what was finished before stays.
    """
    stages = MAIN_STAGES + (UPPER_BOUND_STAGES if full else ())
    wanted = [stage for stage in stages if stage in stages_of(config)]
    return _run(config, out, wanted, Given(clip, seed_method, dataset, val_dataset), redo=redo)


def run_stage(
    config: RunConfig,
    out: Path | str,
    stage: str,
    *,
    redo: bool = False,
    clip: Encoder | None = None,
    seed_method: SeedMethod | None = None,
    dataset: ImageLabelDataset | None = None,
    val_dataset: ImageLabelDataset | None = None,
) -> RunResult:
    """One stage on the results of those before it.

    Args:
        config: what to run.
        out: the run folder.
        stage: "seeds", "train", "pseudo_masks", "retrain" or "evaluate".
        redo, clip, seed_method, dataset, val_dataset: as for `run_pipeline`.

    Raises:
        RunError: a stage before it is missing, or was made with other settings; or its own finished result would have
            to make way, and `redo` is false.
        ConfigError: "retrain" where the settings name no network to retrain.
        WeakCLIPError: as `run_pipeline`.
    """
    if stage not in stages_of(config):
        raise ConfigError(
            "retrain.model: is null, and WeakCLIP the only network; to train another one on the masks set it to "
            "weakclip, small, deeplab_resnet38, or a network of transformers: --set retrain.model=weakclip"
        )
    return _run(config, out, (stage,), Given(clip, seed_method, dataset, val_dataset), redo=redo)


def _run(config: RunConfig, out: Path | str, wanted: Sequence[str], given: Given, *, redo: bool) -> RunResult:
    """In one process, or in all that torch's launcher started: process 0 leads, the others do their share."""
    processes = open_processes(RunContext(config, Path(), given=given).device)
    with sharing(processes):
        result = None
        if processes.is_main:
            with mirrored(out) as folder:
                result = _lead(config, folder, wanted, given, redo=redo)
            result = replace(result, url=str(out) if is_url(out) else "")
            processes.tell("")
        else:
            _follow(config, copy_of(out), given)
        result = processes.tell(result)
        assert result is not None
        processes.wait()  # process 0 does not leave before the others have its words
        return result


def _lead(config: RunConfig, out: Path, wanted: Sequence[str], given: Given, *, redo: bool) -> RunResult:
    """Plan, lock the folder, keep its manifest, and do all of the work or a share."""

    def fresh() -> RunContext:
        return RunContext(config, out, given=given, trusted=True)

    try:
        with FolderLock(out):
            ran: list[str] = []
            while (redo_next := _run_all(fresh(), wanted, ran, redo=redo)) is not None:
                ran.clear()  # an image has turned out to be broken: without it, everything is planned again
                redo = redo_next
            return _result(out, wanted, ran)
    except FolderInUseError as error:
        plan = Plan.of(fresh(), wanted)
        if any(plan.state(stage) != "done" for stage in wanted):
            raise
        logger.info("%s; what was asked for is done already", str(error).partition(";")[0])
        return _result(out, wanted, ())


def _follow(config: RunConfig, out: Path, given: Given) -> None:
    """Do this process's share of every stage that process 0 begins; its plan and its list of broken files are there."""
    context: RunContext | None = None
    while stage := current().tell(""):
        context = context or RunContext(config, out, given=given, trusted=True)
        try:
            Plan(context, Manifest(out), stages_of(context.config), {}).run(stage)
        except BrokenFileError as error:
            _leave_out(context, error)
            raise


def _run_all(context: RunContext, wanted: Sequence[str], ran: list[str], *, redo: bool) -> bool | None:
    """Run all that is wanted and not done, each stage added to `ran`.

    Returns:
        None when all is done. Where images have to be left out first, whether the next plan may replace finished
        results: yes, once this plan has found nothing else to replace.

    Raises:
        DataError: with `data.on_error: stop`, the first file that cannot be used, and how many there are; otherwise a
            file that was bad when it was read and is good now.
    """
    plan: Plan | None = None
    try:
        plan = make_plan(context, wanted, redo=redo)
        remove_leftovers(context.out)
        check_space(plan, wanted)
        for stage in wanted:
            if _run_one(plan, stage):
                ran.append(stage)
        return None
    except BrokenFileError as error:
        _leave_out(context, error)
        return redo or plan is not None


def _leave_out(context: RunContext, error: BrokenFileError) -> None:
    """Read all the data for files that cannot be used, and list them: their images are left out from here on.

    Raises:
        DataError: as `_run_all`; of several processes, the file too: they begin again with the same command.
    """
    logger.info("%s; all the data is read now, to find every such file", error)
    try:
        found = find_bad_files(context.config, context.out, whole=True)
    except DataError:  # more than one file: the disk, or the whole folder
        raise error from None
    new = {*found.broken} - {*context.broken}
    if not new:
        raise error
    if context.config.data.on_error == "stop":
        said = ""
        if (context.out / MANIFEST).is_file():
            write_errors(context.out, found.broken)
            said = f"; {context.out / ERRORS} lists them"
        masks = len(found.broken) - found.left_out
        count = f"{found.left_out:,} cannot be used" + (f", {masks:,} more cannot be scored" if masks else "")
        raise DataError(
            f"{error} (of {found.images:,} images {count}{said}; data.on_error=skip leaves them out)"
        ) from None
    save_screening(context.out, found)
    said = f"it and {len(new) - 1} more are left out from here on"
    if current().count > 1:
        raise BrokenFileError(f"{error}; {said}: give the same command again, with --redo") from None
    logger.info("%s; %s", error, said)


def _result(out: Path, wanted: Sequence[str], ran: Sequence[str]) -> RunResult:
    skipped = tuple(stage for stage in wanted if stage not in ran)
    report, run = write_report(out), read_run(out)
    trained = any(stage.name == "train" and stage.done for stage in run.stages)
    chosen = read_chosen(out) if trained else None
    return RunResult(out, report, run.scores, tuple(ran), skipped, run.left_out, chosen, run.warnings)


def _run_one(plan: Plan, stage: str) -> bool:
    """Run a stage unless it is done; whether it ran."""
    if plan.state(stage) == "done":
        return False
    started = time.perf_counter()
    plan.start(stage)
    if plan.state(stage) == "done":  # its previous result has these settings
        return False
    logger.info("%s: %s", stage, plan.stages[stage].purpose)
    plan.take_over(stage)
    current().tell(stage)
    plan.run(stage)
    plan.finish(stage, time.perf_counter() - started)
    return True
