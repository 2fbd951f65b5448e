"""The cost study for its reader: table and chart of the measurements. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from weakclip.study.pages import CHART, TABLE
from weakclip.study.record import write_texts

if TYPE_CHECKING:
    from weakclip.study.cost import Measurement


class Cost(NamedTuple):
    """One side over its repetitions: medians, and the least and the most of what varies.

    Rates are images a second of wall time; `cpu` is processor seconds an image; memory in bytes.
    """

    side: str
    rate: float
    slowest: float
    fastest: float
    cpu: float
    peak: float
    added: float
    total: int
    trained: int


def summarize(found: Sequence[Measurement], batch_size: int) -> list[Cost]:
    """The sides in the order of their first measurement."""
    costs = []
    for side in dict.fromkeys(each.side for each in found):
        own = [each for each in found if each.side == side]
        seconds = [second / batch_size for each in own for second in each.seconds]
        cpu = statistics.median(second / batch_size for each in own for second in each.cpu_seconds)
        rate, slowest, fastest = (1 / value for value in (statistics.median(seconds), max(seconds), min(seconds)))
        peak = statistics.median(each.peak_bytes for each in own)
        added = statistics.median(each.peak_bytes - each.before_bytes for each in own)
        total, trained = own[0].total_parameters, own[0].trained_parameters
        costs.append(Cost(side, rate, slowest, fastest, cpu, peak, added, total, trained))
    return costs


def cost_table(found: Sequence[Measurement], batch_size: int, note: str) -> str:
    """The measurements in Markdown, the sides beside each other, and each held against the last."""
    costs = summarize(found, batch_size)
    steps = sum(len(each.seconds) for each in found) // max(1, len(costs))
    rows = {
        "parameters": [f"{cost.total:,}" for cost in costs],
        "of them trained": [f"{cost.trained:,} ({cost.trained / cost.total:.1%})" for cost in costs],
        "images a second, median (range)": [
            f"{cost.rate:.4f} ({cost.slowest:.4f} to {cost.fastest:.4f})" for cost in costs
        ],
        "processor seconds an image, median": [f"{cost.cpu:.2f}" for cost in costs],
        "peak memory of the process, MiB": [f"{cost.peak / 2**20:.0f}" for cost in costs],
        "the same without what it had before the model, MiB": [f"{cost.added / 2**20:.0f}" for cost in costs],
        "speed, as a multiple": [f"{cost.rate / costs[-1].rate:.2f}" for cost in costs],
        "the same in processor time": [f"{costs[-1].cpu / cost.cpu:.2f}" for cost in costs],
        "peak memory, as a share": [f"{cost.peak / costs[-1].peak:.1%}" for cost in costs],
        "the same without what it had before the model": [f"{cost.added / costs[-1].added:.1%}" for cost in costs],
    }
    lines = ["# Cost of a training step", "", f"Batch of {batch_size}, {note}; {steps} timed steps of each side.", ""]
    lines += ["| | " + " | ".join(cost.side for cost in costs) + " |", "|---|" + "---:|" * len(costs)]
    lines += [f"| {name} | " + " | ".join(values) + " |" for name, values in rows.items()]
    return "\n".join(lines) + "\n"


def cost_chart(found: Sequence[Measurement], batch_size: int) -> str:
    """Bars of speed, memory and trained share, each as a share of the larger side, as a self-contained SVG."""
    costs = summarize(found, batch_size)
    panels = {
        "images a second": [cost.rate for cost in costs],
        "peak memory, MiB": [cost.peak / 2**20 for cost in costs],
        "trained parameters, million": [cost.trained / 1e6 for cost in costs],
    }
    width, left, bar = 640, 200, 320
    height = 20 + len(panels) * (30 + 24 * len(costs))
    style = Markup("rect.ground{fill:#fff} text{font:13px sans-serif;fill:#555} .s0{fill:#1864ab} .s1{fill:#b5bdc6}")
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}"><style>{}</style><rect class="ground" '
    parts = [Markup(head + 'width="{}" height="{}"/>').format(width, height, style, width, height)]
    y = 24
    for title, values in panels.items():
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(left, y, title))
        for index, (cost, value) in enumerate(zip(costs, values, strict=True)):
            y += 24
            length = round(bar * value / max(values), 1)
            parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 10, y, cost.side))
            shape = Markup('<rect class="s{}" x="{}" y="{}" width="{}" height="16"/>')
            parts.append(shape.format(index % 2, left, y - 13, length))
            parts.append(Markup('<text x="{}" y="{}">{:.4g}</text>').format(left + length + 6, y, value))
        y += 30
    return str(Markup("").join([*parts, Markup("</svg>\n")]))


def write_cost_pages(folder: Path, found: Sequence[Measurement], batch_size: int, note: str) -> None:
    """Write `table.md` and `study.svg`."""
    write_texts(folder, {TABLE: cost_table(found, batch_size, note), CHART: cost_chart(found, batch_size)})
