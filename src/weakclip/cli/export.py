"""The commands `weakclip export …` and `weakclip import`."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from weakclip.cli.parts import NetworkOption, OwnEncoder, finished, named

export = typer.Typer(no_args_is_help=True, help="Bring what a run has made into the forms of other programs.")

Run = Annotated[Path, typer.Argument(help="A run folder.")]
Model = Annotated[Path, typer.Argument(help="A run folder, or the folder of a segmentation network.")]


class Tool(StrEnum):
    """Formats of annotation tools."""

    COCO = "coco"
    LABEL_STUDIO = "label-studio"
    CVAT = "cvat"


class ShapeKind(StrEnum):
    """What regions are written as."""

    MASKS = "masks"
    POLYGONS = "polygons"


@export.command("onnx")
def onnx(
    model: Model,
    out: Annotated[Path, typer.Option(help="The .onnx file.")],
    network: NetworkOption = None,
    clip: OwnEncoder = "",
) -> None:
    """Write a network as ONNX: uint8 images of any size in, logits of that size out."""
    from weakclip.clip import load_encoder
    from weakclip.tools.export import export_onnx

    encoder = load_encoder(clip) if clip else None
    made = finished(lambda: export_onnx(model, out, network=named(network), clip=encoder))
    typer.echo(f"{out}: opset {made.opset}; differs from PyTorch by {made.difference:.1g} of the largest logit")


@export.command("transformers")
def transformers(
    model: Model,
    out: Annotated[Path, typer.Option(help="A new folder.")],
    network: NetworkOption = None,
) -> None:
    """Write a network for `AutoModelForSemanticSegmentation.from_pretrained`; WeakCLIP is none that it knows."""
    from weakclip.tools.export import export_transformers

    names = finished(lambda: export_transformers(model, out, network=named(network)))
    typer.echo(f"{out}: {len(names)} classes: {', '.join(names)}")


@export.command("masks")
def masks(
    run: Run,
    *,
    tool: Annotated[Tool, typer.Option("--format", help="The tool that the file is for.")],
    out: Annotated[Path, typer.Option(help="The file: .json, for CVAT .xml.")],
    shapes: Annotated[ShapeKind, typer.Option(help="Exact masks, or polygons, which are easier to bend.")] = (
        ShapeKind.MASKS
    ),
    tolerance: Annotated[float, typer.Option(min=0, help="How far polygons may stray from the outline, pixels.")] = 1.0,
    image_prefix: Annotated[
        str, typer.Option(help="Label Studio: what makes an image's address of its file name.")
    ] = "/data/local-files/?d=",
) -> None:
    """Write the pseudo masks of a run for an annotation tool; `weakclip import` reads them back, corrected."""
    from weakclip.annotations import Shapes
    from weakclip.tools.annotate import export_masks

    written = Shapes(kind=shapes.value, tolerance=tolerance)
    count = finished(lambda: export_masks(run, out, tool.value, written, image_prefix=image_prefix))
    typer.echo(f"{out}: {count:,} images")


def import_command(
    source: Annotated[Path, typer.Argument(help="The annotation file: JSON of COCO or Label Studio, XML of CVAT.")],
    *,
    run: Annotated[Path, typer.Option(help="The run folder whose masks were exported.")],
    out: Annotated[Path, typer.Option(help="The folder that gets one palette PNG an image.")],
) -> None:
    """Read masks that people corrected back in, as seeds for `seeds.method: imported_masks`."""
    from weakclip.store.marks import MARKS
    from weakclip.tools.annotate import import_masks

    result = finished(lambda: import_masks(source, run, out))
    typer.echo(f"{out}: {result.drawn:,} masks of {source}, {result.kept:,} as {run} had them")
    if result.foreign:
        typer.echo(f"{source}: {result.foreign:,} images are not of {run}; left out")
    changes = ["seeds.method=imported_masks", f"seeds.folder={out}"]
    if (run / MARKS).is_file():
        changes.append(f"data.marks={run / MARKS}")  # the labels that a review has corrected
    words = [
        run / "config.yaml",
        *(word for change in changes for word in ("--set", change)),
        "--out",
        f"runs/{out.name}",
    ]
    typer.echo(f"next: weakclip run {shlex.join(map(str, words))}")
