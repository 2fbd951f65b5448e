"""A study for its reader: summary, table, chart, and the best dense CRF as YAML. Pure functions of the study."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from weakclip.inference.evaluation import describe_crf
from weakclip.report.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, nice_ticks, percent
from weakclip.store.keys import plain
from weakclip.study.halving import Rung
from weakclip.study.record import CRFStudy, write_texts

TABLE, CHART, BEST = "table.md", "study.svg", "best.yaml"

_STYLE = (
    "rect{fill:#fff} text{font:13px sans-serif;fill:#555} path{fill:none} .grid{stroke:#e4e4e4} "
    ".other path{stroke:#b5bdc6} .other circle{fill:#b5bdc6} "
    ".config path{stroke:#d9480f;stroke-width:2} .config circle,tspan.config{fill:#d9480f} "
    ".best path{stroke:#1864ab;stroke-width:2} .best circle,tspan.best{fill:#1864ab}"
)


def write_pages(study: CRFStudy) -> None:
    """Write `table.md`, `study.svg` and `best.yaml` of a finished study into its folder."""
    write_texts(study.folder, {TABLE: table(study), CHART: chart(study), BEST: best_yaml(study)})


def crf_record(study: CRFStudy) -> dict[str, Any]:
    """The record that `--json` prints of a study: the best candidate and the configuration's own."""

    def candidate(number: int) -> dict[str, Any]:
        return {**asdict(study.candidates[number]), "mean_iou": study.rungs[-1].scores[number]}

    return {
        "tuning_set": {"split": study.split, "images": study.images},
        "candidates": len(study.candidates),
        "best": candidate(study.standing()[0]),
        "config": candidate(0),
        **page_files(study.folder, yaml=BEST),
    }


def page_files(folder: Path, yaml: str | None = None) -> dict[str, Any]:
    """The record that `--json` prints of a study's folder."""
    files = {"table": TABLE, "chart": CHART, **({"yaml": yaml} if yaml else {})}
    return {"folder": folder, "files": {what: folder / name for what, name in files.items()}}


def tuning_note(study: CRFStudy) -> str:
    """The limits of the scores."""
    return (
        f"Tuned on the masks of split '{study.split}', {study.images} images: a tuning set. "
        "Its scores are no test scores, and masks made with a dense CRF chosen here have used pixel labels."
    )


def describe_rung(rung: Rung) -> str:
    """One round in a few words.

    >>> describe_rung(Rung(12, {0: 0.5, 3: 0.625}))
    '2 CRFs on 12 images, best mIoU 62.5 %'
    """
    return f"{len(rung.scores)} CRFs on {rung.images} images, best mIoU {percent(rung.scores[rung.ranking()[0]])} %"


def best_yaml(study: CRFStudy) -> str:
    """The best dense CRF as the `crf:` section of a configuration, under `pseudo_masks:`."""
    params = study.candidates[study.standing()[0]].params
    return yaml.safe_dump({"crf": plain(params)}, sort_keys=False, default_flow_style=None)


def summary(study: CRFStudy) -> str:
    """The result in some lines: what was tuned on, the best and the configuration's own, and the YAML."""
    best, last = study.standing()[0], study.rungs[-1]
    lines = [
        tuning_note(study),
        f"best ({study.candidates[best].origin}): {percent(last.scores[best])} % mIoU; "
        f"the configuration's own: {percent(last.scores[0])} %",
        "",
        best_yaml(study),
    ]
    return "\n".join(lines)


def table(study: CRFStudy) -> str:
    """All candidates in Markdown, from best to worst."""
    lines = [
        "# Dense CRF for pseudo masks",
        "",
        tuning_note(study),
        "A candidate's mIoU is over the images of the last round that it was in; compare within equal numbers.",
        "",
        "| | origin | dense CRF | images | mIoU, % |",
        "|---:|---|---|---:|---:|",
    ]
    for rank, number in enumerate(study.standing(), 1):
        candidate, rung = study.candidates[number], study.last_rung(number)
        words = describe_crf(candidate.params)
        lines.append(f"| {rank} | {candidate.origin} | {words} | {rung.images} | {percent(rung.scores[number])} |")
    return "\n".join(lines) + "\n"


def chart(study: CRFStudy) -> str:
    """mIoU of every candidate from rung to rung as a self-contained SVG; the best and the configuration's own in
    colours."""
    finite = [100 * score for rung in study.rungs for score in rung.scores.values() if math.isfinite(score)]
    ticks = nice_ticks(min(finite, default=0.0), max(finite, default=100.0))
    parts = [_frame(study)]

    def place(rung: int, score: float) -> tuple[float, float]:
        across, up = rung / max(1, len(study.rungs) - 1), (score - ticks[0]) / (ticks[-1] - ticks[0])
        x, y = LEFT + 30 + across * (WIDTH - LEFT - RIGHT - 60), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)
        return round(x, 1), round(y, 1)

    for tick in ticks:
        y = place(0, tick)[1]
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{:g}</text>').format(LEFT - 7, y + 4, tick))
    for index, rung in enumerate(study.rungs):
        label = Markup('<text x="{}" y="{}" text-anchor="middle">{} images</text>')
        parts.append(label.format(place(index, ticks[0])[0], HEIGHT - BOTTOM + 18, rung.images))
    for number in reversed(study.standing()):
        colour = "best" if number == study.standing()[0] else "config" if number == 0 else "other"
        scores = [(index, 100 * rung.scores.get(number, math.nan)) for index, rung in enumerate(study.rungs)]
        points = [place(index, score) for index, score in scores if math.isfinite(score)]
        path = " L".join(f"{x} {y}" for x, y in points)
        parts.append(Markup('<g class="{}"><path d="{}"/>').format(colour, f"M{path}" if path else ""))
        parts += [Markup('<circle cx="{}" cy="{}" r="2.5"/>').format(x, y) for x, y in points]
        parts.append(Markup("</g>"))
    return str(Markup("").join([*parts, Markup("</svg>\n")]))


def _frame(study: CRFStudy) -> Markup:
    """The opening of the chart: style, ground, and a caption that names the colours."""
    caption = "mIoU of pseudo masks on the tuning set (split {}), %"
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -28 {width} {height}"><style>{style}</style>'
        '<rect y="-28" width="{width}" height="{height}"/><text x="12" y="-8">' + caption + "</text>"
        '<text x="{right}" y="-8" text-anchor="end"><tspan class="best">best</tspan> '
        '<tspan class="config">configuration</tspan></text>'
    ).format(study.split, width=WIDTH, height=HEIGHT + 28, right=WIDTH - RIGHT, style=Markup(_STYLE))
