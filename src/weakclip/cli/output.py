"""The answers of the commands: lines and tables for people, or with `--json` one object on standard output.

Progress, messages, and the one line of an error go to standard error in either case. See docs/scripting.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from weakclip.cli.options import SHOWN, errors_printed, finished, is_speaker, print_json
from weakclip.store.layout import ERRORS, STAGE_FOLDERS
from weakclip.store.remote import folder_at
from weakclip.store.trees import StoredPath
from weakclip.store.untrusted_text import one_line, some

if TYPE_CHECKING:
    from weakclip.pipeline import RunResult
    from weakclip.pipeline.shards import ShardResult
    from weakclip.prediction import PredictionSummary
    from weakclip.store.trees import AnyPath
    from weakclip.study import VariantStudy
    from weakclip.tools.annotate import VerifyResult
    from weakclip.tools.check.run import DataCheck
    from weakclip.tools.init.folder import InitFiles
    from weakclip.tools.tag.table import Tagging

Result = TypeVar("Result")


def answer(
    work: Callable[[], Result],
    *,
    json: bool,
    record: Callable[[Result], dict[str, Any]],
    show: Callable[[Result], None],
) -> Result:
    """Do the work of a command and print its result.

    Args:
        work: all that may fail, the reading of the configuration too.
        json: whether a JSON object is asked for.
        record: from the result to that object.
        show: prints the result for people.

    Raises:
        WeakCLIPError: what `work` raises; with `json`, `{"error": …}` is on standard output before.
    """
    with errors_printed(json=json):
        result = finished(work)
    if json:
        print_json(record(result))
    elif is_speaker():
        show(result)
    return result


def at_place(out: str, write: Callable[[Path], Result]) -> Result:
    """The result of an export to a path or a URL."""
    from weakclip.store.outputs import delivered

    with delivered(out) as place:
        return write(place)


def answer_run(work: Callable[[], RunResult], *, json: bool) -> None:
    """As `answer`, for a run or a stage."""
    answer(work, json=json, record=_run_record, show=_show_run)


def answer_predictions(work: Callable[[], PredictionSummary], *, json: bool, shard: str = "") -> None:
    """As `answer`, for predictions; exit code 1 if some images have no mask."""

    def record(done: PredictionSummary) -> dict[str, Any]:
        counts = {name: value for name, value in asdict(done).items() if name != "out"}
        return {"folder": done.out, **counts, "errors": done.out / ERRORS if done.failed and not shard else None}

    def show(done: PredictionSummary) -> None:
        typer.echo(f"{done.out}: {done.predicted:,} predicted, {done.kept:,} done before, {done.failed:,} failed")
        if shard:
            _show_merge(done.out)

    done = answer(work, json=json, record=record, show=show)
    if done.failed:
        where = "`weakclip merge`" if shard else done.out / ERRORS
        typer.echo(f"weakclip: {done.failed:,} images have no mask; {where} says why", err=True)
        raise typer.Exit(1)


def answer_study(work: Callable[[], VariantStudy], *, json: bool) -> None:
    """As `answer`, for a study of variants."""
    from weakclip.study.pages import TABLE
    from weakclip.study.variant_pages import variant_record, variant_table

    def show(found: VariantStudy) -> None:
        typer.echo(f"{variant_table(found)}\n{found.folder / TABLE}")

    answer(work, json=json, record=variant_record, show=show)


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


def _show_run(result: RunResult) -> None:
    """The results table, and where the report is."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from weakclip.report.figures import mean_known, percent

    console = Console(highlight=False)
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
        console.print(table)
    if result.chosen:
        console.print(f"network: {result.chosen.line}", soft_wrap=True)
    if result.left_out:
        console.print(f"left out: {result.left_out:,}; {_place(result) / ERRORS} lists them", soft_wrap=True)
    show_warnings(result.warnings)
    console.print(f"report: {_place(result) / result.report.name}", soft_wrap=True)


def show_warnings(warnings: Sequence[str]) -> None:
    """Print what a run warns of, a line each."""
    for line in warnings:
        typer.echo(f"warning: {one_line(line)}")


def show_check(check: DataCheck) -> None:
    """Print the tables and findings of a data check."""
    from rich.console import Console

    from weakclip.tools.check.run import finding_lines, tables, untagged_lines

    console = Console(highlight=False)
    for table in tables(check):
        console.print(table)
    notes = [f"{each.split}: {note}" for each in check.splits for note in each.notes]
    notes += [f"{each.split}: true masks: {each.truth}" for each in check.splits if each.truth]
    warnings = [f"warning: {line}" for line in check.warnings]
    for line in (*notes, *untagged_lines(check), *finding_lines(check), *warnings):
        typer.echo(line)
    typer.echo(f"findings: {len(check.findings):,}")
    show_encoder()


def show_encoder() -> None:
    """Print which encoder suits the machine."""
    from weakclip.tools.init.encoder_hint import encoder_hint

    typer.echo(f"encoder: {encoder_hint()}")


def show_init(made: InitFiles) -> None:
    """Print the numbers of a folder of images, and which files were written."""
    survey = made.survey
    typer.echo(f"labels: {survey.labels}")
    splits = ", ".join(
        f"{split} {count:,} ({survey.masks[split]:,} with mask)" for split, count in survey.splits.items()
    )
    typer.echo(f"images: {splits}")
    low, high = survey.smallest, survey.largest
    typer.echo(f"sizes: {low[1]}x{low[0]} to {high[1]}x{high[0]} pixels")
    names = [f"{name} ({count:,})" for name, count in survey.classes.items()]
    more = f", … and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    typer.echo(f"{len(names):,} class{'es' if len(names) > 1 else ''}: {', '.join(names[:SHOWN])}{more}")
    for note in survey.notes:
        typer.echo(f"note: {note}")
    if made.val_file:
        count = survey.splits["val"]
        typer.echo(f"val: {count:,} images are set aside to score on, and get no masks: {made.val_file} lists them")
    show_encoder()
    written = filter(None, (made.config, made.class_file, made.val_file))
    typer.echo(f"written: {', '.join(map(str, written))}")
    typer.echo(f"next: weakclip data check {shlex.quote(str(made.config))}")


def answer_tagging(work: Callable[[], Tagging | None], out: Path | str, folder: AnyPath, *, json: bool) -> None:
    """As `answer`, for a table of labels; None of a shard."""
    table = folder_at(out)

    answer(
        work,
        json=json,
        record=lambda made: {"file": table, **({k: v for k, v in asdict(made).items() if k != "path"} if made else {})},
        show=lambda made: _show_tagging(made, folder) if made else _show_merge(table),
    )


def _show_tagging(made: Tagging, folder: AnyPath) -> None:
    """Print how often each class was proposed, and which images to look at."""
    counts = sorted(made.classes.items(), key=lambda pair: -pair[1])
    typer.echo(f"{made.path}: {made.images:,} images")
    typer.echo("proposed: " + ", ".join(f"{name} ({count:,})" for name, count in counts[:SHOWN]))
    typer.echo(f"threshold: {made.threshold:g}; rows without a class from there on, left empty: {len(made.unsure):,}")
    if made.unsure:
        typer.echo(f"empty, the column `check` names the best guess: {some(made.unsure, SHOWN)}")
    for line in made.unread[:SHOWN]:
        typer.echo(f"left out: {line}", err=True)
    if len(made.unread) > SHOWN:
        typer.echo(f"left out: {len(made.unread) - SHOWN:,} more that cannot be read", err=True)
    for note in made.notes:
        typer.echo(f"note: {note}")
    at_url = isinstance(made.path, StoredPath)
    first = f", and bring the table to {folder / 'labels.csv'}" if at_url else ""
    labels = "" if at_url or made.path == folder / "labels.csv" else f" --labels {shlex.quote(str(made.path))}"
    typer.echo(f"next: correct the column `labels`{first}, then weakclip init {shlex.quote(str(folder))}{labels}")


def show_shard(made: ShardResult) -> None:
    """Print how a shard has ended, or a merge."""
    typer.echo(f"{made.folder}: {made.stage} is complete") if made.done else _show_merge(made.folder)


def _show_merge(made: AnyPath | str) -> None:
    typer.echo(f"{made}: the shard is there; next, when all are there: weakclip merge {shlex.quote(str(made))}")


def show_verified(made: VerifyResult, source: Path, run: Path) -> None:
    """Print how many masks are verified now, their new labels, the score of the run's masks, and what comes next."""
    typer.echo(f"{run / 'verified'}: {made.verified:,} masks of {source}")
    if made.unchanged:
        typer.echo(f"{made.unchanged:,} masks of the file are as {run} made them, and not verified")
    if made.empty:
        names = some(made.empty, SHOWN)
        typer.echo(f"{len(made.empty):,} images have labels and nothing drawn, and are not verified: {names}")
    if made.replaced:
        names = some(made.replaced, SHOWN)
        typer.echo(f"{len(made.replaced):,} images had another verified mask, which is replaced: {names}")
    for name, labels in [*made.relabelled.items()][:SHOWN]:
        typer.echo(f"{one_line(name)} has other labels now: {', '.join(labels) or 'none, it is background'}")
    if len(made.relabelled) > SHOWN:
        typer.echo(f"{len(made.relabelled) - SHOWN:,} more images have other labels now (--json lists all)")
    if made.agreement is not None:
        low, high = (100 * bound for bound in made.agreement.interval)
        typer.echo(
            f"against them the run's own masks of {made.agreement.images:,} of these images score a mean IoU of "
            f"{100 * made.agreement.mean_iou:.1f} % (95 % interval {low:.1f} to {high:.1f}); "
            "images that nobody corrected are not in it"
        )
    show_foreign(made.foreign, source, run)
    words = ["weakclip", "run", str(run / "config.yaml"), "--out", str(run), "--redo"]
    typer.echo(f"next: {shlex.join(words)}")


def show_foreign(foreign: Sequence[str], source: Path, run: Path) -> None:
    """Name the images of an annotation file that a run does not have."""
    if foreign:
        named = some(foreign, SHOWN, more=", … (--json lists all)")
        typer.echo(f"{source}: left out, for {run} has no such images: {len(foreign):,}, {named}")
