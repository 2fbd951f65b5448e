"""The command line: every command by its name. Heavy imports stand inside the commands, so that `--help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from weakclip import __version__
from weakclip.cli import exchange, prepare, run
from weakclip.cli.output import log_to_stderr
from weakclip.errors import WeakCLIPError
from weakclip.store.untrusted_text import one_line

__all__ = ["app", "main"]

app = typer.Typer(
    name="weakclip",
    help="Images with image-level labels in, pixel masks and a segmentation network out, with a frozen CLIP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(prepare.study, name="study")
app.add_typer(exchange.export, name="export")
app.add_typer(prepare.data, name="data")


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


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    **{stage.replace("_", "-"): run.stage_command(stage) for stage in run.STAGES},
    "config": run.show_config,
    "plan": run.plan,
    "report": run.report,
    "score": run.score,
    "review": run.review,
    "serve": run.serve,
    "predict": exchange.predict,
    "merge": run.merge,
    "submit": exchange.submit,
    "init": prepare.init,
    "tag": prepare.tag,
    "crf": exchange.crf,
    "import": exchange.import_masks,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Run the command line: what the user can correct is one line on standard error and exit code 2."""
    log_to_stderr()
    try:
        app()
    except WeakCLIPError as error:
        typer.echo(f"weakclip: {one_line(str(error))}", err=True)
        sys.exit(2)
