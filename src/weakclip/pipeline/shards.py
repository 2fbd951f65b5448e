"""A stage in shards: processes that know nothing of each other, such as the tasks of a job array, make its items, and a
last one proves that all of them are there and completes the stage.

The law of seed methods that learn from all images (MCTformer+, AffinityNet): the shard that comes first trains, the
others wait for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from weakclip.config import RunConfig
from weakclip.errors import RunError
from weakclip.pipeline.context import RunContext, open_run
from weakclip.pipeline.planning import make_plan
from weakclip.report import write_report
from weakclip.store.files import write_json
from weakclip.store.layout import SHARDS, STAGE_FOLDERS
from weakclip.store.lock import START, FolderInUseError, FolderLock, at_work
from weakclip.store.outputs import mirrored, url_open
from weakclip.store.share import Merge, Shard, sharing
from weakclip.store.untrusted_text import parse_json

SHARDED = ("seeds", "pseudo_masks")
"""The stages that can be made in shards."""


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """The outcome of a shard or a merge.

    Args:
        folder: the run folder, or its URL.
        stage: of the run.
        shard: number of the shard, from 0; None of a merge.
        shards: how many there are.
        done: whether the stage is complete.
    """

    folder: Path | str
    stage: str
    shard: int | None
    shards: int
    done: bool


def run_shard(config: RunConfig, out: Path | str, stage: str, shard: Shard, *, redo: bool = False) -> ShardResult:
    """One shard of a stage: its images, and its own lines of the log. Several run at once in one folder.

    Args:
        config: what to run, the same for every shard.
        out: the run folder, or its URL; there each shard works in a copy of its own, and sends what it has made.
        stage: "seeds" or "pseudo_masks".
        shard: which.
        redo: as for `run_pipeline`.

    Raises:
        FolderInUseError: the same shard is at work elsewhere, or a process that does the whole stage, or shards with
            other settings.
        RunError: as `run_stage`; at a URL, also where a result would have to make way.
        WeakCLIPError: as `run_stage`.
    """
    with mirrored(out, shard.name) as folder:
        done = _work(config, folder, stage, replace(shard, folder=folder), redo=redo)
    return ShardResult(folder=out, stage=stage, shard=shard.rank, shards=shard.count, done=done)


def _work(config: RunConfig, out: Path, stage: str, shard: Shard, *, redo: bool) -> bool:
    """Make the shard; whether the stage is complete already."""
    with FolderLock(out, shard.name):
        context = RunContext(config, out, trusted=True)
        record = context.folder(stage) / SHARDS / f"{shard.name}.json"
        with FolderLock(out, START, wait=True):
            plan = make_plan(context, (stage,), redo=redo)
            if plan.state(stage) == "changed" and at_work(out, but=shard.name):
                raise FolderInUseError(f"{out}: shards with other settings or data work here; wait until they end")
            if plan.state(stage) == "changed" and url_open():
                raise RunError(
                    f"{out}: shards replace no result at a URL; give {stage} without --shard, or another --out"
                )
            if plan.state(stage) != "done":
                plan.start(stage)
            done = plan.state(stage) == "done"
            if not done:
                plan.take_over(stage)
                write_json(record, {"shards": shard.count, "seconds": 0.0})
        if not done:
            started = time.perf_counter()
            with sharing(shard):
                plan.run(stage)
            write_json(record, {"shards": shard.count, "seconds": round(time.perf_counter() - started, 2)})
    return done


def merge_shards(out: Path | str) -> ShardResult:
    """Prove that all items of a stage are there, and write its log, its metrics and the manifest as one process does.

    Args:
        out: the run folder, or its URL.

    Raises:
        FolderInUseError: a shard is at work.
        RunError: no stage is being made in shards; items are missing: those and their shards are named; or settings or
            data have changed.
    """
    with mirrored(out) as folder, FolderLock(folder):
        context = open_run(folder)
        stage = next((each for each in SHARDED if (context.folder(each) / SHARDS).is_dir()), None)
        if stage is None:
            raise RunError(f"{folder}: no stage is being made in shards; start them with --shard 0/4, 1/4, …")
        records = [_record(path) for path in (context.folder(stage) / SHARDS).glob("*.json")]
        count = max((shards for shards, _ in records), default=1)
        plan = make_plan(context, (stage,), redo=False)
        if (state := plan.state(stage)) != "unfinished":
            changes = plan.keys[stage].differences(plan.manifest.records.get(stage, {}))  # since the shards began
            why = "the stage is done" if state == "done" else "; ".join(changes)
            raise RunError(f"{folder}: the shards of {STAGE_FOLDERS[stage]} cannot be merged: {why}; run them again")
        with sharing(Merge(shards=count)):
            plan.run(stage)
        plan.finish(stage, sum(seconds for _, seconds in records))
        write_report(folder)
    return ShardResult(folder=out, stage=stage, shard=None, shards=count, done=True)


def _record(path: Path) -> tuple[int, float]:
    """How many shards there are, and the seconds of this one."""
    try:
        found = parse_json(path.read_bytes())
        return max(1, int(found["shards"])), max(0.0, float(found["seconds"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run this shard again") from None
