"""The command `weakclip predict`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakclip.cli.json_output import Json, answer, prediction_record
from weakclip.cli.parts import NetworkOption, OwnEncoder, named

if TYPE_CHECKING:
    from weakclip.prediction import PredictionSummary, Products


SETTINGS = "inference.…, crf.…, match_share, keep_foreground, temperature, or device"


class Product(StrEnum):
    """What is written beside the masks and the JSON of each image."""

    OVERLAYS = "overlays"
    COCO_MASKS = "coco-masks"
    COCO_POLYGONS = "coco-polygons"


def predict(
    model: Annotated[Path, typer.Argument(help="A run, a folder of a network, or a released WeakCLIP checkpoint.")],
    images: Annotated[list[str], typer.Argument(help="Images, folders, patterns, or - for a list on standard input.")],
    *,
    out: Annotated[Path, typer.Option(help="The folder of the masks; one that is there already is continued.")],
    also: Annotated[list[Product] | None, typer.Option(help="What else is written; may be given repeatedly.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A labels.csv: its classes alone are drawn.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help=f"Change a setting: {SETTINGS}.",
        ),
    ] = None,
    network: NetworkOption = None,
    clip: OwnEncoder = "",
    redo: Annotated[bool, typer.Option("--redo", help="Replace what was made otherwise.")] = False,
    json: Json = False,
) -> None:
    """Make masks of any images with a trained network: exit code 0, or 1 if some images got no mask."""
    from weakclip.clip import load_encoder
    from weakclip.config import changed_settings
    from weakclip.prediction import find_images, find_model, load_predictor, predict_files
    from weakclip.prediction.labels import read_labels
    from weakclip.prediction.predictor import default_settings

    def work() -> PredictionSummary:
        source = find_model(model, network=named(network))
        settings = changed_settings(default_settings(source), set_ or [], origin=str(model))
        found = find_images(images, listed=sys.stdin, leave_out=out)
        told = None if labels is None else read_labels(labels, found)
        encoder = load_encoder(clip) if clip else None
        predictor = load_predictor(source, settings=settings, clip=encoder)
        products = _products(also or [])
        return predict_files(
            predictor, found, out, fingerprint=source.fingerprint, products=products, labels=told, redo=redo
        )

    def show(done: PredictionSummary) -> None:
        typer.echo(f"{out}: {done.predicted:,} predicted, {done.kept:,} done before, {done.failed:,} failed")

    summary = answer(work, json=json, record=prediction_record, show=show)
    if summary.failed:
        typer.echo(f"weakclip: {summary.failed:,} images have no mask; {out / 'errors.jsonl'} says why", err=True)
        raise typer.Exit(1)


def _products(also: list[Product]) -> Products:
    from weakclip.annotations import Shapes
    from weakclip.prediction import Products

    kinds = {Product.COCO_MASKS: Shapes(kind="masks"), Product.COCO_POLYGONS: Shapes(kind="polygons")}
    coco = tuple(shapes for product, shapes in kinds.items() if product in also)
    return Products(overlays=Product.OVERLAYS in also, coco=coco)
