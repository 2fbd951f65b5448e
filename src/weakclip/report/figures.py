"""Figures as strings of SVG and data URIs: no plotting library, nothing to load."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from weakclip.inference.evaluation import Scores
from weakclip.report.folder import Curves

WIDTH, HEIGHT = 520, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 30


def png_data_uri(path: Path) -> str:
    """The bytes of a PNG file as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values that cover `[low, high]` in steps of 1, 2 or 5 times a power of ten.

    >>> nice_ticks(0.0, 0.9)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    span = high - low or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def loss_curves(curves: Curves) -> Markup:
    """Line chart of every series of `curves`, as an `<svg>` whose colours follow the page's light or dark theme.

    Args:
        curves: the logged numbers; values that are not finite leave a gap.

    Returns:
        SVG markup, safe to put into a page.
    """
    finite = [value for series in curves.series.values() for value in series if math.isfinite(value)]
    if not finite:
        return Markup("")
    y_ticks = nice_ticks(min(0.0, *finite), max(finite))
    x_ticks = [tick for tick in nice_ticks(0.0, max(curves.steps), 5) if tick <= max(curves.steps)]
    x_range, y_range = (0.0, max(curves.steps) or 1.0), (y_ticks[0], y_ticks[-1])
    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img">').format(WIDTH, HEIGHT)]
    parts.append(Markup("<title>Loss of stage {} over {:.0f} steps</title>").format(curves.stage, max(curves.steps)))
    for tick in y_ticks:
        y = _place(tick, y_range, HEIGHT - BOTTOM, TOP)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(LEFT, WIDTH - RIGHT, y=y))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{:g}</text>').format(LEFT - 7, y + 4, tick)
        )
    for tick in x_ticks:
        x = _place(tick, x_range, LEFT, WIDTH - RIGHT)
        label = Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{:g}</text>')
        parts.append(label.format(x, HEIGHT - BOTTOM + 18, tick))
    for index, values in enumerate(curves.series.values()):
        points = list(zip(curves.steps, values, strict=True))
        parts.append(Markup('<path class="series s{}" d="{}"/>').format(index % 6, _path(points, x_range, y_range)))
        for step, value in _alone(points):
            x, y = _place(step, x_range, LEFT, WIDTH - RIGHT), _place(value, y_range, HEIGHT - BOTTOM, TOP)
            parts.append(Markup('<circle class="series s{}" cx="{}" cy="{}" r="1.5"/>').format(index % 6, x, y))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _place(value: float, data: tuple[float, float], start: float, end: float) -> float:
    share = (value - data[0]) / ((data[1] - data[0]) or 1.0)
    return round(start + share * (end - start), 1)


def _path(points: Iterable[tuple[float, float]], x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    commands, pen_down = [], False
    for step, value in points:
        if not math.isfinite(value):
            pen_down = False
            continue
        x, y = _place(step, x_range, LEFT, WIDTH - RIGHT), _place(value, y_range, HEIGHT - BOTTOM, TOP)
        commands.append(f"{'L' if pen_down else 'M'}{x} {y}")
        pen_down = True
    return " ".join(commands)


def _alone(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points without a neighbour, of which a line shows nothing.

    >>> _alone([(1, 0.5), (2, math.nan), (3, 0.2), (4, 0.1)])
    [(1, 0.5)]
    """
    known = [False, *(math.isfinite(value) for _, value in points), False]
    return [
        point
        for point, before, here, after in zip(points, known, known[1:], known[2:], strict=False)
        if here and not before and not after
    ]


def box_plot(quantiles: Sequence[float]) -> Markup:
    """Five quantiles of shares, 0…1, as a line (outer two), a box (inner two) and a tick (the middle one).

    Returns:
        SVG markup with the numbers as its title; a dash where there are none.
    """
    if not quantiles:
        return Markup("–")
    low, first, middle, third, high = (round(100 * value, 1) for value in quantiles)
    words = f"5 % of the masks below {low}, a quarter below {first}, half below {middle}, "
    words += f"three quarters below {third}, 95 % below {high} % of the image"
    return Markup(
        '<svg class="box" viewBox="0 0 100 12" preserveAspectRatio="none" role="img"><title>{words}</title>'
        '<path class="whisker" d="M{low} 6H{high}"/>'
        '<rect x="{first}" y="2" width="{width}" height="8"/><path class="median" d="M{middle} 0V12"/></svg>'
    ).format(words=words, low=low, high=high, first=first, width=max(0.5, round(third - first, 1)), middle=middle)


def percent(value: float | None) -> str:
    """`0.7531` as `75.3`; a dash where there is no number."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def mean_known(values: Mapping[str, float | None]) -> float:
    """Mean of the values that are known; NaN where none is.

    >>> mean_known({"cat": 0.5, "dog": 1.0, "cow": None})
    0.75
    """
    known = [value for value in values.values() if value is not None]
    return sum(known) / len(known) if known else math.nan


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(75), duration(4.2), duration(7260)
    ('1 min 15 s', '4 s', '2 h 1 min')
    """
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def class_names(scores: Sequence[Scores]) -> list[str]:
    """The class names of all scores, in the order of the first one."""
    names: dict[str, None] = {}
    for score in scores:
        names.update(dict.fromkeys(score.iou))
    return list(names)
