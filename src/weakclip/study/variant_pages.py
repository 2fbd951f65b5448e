"""A study of variants for its reader: table and chart. Pure functions of the study."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from weakclip.report.figures import nice_ticks, percent
from weakclip.study.pages import CHART, TABLE, page_files
from weakclip.study.record import write_texts
from weakclip.study.results import VariantStudy, mean_and_deviation

PLOT, ROW, LEFT, RIGHT, TOP, BOTTOM = 430, 26, 190, 20, 34, 30
"""Of the chart, in pixels; a row for each variant. The left margin grows with the longest name."""
CHARACTER = 7
"""Pixels that a letter takes at most in the mean, at the size of the chart's text."""

_STYLE = (
    "rect{fill:#fff} text{font:13px sans-serif;fill:#555} .grid{stroke:#e4e4e4} "
    ".one{fill:#b5bdc6} .spread{stroke:#1864ab;stroke-width:2} .mean{fill:#1864ab}"
)


def write_variant_pages(study: VariantStudy) -> None:
    """Write `table.md` and `study.svg` of a study into its folder."""
    write_texts(study.folder, {TABLE: variant_table(study), CHART: variant_chart(study)})


def variant_record(study: VariantStudy) -> dict[str, Any]:
    """The record that `--json` prints of a study: each variant's scores by random seed, their mean and deviation."""
    rows = []
    for variant in study.variants:
        results = study.of(variant)
        mean, deviation = mean_and_deviation([result.mean_iou for result in results])
        each = [asdict(result) for result in results]
        rows.append({"variant": variant, "mean_iou": mean, "standard_deviation": deviation, "results": each})
    tuning_set = {"split": study.split, "images": study.images}
    return {"subject": study.subject, "tuning_set": tuning_set, "variants": rows, **page_files(study.folder)}


def variant_table(study: VariantStudy) -> str:
    """All variants in Markdown: mIoU of every random seed, their mean and standard deviation."""
    seeds = ", ".join(map(str, study.seeds))
    lines = [
        f"# {study.subject.capitalize()}",
        "",
        f"mIoU of the pseudo masks, %, for the random seeds {seeds}; mean ± sample standard deviation.",
        f"Scored on the masks of split '{study.split}', {study.images} images. Who chooses a setting here has tuned on "
        "that split: its scores are no test scores then, and its masks have used pixel labels.",
        "",
        "| variant | of each seed | mean | trained parameters |",
        "|---|---|---:|---:|",
    ]
    for variant in study.variants:
        results = study.of(variant)
        each = " ".join(percent(result.mean_iou) for result in results) or "–"
        trained = f"{results[0].trained_parameters:,}" if results else "–"
        lines.append(f"| {_words(variant)} | {each} | {_mean(study, variant)} | {trained} |")
    return "\n".join(lines) + "\n"


def _mean(study: VariantStudy, variant: str) -> str:
    mean, deviation = mean_and_deviation([result.mean_iou for result in study.of(variant)])
    return percent(mean) if math.isnan(deviation) else f"{percent(mean)} ± {percent(deviation)}"


def _words(variant: str) -> str:
    return variant.replace("_", " ")


def variant_chart(study: VariantStudy) -> str:
    """One row for each variant as a self-contained SVG: a dot a random seed, the mean, one deviation each way."""
    scores = {variant: [100 * result.mean_iou for result in study.of(variant)] for variant in study.variants}
    finite = [score for row in scores.values() for score in row if math.isfinite(score)]
    ticks = nice_ticks(min(finite, default=0.0), max(finite, default=100.0))
    height = TOP + ROW * len(scores) + BOTTOM
    left = max(LEFT, 24 + CHARACTER * max(map(len, scores), default=0))

    def place(score: float) -> float:
        return round(left + (score - ticks[0]) / (ticks[-1] - ticks[0]) * PLOT, 1)

    parts = [_frame(study, left + PLOT + RIGHT, height)]
    for tick in ticks:
        grid = Markup('<line class="grid" x1="{x}" x2="{x}" y1="{}" y2="{}"/>')
        parts.append(grid.format(TOP, height - BOTTOM, x=place(tick)))
        label = Markup('<text x="{}" y="{}" text-anchor="middle">{:g}</text>')
        parts.append(label.format(place(tick), height - BOTTOM + 18, tick))
    for row, (variant, values) in enumerate(scores.items()):
        y = TOP + ROW * row + ROW / 2
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 12, y + 4, _words(variant))
        )
        known = [value for value in values if math.isfinite(value)]
        parts += [Markup('<circle class="one" cx="{}" cy="{}" r="3"/>').format(place(value), y) for value in known]
        mean, deviation = mean_and_deviation(known)
        if math.isfinite(deviation):
            low, high = (place(min(max(mean + sign * deviation, ticks[0]), ticks[-1])) for sign in (-1, 1))
            parts.append(Markup('<line class="spread" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(low, high, y=y))
        if known:
            parts.append(Markup('<circle class="mean" cx="{}" cy="{}" r="4.5"/>').format(place(mean), y))
    return str(Markup("").join([*parts, Markup("</svg>\n")]))


def _frame(study: VariantStudy, width: int, height: int) -> Markup:
    """The opening of the chart: style, ground and caption."""
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{style}</style>'
        '<rect width="{width}" height="{height}"/><text x="12" y="20">{subject}: mIoU of pseudo masks '
        "(split {split}), %</text>"
    ).format(width=width, height=height, style=Markup(_STYLE), subject=study.subject, split=study.split)
