"""How the work of a command runs, and how its result is printed: lines for people, or one JSON object (`--json`).

Progress, messages, and the one line of an error go to standard error in either case. See docs/scripting.md.
"""

from __future__ import annotations

import contextlib
import json as json_format
import logging
import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from weakclip.errors import WeakCLIPError
from weakclip.store.layout import ERRORS, STAGE_FOLDERS
from weakclip.store.remote import folder_at
from weakclip.store.trees import AnyPath, StoredPath
from weakclip.store.untrusted_text import SHOWN, one_line

if TYPE_CHECKING:
    from rich.table import Table

    from weakclip.pipeline import RunResult
    from weakclip.pipeline.shards import ShardResult
    from weakclip.prediction import PredictionSummary
    from weakclip.study import VariantStudy
    from weakclip.tools.tag.table import Tagging

Result = TypeVar("Result")

TERMINATED = 128 + signal.SIGTERM
"""The shell's exit code of a process that SIGTERM has ended."""


def answer(
    work: Callable[[], Result],
    *,
    json: bool,
    record: Callable[[Result], dict[str, Any]],
    lines: Callable[[Result], str | Sequence[str]],
) -> Result:
    """Do the work of a command and print its result.

    Args:
        work: all that may fail, the reading of the configuration too.
        json: whether a JSON object is asked for.
        record: from the result to that object.
        lines: from the result to a line or lines for people.

    Raises:
        WeakCLIPError: what `work` raises; with `json`, `{"error": …}` is on standard output before.
    """
    with errors_printed(json=json):
        result = finished(work)
    if json:
        print_json(record(result))
    elif is_speaker():
        told = lines(result)
        typer.echo(told if isinstance(told, str) else "\n".join(told))
    return result


def at_place(out: str, write: Callable[[Path], Result]) -> Result:
    """The result of an export to a path or a URL."""
    from weakclip.store.outputs import delivered

    with delivered(out) as place:
        return write(place)


def answer_run(work: Callable[[], RunResult], *, json: bool) -> None:
    """As `answer`, for a run or a stage."""
    answer(work, json=json, record=_run_record, lines=_run_lines)


def answer_predictions(work: Callable[[], PredictionSummary], *, json: bool, shard: str = "") -> None:
    """As `answer`, for predictions; exit code 1 if some images have no mask."""

    def record(done: PredictionSummary) -> dict[str, Any]:
        counts = {name: value for name, value in asdict(done).items() if name != "out"}
        return {"folder": done.out, **counts, "errors": done.out / ERRORS if done.failed and not shard else None}

    def lines(done: PredictionSummary) -> list[str]:
        counts = f"{done.predicted:,} predicted, {done.kept:,} done before, {done.failed:,} failed"
        return [f"{done.out}: {counts}", *([_next_merge(done.out)] if shard else [])]

    done = answer(work, json=json, record=record, lines=lines)
    if done.failed:
        where = "`weakclip merge`" if shard else done.out / ERRORS
        typer.echo(f"weakclip: {done.failed:,} images have no mask; {where} says why", err=True)
        raise typer.Exit(1)


def answer_study(work: Callable[[], VariantStudy], *, json: bool) -> None:
    """As `answer`, for a study of variants."""
    from weakclip.study.pages import TABLE
    from weakclip.study.variant_pages import variant_record, variant_table

    answer(work, json=json, record=variant_record, lines=lambda made: [variant_table(made), str(made.folder / TABLE)])


def answer_tagging(work: Callable[[], Tagging | None], out: Path | str, folder: AnyPath, *, json: bool) -> None:
    """As `answer`, for a table of labels; None of a shard."""
    table = folder_at(out)

    def record(made: Tagging | None) -> dict[str, Any]:
        return {"file": table, **({key: value for key, value in asdict(made).items() if key != "path"} if made else {})}

    def lines(made: Tagging | None) -> list[str]:
        from weakclip.tools.tag.table import tagging_lines

        for line in made.unread[:SHOWN] if made else ():
            typer.echo(f"left out: {line}", err=True)
        if made and len(made.unread) > SHOWN:
            typer.echo(f"left out: {len(made.unread) - SHOWN:,} more that cannot be read", err=True)
        return tagging_lines(made, folder) if made else [_next_merge(table)]

    answer(work, json=json, record=record, lines=lines)


def answer_shard(work: Callable[[], ShardResult], *, json: bool) -> None:
    """As `answer`, for a shard of a stage, or a merge."""

    def line(made: ShardResult) -> str:
        return f"{made.folder}: {made.stage} is complete" if made.done else _next_merge(made.folder)

    answer(work, json=json, record=asdict, lines=line)


def _next_merge(made: AnyPath | str) -> str:
    return f"{made}: the shard is there; next, when all are there: weakclip merge {shlex.quote(str(made))}"


def _run_record(result: RunResult) -> dict[str, Any]:
    stages = [stage for stage in STAGE_FOLDERS if stage in (*result.ran, *result.skipped)]
    names, folder = ("ran", "skipped", "left_out", "warnings"), _place(result)
    return {
        "folder": folder,
        "report": folder / result.report.name,
        **{name: getattr(result, name) for name in names},
        "stage_folders": {stage: folder / STAGE_FOLDERS[stage] for stage in stages},
        "scores": [asdict(score) for score in result.scores],
        "network": asdict(result.chosen) if result.chosen else None,
    }


def _place(result: RunResult) -> AnyPath:
    """Where a run is: its folder, or its URL."""
    return folder_at(result.url) if result.url else result.folder


def _run_lines(result: RunResult) -> list[str]:
    """The results table, and where the report is."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from weakclip.report.figures import mean_known, percent

    lines = []
    if result.scores:
        title = "Results in per cent, means over the classes"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
        for heading in ("what", "split", "images", "CRF", "multi-scale"):
            table.add_column(heading, no_wrap=True)
        for heading in ("mIoU", "precision", "recall"):
            table.add_column(heading, justify="right", no_wrap=True)
        for score in result.scores:
            made = ("no" if how == "no" else "yes" for how in (score.crf, score.multi_scale))
            numbers = (score.mean_iou, mean_known(score.precision), mean_known(score.recall))
            table.add_row(score.subject, score.split, str(score.images), *made, *map(percent, numbers))
        lines.append(rendered(table))
    if result.chosen:
        lines.append(f"network: {result.chosen.line}")
    if result.left_out:
        lines.append(f"left out: {result.left_out:,}; {_place(result) / ERRORS} lists them")
    return [*lines, *warning_lines(result.warnings), f"report: {_place(result) / result.report.name}"]


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """The warnings of a run."""
    return [f"warning: {one_line(line)}" for line in warnings]


def rendered(table: Table) -> str:
    """A table as text that fits the terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as text:
        console.print(table)
    return text.get().removesuffix("\n")


@contextlib.contextmanager
def errors_printed(*, json: bool) -> Iterator[None]:
    """With `json`, an error is an object on standard output before it goes on."""
    try:
        yield
    except WeakCLIPError as error:
        if json:
            print_json({"error": {"type": type(error).__name__, "message": one_line(str(error))}})
        raise


def is_speaker() -> bool:
    """Whether this process prints results; of those that torchrun started, one does."""
    return os.environ.get("RANK", "0") == "0"


def log_to_stderr() -> None:
    """Set up the messages of a command: lines on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("weakclip").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # its retries; what failed is said in one line
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one bar at a time, ours; transformers follows it too


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON object; of the processes that torchrun started, one does."""
    if is_speaker():
        typer.echo(json_format.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    """Paths as text, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Path | StoredPath):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def finished(work: Callable[[], Result]) -> Result:
    """Do the work; Ctrl-C and SIGTERM end it in order, with one line."""
    try:
        with _ended_by_sigterm():
            return work()
    except KeyboardInterrupt:
        typer.echo("weakclip: interrupted; the same command continues", err=True)
        raise typer.Exit(130) from None
    except EOFError as error:  # typer would take it for the end of its own input, and say "Aborted." and no more
        raise RuntimeError("an end of file that nothing was prepared for") from error
    except SystemExit as stop:
        if stop.code == TERMINATED:
            typer.echo("weakclip: terminated; the same command continues", err=True)
        raise


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows signal handlers in the main thread only
        return
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    """On SIGTERM: end as on Ctrl-C, with temporary files and the lock cleared away."""
    raise SystemExit(TERMINATED)
