"""The commands for a finished run: report, scores, masks in a browser or in Label Studio, submission."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakclip.cli.options import (
    SHOWN,
    Json,
    Network,
    OwnEncoder,
    Root,
    Run,
    encoder_of,
    errors_printed,
    is_reported_run,
    is_run,
    is_there,
    named,
    print_json,
)
from weakclip.cli.output import answer, at_place, show_warnings
from weakclip.store.layout import MANIFEST
from weakclip.store.paths import check_run
from weakclip.store.remote import folder_at, is_url
from weakclip.store.trees import AnyPath
from weakclip.store.untrusted_text import one_line, some

if TYPE_CHECKING:
    from weakclip.review.stats import ReviewStats
    from weakclip.tools.score.run_scores import RunScore

Scored = StrEnum("Scored", ["seeds", "masks"])


def report(
    run: Annotated[str, typer.Argument(help="A run folder, or its URL.", callback=is_reported_run)], json: Json = False
) -> None:
    """Write report.html of a run folder anew."""
    from weakclip.report import read_run, write_report
    from weakclip.store.outputs import mirrored

    def work() -> tuple[AnyPath, tuple[str, ...]]:
        with mirrored(run, "report", claims=False) as folder:
            check_run(folder, MANIFEST)
            page, warnings = write_report(folder), read_run(folder).warnings
        return folder_at(run) / page.name if is_url(run) else page, warnings

    def show(made: tuple[AnyPath, tuple[str, ...]]) -> None:
        show_warnings(made[1])
        typer.echo(made[0])

    answer(work, json=json, record=lambda made: {"report": made[0], "warnings": made[1]}, show=show)


def score(
    what: Annotated[Scored, typer.Argument(help="Of the run, what is scored.")],
    run: Run,
    *,
    split: Annotated[str | None, typer.Option(help="A split of its data set, as VOC's train; else its own.")] = None,
    labels: Annotated[
        bool | None, typer.Option(help="Masks with, or without, the image-level labels; else as the run has made them.")
    ] = None,
    clip: OwnEncoder = "",
    json: Json = False,
) -> None:
    """Score the seeds or the masks of a run against true masks, at any time after their stage."""
    from weakclip.tools.score.run_scores import score_run

    answer(
        lambda: score_run(
            run, "seeds" if what == Scored.seeds else "masks", split=split, labels=labels, clip=encoder_of(clip)
        ),
        json=json,
        record=asdict,
        show=_show_score,
    )


def review(
    run: Annotated[Path, typer.Argument(help="A run folder with masks in it.", callback=is_run)],
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    host: Annotated[str, typer.Option(help="Listen on another address than this machine's own.")] = "127.0.0.1",
    reviewer: Annotated[str, typer.Option(help="The name that marks carry; the login name where left out.")] = "",
    stats: Annotated[bool, typer.Option("--stats", help="Print who has marked how much, and how far they agree.")] = (
        False
    ),
    json: Json = False,
) -> None:
    """Look at the masks of a run in a browser and mark them good, verified, bad or relabelled, for `run --redo`."""
    if stats:
        from weakclip.review.stats import review_stats

        answer(lambda: review_stats(run), json=json, record=asdict, show=_show_review)
        return
    from weakclip.review import guard, serving

    if not guard.is_loopback(host):
        typer.echo(f"weakclip: whoever reaches {host} over the network can see the images and mark them", err=True)

    def announce(address: str) -> None:
        _announce("review", address, json=json)
        if open_:
            typer.launch(address)

    with errors_printed(json=json):
        serving.serve(run, announce=announce, port=port, host=host, reviewer=reviewer)


def serve(
    run: Annotated[Path, typer.Argument(help="A run folder with masks in it.", callback=is_run)],
    *,
    images: Annotated[Path | None, typer.Option(help="A folder of further images.", callback=is_there)] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 9090,
    host: Annotated[str, typer.Option(help="Listen on another address than this machine's own.")] = "127.0.0.1",
    json: Json = False,
) -> None:
    """Be a model for Label Studio and CVAT: tasks get the run's masks; what Label Studio sends back is verified."""
    from weakclip.review import guard, serving

    if not guard.is_loopback(host):
        typer.echo(f"weakclip: whoever reaches {host} over the network can see masks and correct them", err=True)

    with errors_printed(json=json):
        serving.serve_ml_backend(
            run, images=images, announce=partial(_announce, "serve", json=json), port=port, host=host
        )


def submit(
    run: Annotated[Path, typer.Argument(help="A run folder whose network is trained: VOC's classes.", callback=is_run)],
    *,
    out: Annotated[str, typer.Option(metavar="FILE|URL", help="The archive, for instance results.tgz.")],
    root: Root = None,
    split: Annotated[str, typer.Option(help="The list that is predicted.")] = "test",
    network: Network = None,
    clip: OwnEncoder = "",
    json: Json = False,
) -> None:
    """Predict VOC's test images with a run's network and pack them for the evaluation server (competition 6)."""
    from weakclip.tools.submit.predictions import submit as make

    answer(
        lambda: at_place(
            out,
            lambda file: make(run, file, split=split, root=root, network=named(network), clip=encoder_of(clip)),
        ),
        json=json,
        record=lambda count: {"file": out, "split": split, "masks": count},
        show=lambda count: typer.echo(f"{out}: {count:,} masks of {split}, checked"),
    )


def _announce(what: str, address: str, *, json: bool) -> None:
    print_json({"address": address}) if json else typer.echo(f"{what}: {address} (Ctrl-C ends it)")


def _show_score(score: RunScore) -> None:
    """Print a score with all that it needs to be compared."""
    from weakclip.report.figures import percent

    row = score.scores
    for each in (row, score.labelled):
        if each is not None:
            typer.echo(f"{each.subject}: {percent(each.mean_iou)} % mIoU on {each.split}, {each.images:,} images")
    typer.echo(f"only classes of the image-level labels: {'yes' if score.labels else 'no'}")
    typer.echo(f"dense CRF: {row.crf}\nmulti-scale: {row.multi_scale}")
    if score.truth:
        typer.echo(f"true masks: {score.truth}")


def _show_review(stats: ReviewStats) -> None:
    """Print the marks of each reviewer, by mark and by day, and how far two of them agree."""
    typer.echo(f"{stats.images:,} images are marked")
    for each in stats.reviewers:
        verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in each.verdicts.items())
        days = ", ".join(f"{day} {count:,}" for day, count in each.days.items())
        typer.echo(f"{one_line(each.name)}: {each.marks:,} marks ({verdicts}); by day: {days}")
    for pair in stats.pairs:
        first, second = map(one_line, pair.reviewers)
        kappa = "" if pair.kappa is None else f", Cohen's kappa {pair.kappa:.2f}"
        share = f"{pair.agreed:,} of {pair.images:,} images ({100 * pair.agreed / pair.images:.0f} %)"
        typer.echo(f"{first} and {second} agree on {share}{kappa}")
        if pair.differing:
            typer.echo(f"  they differ on {some(pair.differing, SHOWN, more=', … (--json lists all)')}")
    if stats.torn:
        typer.echo(f"{stats.torn:,} lines cannot be read and were passed over")
