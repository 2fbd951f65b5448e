"""The command line. Heavy imports stand inside the commands, so that `weakclip --help` answers at once."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weakclip import __version__
from weakclip.cli import exchange, stages, tools
from weakclip.cli.checks import are_inputs, is_file, is_model, is_reported_run, is_run
from weakclip.cli.json_output import errors_printed, print_json
from weakclip.cli.options import Config, Json, Limit, Network, OwnEncoder, Set, encoder_of, load, named
from weakclip.cli.output import (
    answer,
    answer_report,
    answer_run,
    show_review,
    show_score,
)
from weakclip.cli.stages import Out, Redo
from weakclip.cli.study import study
from weakclip.errors import WeakCLIPError
from weakclip.store.untrusted_text import one_line

if TYPE_CHECKING:
    from weakclip.prediction import PredictionSummary, Products

app = typer.Typer(
    name="weakclip",
    help="Images with image-level labels in, pixel masks and a segmentation network out, with a frozen CLIP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(study, name="study")
app.add_typer(exchange.export, name="export")
app.add_typer(tools.data, name="data")

Product = StrEnum("Product", ["overlays", "coco-masks", "coco-polygons"])
Scored = StrEnum("Scored", ["seeds", "masks"])
SETTINGS = "inference.…, crf.…, match_share, keep_foreground, balance, temperature, or device"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"weakclip {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def run(
    config: Config,
    out: Out,
    *,
    full: Annotated[bool, typer.Option("--full", help="Also train on the true masks, as an upper bound.")] = False,
    redo: Redo = False,
    limit_steps: Limit = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Do the whole job: seeds, training, pseudo masks, retraining, evaluation, report."""
    from weakclip.pipeline import run_pipeline

    answer_run(lambda: run_pipeline(load(config, set_, limit_steps), out, full=full, redo=redo), json=json)


for name, command in stages.commands().items():
    app.command(name, help=stages.PURPOSES.get(name))(command)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.", callback=is_reported_run)], json: Json = False
) -> None:
    """Write report.html of a run folder anew."""
    from weakclip.report import read_run, write_report

    answer_report(lambda: (write_report(folder), read_run(folder).warnings), json=json)


@app.command()
def score(
    what: Annotated[Scored, typer.Argument(help="Of the run, what is scored.")],
    run: Annotated[Path, typer.Argument(help="A run folder.", callback=is_run)],
    *,
    split: Annotated[str | None, typer.Option(help="A split of its data set, as VOC's train; else its own.")] = None,
    labels: Annotated[
        bool | None,
        typer.Option(help="Masks with, or without, the image-level labels; else as the run has made them."),
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
        show=show_score,
    )


@app.command("config")
def show_config(config: Config, set_: Set = None, json: Json = False) -> None:
    """Check a configuration and print all of it, with where each value comes from: `weakclip config voc12 > mine.yaml`
    is one to start from."""
    from weakclip.config import explain_config
    from weakclip.store.keys import plain

    answer(
        lambda: (load(config, set_), explain_config(config, set_ or ())),
        json=json,
        record=lambda read: {"config": plain(read[0])},
        show=lambda read: typer.echo(read[1], nl=False),
    )


@app.command()
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

        answer(lambda: review_stats(run), json=json, record=asdict, show=show_review)
        return
    from weakclip.review.guard import is_loopback
    from weakclip.review.serving import serve

    if not is_loopback(host):
        typer.echo(f"weakclip: whoever reaches {host} over the network can see the images and mark them", err=True)

    def announce(address: str) -> None:
        if json:
            print_json({"address": address})
        else:
            typer.echo(f"review: {address} (Ctrl-C ends it)")
        if open_:
            typer.launch(address)

    with errors_printed(json=json):
        serve(run, announce=announce, port=port, host=host, reviewer=reviewer)


@app.command()
def predict(
    model: Annotated[
        Path,
        typer.Argument(help="A run, a folder of a network, or a released WeakCLIP checkpoint.", callback=is_model),
    ],
    images: Annotated[
        list[str],
        typer.Argument(help="Images, folders, patterns, or - for a list on standard input.", callback=are_inputs),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The folder of the masks; one that is there already is continued.")],
    also: Annotated[list[Product] | None, typer.Option(help="What else is written; may be given repeatedly.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A labels.csv: only its classes are drawn.", callback=is_file)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=f"Change a setting: {SETTINGS}.")
    ] = None,
    network: Network = None,
    clip: OwnEncoder = "",
    redo: Annotated[bool, typer.Option("--redo", help="Replace what was made otherwise.")] = False,
    json: Json = False,
) -> None:
    """Make masks of any images with a trained network: exit code 0, or 1 if some images got no mask."""
    from weakclip.config import changed_settings
    from weakclip.prediction import find_images, find_model, load_predictor, predict_files
    from weakclip.prediction.folder import ERRORS
    from weakclip.prediction.labels import read_labels
    from weakclip.prediction.predictor import default_settings

    def work() -> PredictionSummary:
        source = find_model(model, network=named(network))
        settings = changed_settings(default_settings(source), set_ or [], origin=str(model))
        found = find_images(images, listed=sys.stdin, leave_out=out)
        told = None if labels is None else read_labels(labels, found)
        predictor = load_predictor(source, settings=settings, clip=encoder_of(clip))
        made, key = _products(also or []), source.fingerprint
        return predict_files(predictor, found, out, fingerprint=key, products=made, labels=told, redo=redo)

    def record(done: PredictionSummary) -> dict[str, Any]:
        counts = {name: getattr(done, name) for name in ("images", "predicted", "kept", "failed")}
        return {"folder": done.out, **counts, "errors": done.out / ERRORS if done.failed else None}

    def show(done: PredictionSummary) -> None:
        typer.echo(f"{out}: {done.predicted:,} predicted, {done.kept:,} done before, {done.failed:,} failed")

    summary = answer(work, json=json, record=record, show=show)
    if summary.failed:
        typer.echo(f"weakclip: {summary.failed:,} images have no mask; {out / ERRORS} says why", err=True)
        raise typer.Exit(1)


def _products(also: list[Product]) -> Products:
    from weakclip.annotations import Shapes
    from weakclip.prediction import Products

    kinds = {"coco-masks": Shapes(kind="masks"), "coco-polygons": Shapes(kind="polygons")}
    coco = tuple(shapes for product, shapes in kinds.items() if product in also)
    return Products(overlays="overlays" in also, coco=coco)


for command in (tools.init, tools.tag, tools.crf, exchange.submit):
    app.command()(command)
app.command("import")(exchange.import_command)


def main() -> None:
    """Run the command line: what the user can correct is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("weakclip").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # its retries; what failed is said in one line
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one bar at a time, ours; transformers follows it too
    try:
        app()
    except WeakCLIPError as error:
        typer.echo(f"weakclip: {one_line(str(error))}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
