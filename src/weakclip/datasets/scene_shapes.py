"""The shapes of Scenes, its twelve objects, and its six kinds of ground.

Every object is one large plain body and a small telling part. Bodies are shared between classes (an ellipse may be a
cat, a fish or a clock), so only the telling part tells the class and only the body gives the mask its area.

Only `+ - * /`, comparisons and square roots of float32 are used. IEEE 754 rounds these correctly, so that one seed
gives the same bytes on every machine; sines and sums of floats would not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Signed distance (negative inside) of local points `(u, v)`; a body spans about -1…1, `v` points down."""


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Distance:
    """An axis-parallel ellipse."""
    return lambda u, v: (np.sqrt(((u - cx) / rx) ** 2 + ((v - cy) / ry) ** 2) - 1.0) * min(rx, ry)


def box(cx: float, cy: float, hx: float, hy: float) -> Distance:
    """An axis-parallel box of half sides `hx`, `hy`."""
    return lambda u, v: np.maximum(np.abs(u - cx) - hx, np.abs(v - cy) - hy)


def ring(cx: float, cy: float, radius: float, width: float) -> Distance:
    """A ring of a circle, `width` to either side of `radius`."""
    return lambda u, v: np.abs(np.sqrt((u - cx) ** 2 + (v - cy) ** 2) - radius) - width


def polygon(*points: tuple[float, float]) -> Distance:
    """A convex polygon, corners clockwise as seen on the screen."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        result = np.full_like(u, -1e3)
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
            ex, ey = bx - ax, by - ay
            length = math.sqrt(ex * ex + ey * ey)
            result = np.maximum(result, ((u - ax) * ey - (v - ay) * ex) / length)
        return result

    return distance


def both(first: Distance, second: Distance) -> Distance:
    """The intersection of two shapes."""
    return lambda u, v: np.maximum(first(u, v), second(u, v))


@dataclass(frozen=True)
class Part:
    """One painted shape. `tone` is "body" (the object's colour), or "dark", "light", "accent"."""

    shape: Distance
    tone: str


@dataclass(frozen=True)
class Blueprint:
    """How a class looks: parts from back to front, the ground it keeps company with, and how far it leans."""

    parts: tuple[Part, ...]
    company: str
    faithful: float
    lean: float


def _blueprint(company: str, faithful: float, *parts: Part, lean: float = 0.15) -> Blueprint:
    return Blueprint(parts, company, faithful, lean)


def _body(shape: Distance) -> Part:
    return Part(shape, "body")


_ANIMAL = _body(ellipse(-0.05, 0.22, 1.0, 0.62))
_BOX = _body(box(0.0, 0.1, 0.92, 0.68))
_DOME = _body(both(ellipse(0.0, 0.15, 1.0, 0.95), box(0.0, -0.4, 2.0, 0.55)))

BLUEPRINTS: Mapping[str, Blueprint] = {
    "cat": _blueprint(
        "wall",
        0.4,
        Part(polygon((0.52, -0.45), (0.58, -0.95), (0.78, -0.55)), "accent"),
        Part(polygon((0.82, -0.55), (1.02, -0.95), (1.08, -0.45)), "accent"),
        _ANIMAL,
        _body(ellipse(0.8, -0.3, 0.32, 0.3)),
        Part(ellipse(0.7, -0.34, 0.06, 0.09), "dark"),
        Part(ellipse(0.92, -0.34, 0.06, 0.09), "dark"),
    ),
    "rabbit": _blueprint(
        "grass",
        0.5,
        Part(ellipse(0.62, -0.85, 0.11, 0.42), "light"),
        Part(ellipse(0.92, -0.85, 0.11, 0.42), "light"),
        _ANIMAL,
        _body(ellipse(0.77, -0.25, 0.3, 0.28)),
        Part(ellipse(-1.05, 0.2, 0.17, 0.17), "light"),
    ),
    "bird": _blueprint(
        "sky",
        0.6,
        Part(polygon((0.9, -0.02), (1.4, 0.16), (0.88, 0.32)), "accent"),
        Part(box(-0.2, 0.95, 0.05, 0.28), "accent"),
        Part(box(0.18, 0.95, 0.05, 0.28), "accent"),
        _ANIMAL,
        Part(ellipse(0.65, 0.05, 0.09, 0.09), "dark"),
        lean=0.25,
    ),
    "fish": _blueprint(
        "water",
        0.85,
        Part(polygon((-0.85, 0.22), (-1.45, -0.3), (-1.45, 0.74)), "accent"),
        _ANIMAL,
        Part(ellipse(0.6, 0.08, 0.13, 0.13), "light"),
        Part(ellipse(0.62, 0.08, 0.06, 0.06), "dark"),
        lean=0.3,
    ),
    "balloon": _blueprint(
        "sky",
        0.75,
        Part(box(0.0, 1.35, 0.035, 0.4), "dark"),
        Part(polygon((0.0, 0.82), (0.17, 1.08), (-0.17, 1.08)), "accent"),
        _body(ellipse(0.0, 0.0, 0.82, 0.92)),
        lean=0.2,
    ),
    "clock": _blueprint(
        "wall",
        0.6,
        _body(ellipse(0.0, 0.0, 0.92, 0.92)),
        Part(box(0.0, -0.24, 0.06, 0.3), "dark"),
        Part(box(0.2, 0.0, 0.26, 0.06), "dark"),
        Part(ellipse(0.0, 0.0, 0.12, 0.12), "accent"),
    ),
    "car": _blueprint(
        "road",
        0.85,
        _BOX,
        Part(ellipse(-0.5, 0.8, 0.27, 0.27), "dark"),
        Part(ellipse(0.5, 0.8, 0.27, 0.27), "dark"),
        Part(ellipse(-0.5, 0.8, 0.11, 0.11), "light"),
        Part(ellipse(0.5, 0.8, 0.11, 0.11), "light"),
        lean=0.1,
    ),
    "house": _blueprint(
        "grass",
        0.6,
        Part(box(0.5, -0.75, 0.14, 0.3), "accent"),
        _BOX,
        Part(box(-0.05, 0.5, 0.17, 0.28), "dark"),
        Part(ellipse(0.04, 0.5, 0.05, 0.05), "light"),
        lean=0.06,
    ),
    "cup": _blueprint(
        "wall",
        0.5,
        Part(ring(1.0, 0.1, 0.3, 0.09), "accent"),
        _body(box(0.0, 0.1, 0.8, 0.78)),
        Part(ellipse(0.0, -0.68, 0.8, 0.12), "dark"),
        lean=0.12,
    ),
    "mushroom": _blueprint(
        "grass", 0.7, Part(box(0.0, 0.42, 0.24, 0.44), "light"), Part(ellipse(0.0, 0.86, 0.3, 0.1), "light"), _DOME
    ),
    "umbrella": _blueprint(
        "sand",
        0.6,
        Part(box(0.0, 0.5, 0.05, 0.55), "dark"),
        Part(both(ring(-0.17, 1.02, 0.17, 0.05), box(-0.17, 1.2, 0.4, 0.19)), "dark"),
        Part(polygon((0.0, -1.05), (0.08, -0.75), (-0.08, -0.75)), "accent"),
        _DOME,
        lean=0.3,
    ),
    "boat": _blueprint(
        "water",
        0.9,
        Part(box(0.0, -0.5, 0.05, 0.62), "dark"),
        Part(polygon((0.05, -1.12), (0.55, -0.9), (0.05, -0.68)), "accent"),
        _body(polygon((-1.1, 0.0), (1.1, 0.0), (0.75, 0.72), (-0.75, 0.72))),
        lean=0.12,
    ),
}
"""The foreground classes of Scenes, in the order of their indices 1…12."""

COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (200, 45, 45),
    "orange": (230, 135, 40),
    "yellow": (225, 205, 60),
    "green": (60, 150, 70),
    "blue": (50, 85, 190),
    "purple": (130, 65, 165),
    "pink": (230, 140, 175),
    "brown": (125, 85, 55),
    "grey": (135, 135, 140),
    "white": (228, 228, 222),
    "black": (42, 42, 48),
}
"""Named body colours, RGB; each object varies around its name."""

GROUNDS: Mapping[str, tuple[int, int, int]] = {
    "water": (60, 115, 165),
    "grass": (85, 145, 65),
    "sky": (150, 190, 225),
    "road": (112, 110, 112),
    "sand": (205, 180, 130),
    "wall": (180, 160, 148),
}
"""The kinds of ground and their mean colours; they are background, never a class."""
