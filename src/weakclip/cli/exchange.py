"""The commands that bring what a run has made elsewhere, and back: predictions, exports, imports, archives."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakclip.cli import output
from weakclip.cli.options import (
    Devices,
    Engine,
    EngineName,
    Json,
    Model,
    Network,
    OwnEncoder,
    Part,
    Root,
    Run,
    ShardForm,
    are_inputs,
    encoder_of,
    errors_printed,
    is_file,
    is_model,
    is_run,
    is_speaker,
    is_there,
    named,
    one_way,
    shared,
)
from weakclip.cli.output import answer, answer_predictions, answer_tagging, at_place, show_shard, show_verified
from weakclip.store.remote import folder_at

if TYPE_CHECKING:
    from weakclip.prediction import PredictionSummary
    from weakclip.tools.annotate import ImportResult

export = typer.Typer(no_args_is_help=True, help="Bring what a run has made into the forms of other programs.")

SETTINGS = "inference.…, crf.…, match_share, keep_foreground, balance, temperature, or device"
Product = StrEnum("Product", ["overlays", "coco-masks", "coco-polygons"])


class Tool(StrEnum):
    """Formats of annotation tools."""

    COCO = "coco"
    LABEL_STUDIO = "label-studio"
    CVAT = "cvat"
    YOLO = "yolo"
    LABELME = "labelme"
    FIFTYONE = "fiftyone"


class ShapeKind(StrEnum):
    """Forms of a region."""

    MASKS = "masks"
    POLYGONS = "polygons"


@export.command("onnx")
def onnx(
    model: Model,
    out: Annotated[str, typer.Option(metavar="FILE|URL", help="The .onnx file.")],
    network: Network = None,
    clip: OwnEncoder = "",
    json: Json = False,
) -> None:
    """Write a network as ONNX: uint8 images of any size in, logits of that size out."""
    from weakclip.tools.export import export_onnx

    answer(
        lambda: at_place(out, lambda file: export_onnx(model, file, network=named(network), clip=encoder_of(clip))),
        json=json,
        record=lambda made: {"file": out, "opset": made.opset, "difference": made.difference},
        show=lambda made: typer.echo(
            f"{out}: opset {made.opset}; differs from PyTorch by {made.difference:.1g} of the largest logit"
        ),
    )


@export.command("transformers")
def transformers(
    model: Model,
    out: Annotated[str, typer.Option(metavar="FOLDER|URL", help="A new one.")],
    network: Network = None,
    json: Json = False,
) -> None:
    """Write a network for `AutoModelForSemanticSegmentation.from_pretrained`; WeakCLIP is none that it knows."""
    from weakclip.tools.export import export_transformers

    answer(
        lambda: at_place(out, lambda folder: export_transformers(model, folder, network=named(network))),
        json=json,
        record=lambda names: {"folder": out, "classes": names},
        show=lambda names: typer.echo(f"{out}: {len(names)} classes: {', '.join(names)}"),
    )


@export.command("dataset")
def dataset(
    run: Annotated[Path, typer.Argument(help="A run folder whose pseudo masks are made.", callback=is_run)],
    out: Annotated[str, typer.Option(metavar="FOLDER|URL", help="An export that is there already is continued.")],
    form: Annotated[ShardForm, typer.Option("--format", help="Parquet for `datasets`, or tars.")] = ShardForm.PARQUET,
    root: Root = None,
    json: Json = False,
) -> None:
    """Write images, pseudo masks and labels as a folder for Hugging Face `datasets.load_dataset`, or for WebDataset."""
    from weakclip.tools.export.hf_dataset import export_hf_dataset

    answer(
        lambda: export_hf_dataset(run, out, root=root, form=form.value),
        json=json,
        record=asdict,
        show=lambda made: typer.echo(f"{made.folder}: {made.images:,} images of {made.split}, {made.shards:,} files"),
    )


@export.command("masks")
def masks(
    run: Run,
    *,
    tool: Annotated[Tool, typer.Option("--format", help="The tool that the file is for.")],
    out: Annotated[str, typer.Option(metavar="FILE|URL", help="The file (.json, for CVAT .xml), or the new folder.")],
    shapes: Annotated[ShapeKind, typer.Option(help="Exact masks, or polygons, which are easier to bend.")] = (
        ShapeKind.MASKS
    ),
    tolerance: Annotated[float, typer.Option(min=0, help="How far polygons may stray from the outline, pixels.")] = 1.0,
    min_area: Annotated[int, typer.Option(min=0, help="Leave out connected regions of fewer pixels.")] = 0,
    image_prefix: Annotated[
        str, typer.Option(help="Label Studio: what makes an image's address of its file name.")
    ] = "/data/local-files/?d=",
    only: Annotated[
        str, typer.Option(help="bad, unmarked, unverified, worst:N, or several with commas between; all if left out.")
    ] = "",
    json: Json = False,
) -> None:
    """Write the pseudo masks of a run for an annotation tool, the most doubtful first; see `weakclip import`."""
    from weakclip.annotations import Shapes
    from weakclip.tools.annotate import export_masks

    written, conditions = Shapes(kind=shapes.value, tolerance=tolerance), only.split(",") if only else ()
    answer(
        lambda: at_place(
            out,
            lambda place: export_masks(
                run, place, tool.value, written, min_area=min_area, image_prefix=image_prefix, only=conditions
            ),
        ),
        json=json,
        record=lambda count: {"file": out, "format": tool.value, "images": count},
        show=lambda count: typer.echo(f"{out}: {count:,} images"),
    )


def import_command(
    source: Annotated[
        Path,
        typer.Argument(help="The annotation file, or a folder of YOLO, LabelMe, FiftyOne or masks.", callback=is_there),
    ],
    *,
    run: Annotated[Path, typer.Option(help="The run folder whose masks were exported.", callback=is_run)],
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for one palette PNG an image, as seeds of another run; the run stays as it is."),
    ] = None,
    json: Json = False,
) -> None:
    """Read masks that people corrected back in: verified masks of the run, which its next run keeps unchanged."""
    from weakclip.store.layout import VERIFIED
    from weakclip.tools.annotate import verify_masks

    if out is not None:
        _import_seeds(source, run, out, json=json)
        return
    answer(
        lambda: verify_masks(source, run),
        json=json,
        record=lambda made: {"folder": run / VERIFIED, **asdict(made)},
        show=lambda made: show_verified(made, source, run),
    )


def _import_seeds(source: Path, run: Path, out: Path, *, json: bool) -> None:
    """The masks of a file as seeds for `seeds.method: imported_masks`."""
    from weakclip.store.marks import MARKS
    from weakclip.tools.annotate import import_masks

    settings = ["seeds.method=imported_masks", f"seeds.folder={out}"]
    if (run / MARKS).is_file():
        settings.append(f"data.marks={run / MARKS}")  # the labels that a review has corrected

    def show(made: ImportResult) -> None:
        typer.echo(f"{out}: {made.drawn:,} masks of {source}, {made.kept:,} as {run} had them")
        output.show_foreign(made.foreign, source, run)
        changes = [word for setting in settings for word in ("--set", setting)]
        words = [str(run / "config.yaml"), *changes, "--out", f"runs/{out.name}"]
        typer.echo(f"next: weakclip run {shlex.join(words)}")

    answer(
        lambda: import_masks(source, run, out),
        json=json,
        record=lambda made: {"folder": out, **asdict(made), "settings": settings},
        show=show,
    )


def predict(
    model: Annotated[
        Path, typer.Argument(help="A run, a folder of a network, or a released WeakCLIP checkpoint.", callback=is_model)
    ],
    images: Annotated[
        list[str],
        typer.Argument(help="Images, folders, patterns, or - for a list on standard input.", callback=are_inputs),
    ],
    *,
    out: Annotated[
        str, typer.Option(metavar="FOLDER|URL", help="Of the masks; one that is there already is continued.")
    ],
    also: Annotated[list[Product] | None, typer.Option(help="What else is written; may be given repeatedly.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A labels.csv: only its classes are drawn.", callback=is_file)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=f"Change a setting: {SETTINGS}.")
    ] = None,
    network: Network = None,
    clip: OwnEncoder = "",
    engine: Engine = EngineName.LOCAL,
    shard: Part = "",
    devices: Devices = "1",
    redo: Annotated[bool, typer.Option("--redo", help="Replace what was made otherwise.")] = False,
    json: Json = False,
) -> None:
    """Make masks of any images with a trained network: exit code 0, or 1 if some images got no mask."""
    from weakclip.config import changed_settings
    from weakclip.prediction import Outputs, find_model
    from weakclip.prediction.predictor import default_settings
    from weakclip.prediction.request import PredictRequest, predict_images

    def work() -> PredictionSummary:
        one_way(shard, devices, engine)
        source = find_model(model, network=named(network))
        request = PredictRequest(
            model=source,
            settings=changed_settings(default_settings(source), set_ or [], origin=str(model)),
            inputs=tuple(images),
            listed=tuple(sys.stdin) if "-" in images and is_speaker() else (),
            out=out,
            outputs=Outputs.named(also or ()),
            labels=labels,
            clip=clip,
            redo=redo,
            shard=shard,
        )
        return shared(devices, partial(predict_images, request), request.settings.device, engine)

    answer_predictions(work, json=json, shard=shard)


def merge(
    made: Annotated[str, typer.Argument(help="A run, a folder of predictions, a table of labels; or its URL.")],
    json: Json = False,
) -> None:
    """Complete what was made with --shard, when all shards are there: exit code 2 if an image is missing."""
    from weakclip.pipeline.shards import merge_shards
    from weakclip.prediction import request
    from weakclip.tools.tag import table

    with errors_printed(json=json):
        are_predictions, is_table = request.is_sharded(made), table.is_sharded(made)
    if are_predictions:
        answer_predictions(lambda: request.merge_predictions(made), json=json)
    elif is_table:
        answer_tagging(lambda: table.merge_labels(made), made, folder_at(made).parent, json=json)
    else:
        answer(lambda: merge_shards(made), json=json, record=asdict, show=show_shard)
