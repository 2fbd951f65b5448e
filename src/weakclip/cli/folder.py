"""The commands for a folder of one's own images: `weakclip init` and `weakclip tag`. Heavy imports stand inside."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from weakclip.cli.parts import finished

SHOWN = 20
"""Classes, and images to look at, that are named one by one."""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]


def init(
    folder: Folder,
    *,
    out: Annotated[Path | None, typer.Option(help="The configuration; DIR's name and .yaml where left out.")] = None,
    clip: Annotated[str, typer.Option(help="Hub id, folder, OpenAI .pt archive, or demo.")] = "",
    labels: Annotated[Path | None, typer.Option(help="The table of labels, where it is not in DIR.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Look at a folder of images, and write a commented configuration and class file for it."""
    from weakclip.tools.init.folder import DEFAULT_CLIP, write_start

    out = out or Path(f"{folder.resolve().name or 'images'}.yaml")
    start = write_start(folder, out, clip=clip or DEFAULT_CLIP, label_file=labels, overwrite=overwrite)
    survey = start.survey
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
    written = [start.config, *([start.class_file] if start.class_file else [])]
    typer.echo(f"written: {', '.join(map(str, written))}")
    typer.echo(f"next: weakclip data check {shlex.quote(str(start.config))}")


def tag(
    folder: Folder,
    *,
    classes: Annotated[
        list[str] | None, typer.Option(help="Class names with commas between; may be given repeatedly.")
    ] = None,
    class_file: Annotated[
        Path | None, typer.Option(help="Or a class file; DIR/classes.yaml is found by itself.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The table; labels.csv in DIR where left out.")] = None,
    clip: Annotated[str, typer.Option(help="Hub id, folder, OpenAI .pt archive, or demo.")] = "",
    threshold: Annotated[float, typer.Option(help="A class is proposed from this score on, 0 to 1.")] = 0.05,
    device: Annotated[str, typer.Option(help="A torch device; auto takes an accelerator where there is one.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Propose labels for untagged images with CLIP, in a table for you to correct."""
    from weakclip.tools.tag.run import TagRequest, tag_folder

    request = TagRequest(
        folder=folder,
        out=out or folder / "labels.csv",
        names=tuple(name.strip() for part in classes or () for name in part.split(",") if name.strip()),
        class_file=class_file,
        clip=clip or None,
        threshold=threshold,
        device=device,
        overwrite=overwrite,
    )
    result = finished(lambda: tag_folder(request))
    counts = sorted(result.classes.items(), key=lambda pair: -pair[1])
    typer.echo(f"{result.path}: {result.images:,} images")
    typer.echo("proposed: " + ", ".join(f"{name} ({count:,})" for name, count in counts[:SHOWN]))
    if result.unsure:
        some = ", ".join(result.unsure[:SHOWN]) + (", …" if len(result.unsure) > SHOWN else "")
        typer.echo(
            f"{len(result.unsure):,} images have no class at or above {threshold:g} and got their best one; "
            f"the column `check` marks them: {some}"
        )
    for line in result.unread[:SHOWN]:
        typer.echo(f"left out: {line}", err=True)
    if len(result.unread) > SHOWN:
        typer.echo(f"left out: {len(result.unread) - SHOWN:,} more that cannot be read", err=True)
    for note in result.notes:
        typer.echo(f"note: {note}")
    labels = "" if result.path == folder / "labels.csv" else f" --labels {shlex.quote(str(result.path))}"
    typer.echo(f"next: correct the column `labels`, then weakclip init {shlex.quote(str(folder))}{labels}")
