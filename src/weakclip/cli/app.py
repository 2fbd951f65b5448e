"""The command line. Heavy imports stand inside the commands, so that `weakclip --help` answers at once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakclip import __version__
from weakclip.cli.export import export, import_command
from weakclip.cli.export_dataset import export_dataset
from weakclip.cli.folder import init, tag
from weakclip.cli.json_output import Json, answer, run_record
from weakclip.cli.parts import Config, Limit, NetworkOption, OwnEncoder, Set, finished, load, load_data, named
from weakclip.cli.predict import predict
from weakclip.cli.review import review
from weakclip.cli.study import study
from weakclip.errors import WeakCLIPError
from weakclip.store.untrusted_text import one_line

if TYPE_CHECKING:
    from weakclip.pipeline import RunResult
    from weakclip.tools.check.run import DataCheck

app = typer.Typer(
    name="weakclip",
    help="Images with image-level labels in, pixel masks and a segmentation network out, with a frozen CLIP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(study, name="study")
app.command("init")(init)
app.command("tag")(tag)
app.command()(review)
export.command("dataset")(export_dataset)
app.add_typer(export, name="export")
app.command("import")(import_command)
app.command("predict")(predict)
data = typer.Typer(no_args_is_help=True, help="Look at the images, labels and masks before anything is made of them.")
app.add_typer(data, name="data")

Out = Annotated[Path, typer.Option(help="The run folder; a run that is there already is continued.")]
Redo = Annotated[
    bool,
    typer.Option("--redo", help="Make finished results again where settings or data changed; the old stay until then."),
]


class Preset(StrEnum):
    """Kernels of the dense CRF by name, as in `weakclip.crf.params.PRESETS`."""

    VOC = "voc"
    COCO = "coco"
    LOSS = "loss"


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

    _answer(lambda: run_pipeline(load(config, set_, limit_steps), out, full=full, redo=redo), json=json)


@app.command()
def seeds(
    config: Config, out: Out, *, redo: Redo = False, limit_steps: Limit = None, set_: Set = None, json: Json = False
) -> None:
    """Stage 1: class activation maps and seed masks from the frozen CLIP, or from elsewhere."""
    _one_stage("seeds", config, out, set_, limit_steps, redo=redo, json=json)


@app.command()
def train(
    config: Config, out: Out, *, redo: Redo = False, limit_steps: Limit = None, set_: Set = None, json: Json = False
) -> None:
    """Stage 2: train WeakCLIP on the seeds."""
    _one_stage("train", config, out, set_, limit_steps, redo=redo, json=json)


@app.command()
def pseudo_masks(
    config: Config, out: Out, *, redo: Redo = False, limit_steps: Limit = None, set_: Set = None, json: Json = False
) -> None:
    """Stage 3: pixel masks of the training images from the trained WeakCLIP."""
    _one_stage("pseudo_masks", config, out, set_, limit_steps, redo=redo, json=json)


@app.command()
def retrain(
    config: Config, out: Out, *, redo: Redo = False, limit_steps: Limit = None, set_: Set = None, json: Json = False
) -> None:
    """Stage 4: train an ordinary segmentation network on the pseudo masks."""
    _one_stage("retrain", config, out, set_, limit_steps, redo=redo, json=json)


@app.command()
def evaluate(
    config: Config, out: Out, *, redo: Redo = False, limit_steps: Limit = None, set_: Set = None, json: Json = False
) -> None:
    """Stage 5: score seeds and pseudo masks on the training split, the network on the validation split."""
    _one_stage("evaluate", config, out, set_, limit_steps, redo=redo, json=json)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], json: Json = False) -> None:
    """Write report.html of a run folder anew."""
    from weakclip.report import write_report

    answer(lambda: write_report(folder), json=json, record=lambda path: {"report": path}, show=typer.echo)


@app.command()
def crf(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    probs: Annotated[Path, typer.Argument(help="Its label probabilities (K, H, W): .npy, or .npz.")],
    out: Annotated[Path, typer.Option(help=".npy for the marginals, .png for a palette mask of the likeliest labels.")],
    preset: Annotated[Preset | None, typer.Option(help="Published kernels; voc where nothing is given.")] = None,
    params: Annotated[Path | None, typer.Option(help="A YAML file with the `crf:` section of a configuration.")] = None,
) -> None:
    """Sharpen the label probabilities of one image by the dense CRF."""
    from weakclip.config import load_crf
    from weakclip.crf.files import crf_file
    from weakclip.crf.params import PRESETS
    from weakclip.errors import ConfigError

    if preset and params:
        raise ConfigError("--preset and --params both name kernels; give one of them")
    crf_file(image, probs, out, load_crf(params) if params else PRESETS[preset or Preset.VOC])
    typer.echo(out)


@app.command()
def submit(
    run: Annotated[Path, typer.Argument(help="A run folder whose network is trained: VOC's classes.")],
    *,
    out: Annotated[Path, typer.Option(help="The archive, for instance results.tgz.")],
    root: Annotated[str | None, typer.Option(help="Another VOC2012 folder than the run's own.")] = None,
    split: Annotated[str, typer.Option(help="The list that is predicted.")] = "test",
    network: NetworkOption = None,
    clip: OwnEncoder = "",
) -> None:
    """Predict VOC's test images with a run's network and pack them for the evaluation server (competition 6)."""
    from weakclip.clip import load_encoder
    from weakclip.tools.submit.predictions import submit as make

    def work() -> int:
        encoder = load_encoder(clip) if clip else None
        return make(run, out, split=split, root=root, network=named(network), clip=encoder)

    count = finished(work)
    typer.echo(f"{out}: {count:,} masks of {split}, checked")


@data.command("check")
def data_check(
    config: Annotated[str, typer.Argument(help="A configuration as for `run`, or a folder of images.")],
    split: Annotated[
        list[str] | None,
        typer.Option(help="A split to check, may be given repeatedly; else the configuration's."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write everything that was found to this file, as JSON.")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Read every image, label and mask of a data set, and say what is wrong: exit code 0 if nothing is, 1 otherwise."""
    from weakclip.tools.check.run import check_data, check_record, write_check

    def work() -> DataCheck:
        check = check_data(load_data(config, set_).data, split or ())
        if out:
            write_check(out, check)
        return check

    check = answer(work, json=json, record=check_record, show=_show_check)
    raise typer.Exit(1 if check.findings else 0)


@app.command("config")
def show_config(config: Config, set_: Set = None) -> None:
    """Check a configuration and print all of it, with where each value comes from: `weakclip config voc12 > mine.yaml`
    is one to start from."""
    from weakclip.config import explain_config

    typer.echo(explain_config(config, set_ or ()), nl=False)


def _one_stage(
    stage: str,
    source: str,
    out: Path,
    overrides: Sequence[str] | None,
    limit_steps: int | None,
    *,
    redo: bool,
    json: bool,
) -> None:
    from weakclip.pipeline import run_stage

    _answer(lambda: run_stage(load(source, overrides, limit_steps), out, stage, redo=redo), json=json)


def _answer(work: Callable[[], RunResult], *, json: bool) -> None:
    answer(work, json=json, record=run_record, show=_show)


def _show_check(check: DataCheck) -> None:
    """The tables and findings of a data check, for people."""
    from rich.console import Console

    from weakclip.tools.check.run import finding_lines, tables

    console = Console(highlight=False)
    for table in tables(check):
        console.print(table)
    for each in check.splits:
        for note in each.notes:
            typer.echo(f"{each.split}: {note}")
    for line in finding_lines(check):
        typer.echo(line)
    typer.echo(f"findings: {len(check.findings):,}")


def _show(result: RunResult) -> None:
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
        console.print(f"left out: {result.left_out:,}; {result.folder / 'errors.jsonl'} lists them", soft_wrap=True)
    for line in result.warnings:
        console.print(f"warning: {one_line(line)}", soft_wrap=True, markup=False)
    console.print(f"report: {result.report}", soft_wrap=True)


def main() -> None:
    """Run the command line: what the user can mend is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("weakclip").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # its retries; what failed is said in one line
    try:
        app()
    except WeakCLIPError as error:
        typer.echo(f"weakclip: {one_line(str(error))}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
