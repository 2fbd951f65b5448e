"""The commands that exchange files with other programs: predictions, exports, imports, archives, dense CRF."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    are_inputs,
    encoder_of,
    is_file,
    is_model,
    is_run,
    is_there,
    named,
    one_way,
    shared,
)
from weakclip.cli.output import answer, answer_predictions, at_place, is_speaker

if TYPE_CHECKING:
    from weakclip.prediction import PredictionSummary

export = typer.Typer(no_args_is_help=True, help="Bring what a run has made into the forms of other programs.")

SETTINGS = "inference.…, crf.…, match_share, keep_foreground, balance, temperature, or device"
Product = StrEnum("Product", ["overlays", "coco-masks", "coco-polygons"])


Tool = StrEnum("Tool", ["coco", "label-studio", "cvat", "yolo", "labelme", "fiftyone"])
Preset = StrEnum("Preset", ["voc", "coco", "loss"])


class ShardForm(StrEnum):
    """Forms of the files of a data set."""

    PARQUET = "parquet"
    WEBDATASET = "webdataset"


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
        lines=lambda made: (
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
        lines=lambda names: f"{out}: {len(names)} classes: {', '.join(names)}",
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
        lines=lambda made: f"{made.folder}: {made.images:,} images of {made.split}, {made.shards:,} files",
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
        lines=lambda count: f"{out}: {count:,} images",
    )


def import_masks(
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
    from weakclip.tools.annotate import corrected, verify

    if out is None:
        answer(
            lambda: verify.verify_masks(source, run),
            json=json,
            record=lambda made: {"folder": run / VERIFIED, **asdict(made)},
            lines=lambda made: verify.verified_lines(made, source, run),
        )
        return
    answer(
        lambda: corrected.import_masks(source, run, out),
        json=json,
        record=lambda made: {"folder": out, **asdict(made), "settings": corrected.import_settings(run, out)},
        lines=lambda made: corrected.import_lines(made, source, run, out),
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
            out, lambda file: make(run, file, split=split, root=root, network=named(network), clip=encoder_of(clip))
        ),
        json=json,
        record=lambda count: {"file": out, "split": split, "masks": count},
        lines=lambda count: f"{out}: {count:,} masks of {split}, checked",
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


def crf(
    image: Annotated[Path, typer.Argument(help="An image file.", callback=is_file)],
    probs: Annotated[Path, typer.Argument(help="Its label probabilities (K, H, W): .npy, or .npz.", callback=is_file)],
    out: Annotated[Path, typer.Option(help=".npy for the marginals, .png for a palette mask of the likeliest labels.")],
    *,
    preset: Annotated[Preset | None, typer.Option(help="Published kernels; voc where nothing is given.")] = None,
    params: Annotated[Path | None, typer.Option(help="A YAML file with the `crf:` section of a configuration.")] = None,
    json: Json = False,
) -> None:
    """Sharpen the label probabilities of one image by the dense CRF."""
    from weakclip.config import load_crf
    from weakclip.crf.files import crf_file
    from weakclip.crf.params import PRESETS
    from weakclip.errors import ConfigError

    def work() -> Path:
        if preset and params:
            raise ConfigError("--preset and --params both name kernels; give one of them")
        crf_file(image, probs, out, load_crf(params) if params else PRESETS[preset or "voc"])
        return out

    answer(work, json=json, record=lambda path: {"file": path}, lines=str)
