"""A run: what must be done, what is done already, and the stages in order."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakclip.config import RunConfig, dump_config
from weakclip.disk import remove_leftovers
from weakclip.errors import DataError, RunError
from weakclip.evaluation import Scores
from weakclip.images import atomic_write
from weakclip.inference import is_out_of_memory
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.lock import FolderInUseError, FolderLock
from weakclip.pipeline.manifest import Manifest, StageKey
from weakclip.pipeline.stages import STAGES
from weakclip.report import STAGE_FOLDERS, read_run, write_report
from weakclip.training.processes import Processes, open_processes

logger = logging.getLogger("weakclip")

MAIN_STAGES = ("seeds", "train", "pseudo_masks", "retrain", "evaluate")
UPPER_BOUND_STAGES = ("retrain_truth", "evaluate_truth")


@dataclass(frozen=True)
class RunResult:
    """What a run ends with.

    Args:
        folder: the run folder.
        report: the report page in it.
        scores: the rows of the results table; empty where the data set has no pixel labels.
        ran: the stages that ran in this call.
        skipped: the stages that were done already with the same settings and data.
    """

    folder: Path
    report: Path
    scores: tuple[Scores, ...]
    ran: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def run_pipeline(config: RunConfig, out: Path | str, *, full: bool = False) -> RunResult:
    """The whole job: seeds, training, pseudo masks, retraining, evaluation, report.

    A folder of an earlier run is continued: what was made with the same settings and data is kept, the rest is made
    again. What is done and why is told through the logger "weakclip".

    Args:
        config: what to run.
        out: the run folder; made where it does not exist.
        full: also train the same network on the true masks, as an upper bound.

    Returns:
        The run folder, its report and its scores.

    Raises:
        FolderInUseError: another process works in the folder, and not all that is wanted is done.
        StorageError: the disk is full or read-only; with room again, the same call goes on.
        WeakCLIPError: anything else that the user can mend; what was finished before stays.
    """
    return _run(config, Path(out), MAIN_STAGES + (UPPER_BOUND_STAGES if full else ()))


def run_stage(config: RunConfig, out: Path | str, stage: str) -> RunResult:
    """One stage on the results of those before it.

    Args:
        config: what to run.
        out: the run folder.
        stage: "seeds", "train", "pseudo_masks", "retrain" or "evaluate".

    Raises:
        RunError: a stage before it is missing, or was made with other settings.
        WeakCLIPError: as `run_pipeline`.
    """
    return _run(config, Path(out), (stage,))


def _run(config: RunConfig, out: Path, wanted: Sequence[str]) -> RunResult:
    context = RunContext(config, out)
    processes = open_processes(context.device)
    if processes.count > 1:
        with FolderLock(out) if processes.is_main else contextlib.nullcontext():
            return _train_together(context, wanted, processes)
    try:
        with FolderLock(out):
            manifest, keys = _plan(context, wanted)
            return _result(out, wanted, [stage for stage in wanted if _run_one(context, manifest, stage, keys[stage])])
    except FolderInUseError as error:
        manifest, keys = Manifest.open(out), stage_keys(context, wanted)
        if any(manifest.state(stage, keys[stage]) != "done" for stage in wanted):
            raise
        logger.info("%s; what was asked for is done already", str(error).partition(";")[0])
        return _result(out, wanted, ())


def _result(out: Path, wanted: Sequence[str], ran: Sequence[str]) -> RunResult:
    skipped = tuple(stage for stage in wanted if stage not in ran)
    return RunResult(out, write_report(out), read_run(out).scores, tuple(ran), skipped)


def _plan(context: RunContext, wanted: Sequence[str]) -> tuple[Manifest, dict[str, StageKey]]:
    """Check what is there, say what will be done, and write `config.yaml`."""
    if "retrain_truth" in wanted and not context.train.has_masks:
        raise DataError(f"split {context.train.split!r} has no true masks; the upper bound of --full needs them")
    manifest = Manifest.open(context.out)
    remove_leftovers(context.out)
    keys = stage_keys(context, wanted)
    for stage in wanted:
        for upstream in STAGES[stage].upstream:
            if upstream not in wanted and manifest.state(upstream, keys[upstream]) != "done":
                _complain(manifest, stage, upstream, keys[upstream])
    if "retrain" in wanted:
        _check_bad_masks(context, keys["pseudo_masks"])
    manifest.save()
    for stage in wanted:
        _announce(manifest, stage, keys[stage])
    with atomic_write(context.out / "config.yaml", "w") as file:
        file.write(dump_config(context.config))
    return manifest, keys


def _check_bad_masks(context: RunContext, masks: StageKey) -> None:
    """Refuse a training on no masks before anything is removed; say which marks are on masks of the past."""
    bad, images = context.review.bad, len(context.train)
    if len(bad) == images:
        raise DataError(
            f"all {images} masks are marked bad, and none is left to train on; `weakclip review` changes marks"
        )
    earlier = sum(key not in (None, masks.digest) for key in bad.values())
    if earlier:
        logger.info(
            "retrain: %d of %d bad marks were made on other masks than this run's; `weakclip review` shows them",
            earlier,
            len(bad),
        )


def _train_together(context: RunContext, wanted: Sequence[str], processes: Processes) -> RunResult:
    """One training stage in all the processes that `torchrun` started; process 0 alone keeps the manifest."""
    if len(wanted) > 1 or wanted[0] not in ("train", "retrain"):
        raise RunError(
            "several processes share the training stages alone; start `weakclip train` and `retrain` with "
            "torchrun, the other stages without"
        )
    (stage,) = wanted
    manifest, keys = _plan(context, wanted) if processes.is_main else (None, {})
    started = time.perf_counter()
    to_do = manifest is not None and manifest.state(stage, keys[stage]) != "done"
    if manifest is not None and to_do:
        manifest.start(stage, keys[stage])
    if processes.any(to_do):
        STAGES[stage].run(context, context.folder(stage))
        processes.wait()
    if manifest is not None and to_do:
        manifest.finish(stage, time.perf_counter() - started)
        write_report(context.out)
    ran = (stage,) if to_do else ()
    return RunResult(context.out, context.out / "report.html", (), ran, () if ran else (stage,))


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


def _complain(manifest: Manifest, stage: str, upstream: str, key: StageKey) -> None:
    state = manifest.state(upstream, key)
    why = {"new": "has not been run", "unfinished": "is not finished"}.get(state, "was made with other settings")
    details = f" ({'; '.join(manifest.differences(upstream, key))})" if state == "changed" else ""
    command = upstream.replace("_", "-")
    raise RunError(
        f"{manifest.folder}: {stage} needs {upstream}, which {why}{details}; run `weakclip {command}` or `weakclip run`"
    )


def _announce(manifest: Manifest, stage: str, key: StageKey) -> None:
    state = manifest.state(stage, key)
    if state == "done":
        logger.info("%s: done already with the same settings and data; skipped", stage)
    elif state == "unfinished":
        logger.info("%s: not finished; continues", stage)
    elif state == "changed":
        logger.info("%s: runs again, because %s", stage, "; ".join(manifest.differences(stage, key)))


def _run_one(context: RunContext, manifest: Manifest, stage: str, key: StageKey) -> bool:
    """Run a stage unless it is done; whether it ran."""
    if manifest.state(stage, key) == "done":
        return False
    logger.info("%s: %s", stage, STAGES[stage].purpose)
    started = time.perf_counter()
    folder = manifest.start(stage, key)
    try:
        STAGES[stage].run(context, folder)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(
            f"{stage}: out of memory ({said}); lower the batch_size, the crop or the image sizes "
            "of this stage's settings, or free memory, and give the same command again"
        ) from None
    manifest.finish(stage, time.perf_counter() - started)
    return True
