"""The report page: template, numbers and pictures brought together into one HTML file."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from weakclip.inference.mask_statistics import mean_over_classes
from weakclip.report.chosen import read_chosen
from weakclip.report.class_table import class_figures
from weakclip.report.doubts import ImageFigures, figures_of, is_unusual
from weakclip.report.figures import box_plot, class_names, duration, loss_curves, mean_known, percent, png_data_uri
from weakclip.report.folder import read_run
from weakclip.report.head import head_facts
from weakclip.report.images import read_images
from weakclip.report.payload import WORST, payload
from weakclip.report.sure_seeds import contradicted, sure_seeds
from weakclip.report.worse_masks import seed_change
from weakclip.store.files import write_text

STAGE_TITLES = {
    "seeds": "Seeds",
    "train": "WeakCLIP training",
    "pseudo_masks": "Pseudo masks",
    "retrain": "Retraining on the pseudo masks",
    "evaluate": "Evaluation",
    "retrain_truth": "Training on the true masks (upper bound)",
    "evaluate_truth": "Evaluation of the upper bound",
}


def render_report(folder: Path | str) -> str:
    """The report of a run folder as HTML: nothing is fetched from elsewhere, every name is escaped.

    Pictures of the worst images are in the page; those of the others are read from the run folder when they are asked
    for. The page's own script is the only one that its content policy lets run.

    Args:
        folder: the run folder, finished or not.

    Returns:
        One HTML document.

    Raises:
        RunError: not a run folder, or an unreadable file in it.
    """
    run = read_run(folder)
    known = read_images(folder, run)
    images = figures_of(known.images)
    captions = list(dict.fromkeys(caption for row in run.rows for caption in row.pictures))
    script = _asset("report.js")
    return _template().render(
        run=run,
        title=run.folder.resolve().name,
        head=head_facts(run),
        titles=STAGE_TITLES,
        class_names=class_names(run.scores),
        captions=captions,
        chosen=read_chosen(run.folder) if any(stage.name == "train" for stage in run.stages) else None,
        upper_bound=any(stage.name == "retrain_truth" for stage in run.stages),
        style=Markup(_asset("report.css")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        known=known,
        worst=WORST,
        glance=_glance(images),
        class_rows=class_figures(images, len(run.classes)) if images else [],
        class_scores=next((score.iou for score in run.scores if score.subject == "pseudo masks"), {}),
        seeds=sure_seeds(run.folder, seed_change(known.images)),
        seed_scores=next((score.precision for score in run.scores if score.subject == "seeds"), {}),
        payload=Markup(payload(Path(folder), known, images)),
    )


def write_report(folder: Path | str) -> Path:
    """Write `report.html` into the run folder, whole or not at all.

    Returns:
        The path of the page.
    """
    page = render_report(folder)
    path = Path(folder) / "report.html"
    write_text(path, page)
    return path


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("weakclip.report", package_path="."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        contradicted=contradicted,
        duration=duration,
        mean_known=mean_known,
        data_uri=png_data_uri,
        loss_curves=loss_curves,
        box_plot=box_plot,
    )
    return environment.get_template("report.html.j2")


def _asset(name: str) -> str:
    return files("weakclip.report").joinpath(name).read_text(encoding="utf-8")


def _glance(images: Sequence[ImageFigures]) -> list[dict[str, Any]]:
    """The tiles at the top: a figure, what it is of, and whether it asks for a look."""
    if not images:
        return []
    statistics = [image.statistics for image in images]
    missing = sum(bool(record.missed) for record in statistics)
    unusual = sum(is_unusual(image.area_score) for image in images)
    tiles = [
        {"label": "Masks", "value": f"{len(images):,}", "note": "training images", "warn": False},
        {
            "label": "A tagged class is missing",
            "value": f"{missing:,}",
            "note": f"masks, {percent(missing / len(images))} %",
            "warn": missing > 0,
        },
        {
            "label": "Unusual area",
            "value": f"{unusual:,}",
            "note": f"masks, {percent(unusual / len(images))} %",
            "warn": unusual > 0,
        },
    ]
    means = (
        ("Confidence", [record.confidence for record in statistics], "%, mean over the images"),
        ("Changed by the CRF", [record.crf_change for record in statistics], "% of the pixels, mean"),
        (
            "Seed and mask agree",
            [mean_over_classes(record.seed_mask) for record in statistics],
            "%, mean IoU per image",
        ),
        (
            "Mask and network agree",
            [mean_over_classes(record.mask_prediction) for record in statistics],
            "%, mean IoU per image",
        ),
        ("Mask and truth", [mean_over_classes(record.mask_truth) for record in statistics], "%, mean IoU per image"),
    )
    for label, values, note in means:
        known = [value for value in values if value is not None]
        if known:
            tiles.append({"label": label, "value": percent(sum(known) / len(known)), "note": note, "warn": False})
    return tiles
