"""The commands of one run: its configuration, its plan, its stages, and what looks at its folder afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakclip.cli import output
from weakclip.cli.options import (
    Config,
    Devices,
    Engine,
    EngineName,
    Json,
    Limit,
    Out,
    OwnEncoder,
    Part,
    Redo,
    Run,
    Set,
    encoder_of,
    is_reported_run,
    is_run,
    is_there,
    load,
    one_way,
    shared,
)
from weakclip.store.files import expand_home
from weakclip.store.layout import MANIFEST
from weakclip.store.paths import check_run
from weakclip.store.remote import folder_at, is_url
from weakclip.store.trees import AnyPath

if TYPE_CHECKING:
    from weakclip.config import RunConfig
    from weakclip.pipeline import RunResult
    from weakclip.pipeline.shards import ShardResult

STAGES = {
    "seeds": "Stage 1: class activation maps and seed masks from the frozen CLIP, or from elsewhere.",
    "train": "Stage 2: train WeakCLIP on the seeds.",
    "pseudo_masks": "Stage 3: pixel masks of the training images from the trained WeakCLIP.",
    "retrain": "Stage 4: train an ordinary segmentation network on the pseudo masks.",
    "evaluate": "Stage 5: score seeds and pseudo masks on the training split, the network on the validation split.",
}
SHARDED = ("seeds", "pseudo_masks")
Scored = StrEnum("Scored", ["seeds", "masks"])

MaskedRun = Annotated[Path, typer.Argument(help="A run folder with masks in it.", callback=is_run)]
Host = Annotated[str, typer.Option(help="Listen on another address than this machine's own.")]


def show_config(config: Config, set_: Set = None, json: Json = False) -> None:
    """Check a configuration and print all of it, with where each value comes from: `weakclip config voc12 > mine.yaml`
    is one to start from."""
    from weakclip.config import explain_config
    from weakclip.store.keys import plain

    output.answer(
        lambda: (load(config, set_), explain_config(config, set_ or ())),
        json=json,
        record=lambda read: {"config": plain(read[0])},
        lines=lambda read: read[1].removesuffix("\n"),
    )


def plan(
    config: Config,
    *,
    images: Annotated[float | None, typer.Option(min=1, help="Training images, as 1e9; else the data set's.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Devices; of rates of a CPU, processes.")] = 1,
    cores: Annotated[
        float | None, typer.Option(help="Cores of each, 0.5 where two share one; else those that were measured with.")
    ] = None,
    rates: Annotated[Path, typer.Option(help="The file of rates.")] = Path("rates.json"),
    measure: Annotated[bool, typer.Option("--measure", help="Measure the rates here first, and write them.")] = False,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Time, devices, cores, storage and traffic of a run, from rates of its parts measured on this machine."""
    from weakclip.study.plan_pages import plan_lines, plan_record, planned

    output.answer(
        lambda: planned(load(config, set_), rates, images=images, gpus=gpus, cores=cores, measure=measure),
        json=json,
        record=plan_record,
        lines=plan_lines,
    )


def run(
    config: Config,
    out: Out,
    *,
    full: Annotated[bool, typer.Option("--full", help="Also train on the true masks, as an upper bound.")] = False,
    devices: Devices = "1",
    redo: Redo = False,
    limit_steps: Limit = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Do the whole job: seeds, training, pseudo masks, retraining, evaluation, report."""
    from weakclip.pipeline import run_pipeline

    def work() -> RunResult:
        settings = load(config, set_, limit_steps)
        return shared(devices, partial(run_pipeline, settings, out, full=full, redo=redo), settings.device)

    output.answer_run(work, json=json)


def stage_command(stage: str) -> Callable[..., None]:
    """The command of a stage. A stage whose images can be shared has two more options."""

    def whole(
        config: Config,
        out: Out,
        *,
        devices: Devices = "1",
        redo: Redo = False,
        limit_steps: Limit = None,
        set_: Set = None,
        json: Json = False,
    ) -> None:
        read = partial(load, config, set_, limit_steps)
        _run_stage(stage, read, out, devices=devices, redo=redo, json=json, engine=EngineName.LOCAL)

    def sharded(
        config: Config,
        out: Out,
        *,
        engine: Engine = EngineName.LOCAL,
        shard: Part = "",
        devices: Devices = "1",
        redo: Redo = False,
        limit_steps: Limit = None,
        set_: Set = None,
        json: Json = False,
    ) -> None:
        read = partial(load, config, set_, limit_steps)
        if not shard:
            _run_stage(stage, read, out, devices=devices, redo=redo, json=json, engine=engine)
            return
        from weakclip.pipeline.shards import run_shard
        from weakclip.store.share import Shard

        def work() -> ShardResult:
            one_way(shard, devices, engine)
            return run_shard(read(), out, stage, Shard.read(shard, expand_home(out)), redo=redo)

        output.answer_shard(work, json=json)

    command = sharded if stage in SHARDED else whole
    command.__doc__ = STAGES[stage]
    return command


def _run_stage(
    stage: str, read: Callable[[], RunConfig], out: Out, *, devices: Devices, redo: Redo, json: Json, engine: Engine
) -> None:
    """Do all of a stage."""
    from weakclip.pipeline import run_stage

    def work() -> RunResult:
        one_way("", devices, engine)
        settings = read()
        return shared(devices, partial(run_stage, settings, out, stage, redo=redo), settings.device, engine)

    output.answer_run(work, json=json)


def merge(
    made: Annotated[str, typer.Argument(help="A run, a folder of predictions, a table of labels; or its URL.")],
    json: Json = False,
) -> None:
    """Complete what was made with --shard, when all shards are there: exit code 2 if an image is missing."""
    from weakclip.pipeline.shards import merge_shards
    from weakclip.prediction import request
    from weakclip.tools.tag import table

    with output.errors_printed(json=json):
        are_predictions, is_table = request.is_sharded(made), table.is_sharded(made)
    if are_predictions:
        output.answer_predictions(lambda: request.merge_predictions(made), json=json)
    elif is_table:
        output.answer_tagging(lambda: table.merge_labels(made), made, folder_at(made).parent, json=json)
    else:
        output.answer_shard(lambda: merge_shards(made), json=json)


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

    output.answer(
        work,
        json=json,
        record=lambda made: {"report": made[0], "warnings": made[1]},
        lines=lambda made: [*output.warning_lines(made[1]), str(made[0])],
    )


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
    from weakclip.tools.score.run_scores import score_lines, score_run

    output.answer(
        lambda: score_run(
            run, "seeds" if what == Scored.seeds else "masks", split=split, labels=labels, clip=encoder_of(clip)
        ),
        json=json,
        record=asdict,
        lines=score_lines,
    )


def review(
    run: MaskedRun,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    host: Host = "127.0.0.1",
    reviewer: Annotated[str, typer.Option(help="The name that marks carry; the login name where left out.")] = "",
    stats: Annotated[bool, typer.Option("--stats", help="Print who has marked how much, and how far they agree.")] = (
        False
    ),
    json: Json = False,
) -> None:
    """Look at the masks of a run in a browser and mark them good, verified, bad or relabelled, for `run --redo`."""
    if stats:
        from weakclip.review.stats import review_stats, stats_lines

        output.answer(lambda: review_stats(run), json=json, record=asdict, lines=stats_lines)
        return
    from weakclip.review.serving import serve

    def announce(address: str) -> None:
        _announce("review", address, json=json)
        if open_:
            typer.launch(address)

    _warn_of_network(host, "the images and mark them")
    with output.errors_printed(json=json):
        serve(run, announce=announce, port=port, host=host, reviewer=reviewer)


def serve(
    run: MaskedRun,
    *,
    images: Annotated[Path | None, typer.Option(help="A folder of further images.", callback=is_there)] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 9090,
    host: Host = "127.0.0.1",
    json: Json = False,
) -> None:
    """Be a model for Label Studio and CVAT: tasks get the run's masks; what Label Studio sends back is verified."""
    from weakclip.review.serving import serve_ml_backend

    _warn_of_network(host, "masks and correct them")
    with output.errors_printed(json=json):
        serve_ml_backend(run, images=images, announce=partial(_announce, "serve", json=json), port=port, host=host)


def _warn_of_network(host: str, deed: str) -> None:
    from weakclip.review.guard import is_loopback

    if not is_loopback(host):
        typer.echo(f"weakclip: whoever reaches {host} over the network can see {deed}", err=True)


def _announce(what: str, address: str, *, json: bool) -> None:
    output.print_json({"address": address}) if json else typer.echo(f"{what}: {address} (Ctrl-C ends it)")
