"""The report page: template, numbers and pictures brought together into one HTML file."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from weakclip.images import atomic_write
from weakclip.report.figures import class_names, duration, loss_curves, mean_known, percent, png_data_uri
from weakclip.report.folder import read_run

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

    Args:
        folder: the run folder, finished or not.

    Returns:
        One HTML document.

    Raises:
        RunError: not a run folder, or an unreadable file in it.
    """
    environment = Environment(
        loader=PackageLoader("weakclip.report", package_path="."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, duration=duration, mean_known=mean_known, data_uri=png_data_uri, loss_curves=loss_curves
    )
    run = read_run(folder)
    captions = list(dict.fromkeys(caption for row in run.rows for caption in row.pictures))
    return environment.get_template("report.html.j2").render(
        run=run,
        title=run.folder.resolve().name,
        titles=STAGE_TITLES,
        class_names=class_names(run.scores),
        captions=captions,
        upper_bound=any(stage.name == "retrain_truth" for stage in run.stages),
    )


def write_report(folder: Path | str) -> Path:
    """Write `report.html` into the run folder, whole or not at all.

    Returns:
        The path of the page.
    """
    page = render_report(folder)
    path = Path(folder) / "report.html"
    with atomic_write(path, "w") as file:
        file.write(page)
    return path
