"""The command `weakclip export dataset`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from weakclip.cli.json_output import Json, answer


def export_dataset(
    run: Annotated[Path, typer.Argument(help="A run folder whose pseudo masks are made.")],
    out: Annotated[Path, typer.Option(help="The folder; an export that is there already is continued.")],
    root: Annotated[str | None, typer.Option(help="Another folder of the data set than the run's own.")] = None,
    json: Json = False,
) -> None:
    """Write images, pseudo masks and labels as a folder that Hugging Face `datasets.load_dataset` reads."""
    from weakclip.tools.export.hf_dataset import export_hf_dataset

    answer(
        lambda: export_hf_dataset(run, out, root=root),
        json=json,
        record=asdict,
        show=lambda made: typer.echo(f"{made.folder}: {made.images:,} images of {made.split}, {made.shards:,} files"),
    )
