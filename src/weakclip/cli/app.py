"""The command line. Heavy imports stand inside the commands, so that `weakclip --help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakclip import __version__
from weakclip.cli import exchange, output, results, tools
from weakclip.cli.options import (
    Config,
    Devices,
    Engine,
    EngineName,
    Json,
    Limit,
    Out,
    Part,
    Redo,
    Set,
    load,
    log_to_stderr,
    one_way,
    shared,
)
from weakclip.errors import WeakCLIPError
from weakclip.store.files import expand_home
from weakclip.store.untrusted_text import one_line

if TYPE_CHECKING:
    from weakclip.config import RunConfig

app = typer.Typer(
    name="weakclip",
    help="Images with image-level labels in, pixel masks and a segmentation network out, with a frozen CLIP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(tools.study, name="study")
app.add_typer(exchange.export, name="export")
app.add_typer(tools.data, name="data")

STAGES = {
    "seeds": "Stage 1: class activation maps and seed masks from the frozen CLIP, or from elsewhere.",
    "train": "Stage 2: train WeakCLIP on the seeds.",
    "pseudo_masks": "Stage 3: pixel masks of the training images from the trained WeakCLIP.",
    "retrain": "Stage 4: train an ordinary segmentation network on the pseudo masks.",
    "evaluate": "Stage 5: score seeds and pseudo masks on the training split, the network on the validation split.",
}
SHARDED = ("seeds", "pseudo_masks")


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
    devices: Devices = "1",
    redo: Redo = False,
    limit_steps: Limit = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Do the whole job: seeds, training, pseudo masks, retraining, evaluation, report."""
    from weakclip.pipeline import RunResult, run_pipeline

    def work() -> RunResult:
        settings = load(config, set_, limit_steps)
        return shared(devices, partial(run_pipeline, settings, out, full=full, redo=redo), settings.device)

    output.answer_run(work, json=json)


def _stage(stage: str) -> Callable[..., None]:
    def command(
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
        _whole(stage, read, out, devices=devices, redo=redo, json=json, engine=EngineName.LOCAL)

    return command


def _whole(
    stage: str, read: Callable[[], RunConfig], out: Out, *, devices: Devices, redo: Redo, json: Json, engine: Engine
) -> None:
    """All of a stage."""
    from weakclip.pipeline import RunResult, run_stage

    def work() -> RunResult:
        one_way("", devices, engine)
        settings = read()
        return shared(devices, partial(run_stage, settings, out, stage, redo=redo), settings.device, engine)

    output.answer_run(work, json=json)


def _sharded(stage: str) -> Callable[..., None]:
    def command(
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
            _whole(stage, read, out, devices=devices, redo=redo, json=json, engine=engine)
            return
        from weakclip.pipeline.shards import ShardResult, run_shard
        from weakclip.store.share import Shard

        def work() -> ShardResult:
            one_way(shard, devices, engine)
            return run_shard(read(), out, stage, Shard.read(shard, expand_home(out)), redo=redo)

        output.answer(work, json=json, record=asdict, show=output.show_shard)

    return command


for stage, purpose in STAGES.items():
    app.command(stage.replace("_", "-"), help=purpose)(_sharded(stage) if stage in SHARDED else _stage(stage))


@app.command("config")
def show_config(config: Config, set_: Set = None, json: Json = False) -> None:
    """Check a configuration and print all of it, with where each value comes from: `weakclip config voc12 > mine.yaml`
    is one to start from."""
    from weakclip.config import explain_config
    from weakclip.store.keys import plain

    output.answer(
        lambda: (load(config, set_), explain_config(config, set_ or ())),
        json=json,
        record=lambda read: {"config": plain(read[0])},
        show=lambda read: typer.echo(read[1], nl=False),
    )


@app.command()
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
        show=lambda made: typer.echo("\n".join(plan_lines(made))),
    )


for command in (
    results.report,
    results.score,
    results.review,
    results.serve,
    exchange.predict,
    exchange.merge,
    results.submit,
    tools.init,
    tools.tag,
    tools.crf,
):
    app.command()(command)
app.command("import")(exchange.import_command)


def main() -> None:
    """Run the command line: what the user can correct is one line on standard error and exit code 2."""
    log_to_stderr()
    try:
        app()
    except WeakCLIPError as error:
        typer.echo(f"weakclip: {one_line(str(error))}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
