"""How a picture of Scenes is drawn: grounds, clutter, and objects that fit beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weakclip.datasets.scene_shapes import BLUEPRINTS, COLORS, GROUNDS, Distance, box, ellipse, polygon

_CLASS_INDEX = {name: index for index, name in enumerate(BLUEPRINTS, start=1)}


@dataclass(frozen=True)
class Scene:
    """One drawn picture.

    Args:
        image: `(S, S, 3)` uint8.
        mask: `(S, S)` uint8 class indices; no pixel is ignored.
        objects: class name and colour name of every object, in drawing order.
        grounds: the kinds of ground that show, one or two.
    """

    image: np.ndarray
    mask: np.ndarray
    objects: tuple[tuple[str, str], ...]
    grounds: tuple[str, ...]


class _Dice:
    """Uniform numbers straight from the bits of PCG64, whose stream NumPy keeps unchanged on every platform."""

    def __init__(self, seed: Sequence[int]) -> None:
        self._bits = np.random.PCG64(list(seed))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((self._bits.random_raw() >> 11) * 2.0**-53)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def below(self, count: int) -> int:
        return int(self.uniform() * count)

    def choice(self, items: Sequence[str]) -> str:
        return items[self.below(len(items))]

    def bytes(self, count: int) -> np.ndarray:
        return self._bits.random_raw((count + 7) // 8).view(np.uint8)[:count]

    def grid(self, rows: int, columns: int) -> np.ndarray:
        return self.bytes(rows * columns).reshape(rows, columns).astype(np.float32) / 127.5 - 1.0

    def rotation(self, lean: float) -> tuple[float, float]:
        """Cosine and sine of an angle up to `2·atan(lean)`, without trigonometry: the rational circle."""
        t = self.uniform(-lean, lean)
        return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)

    def near(self, color: Sequence[float], spread: float) -> np.ndarray:
        return np.array([channel + self.uniform(-spread, spread) for channel in color], dtype=np.float32).clip(5, 250)


def _stretch(grid: np.ndarray, size: int) -> np.ndarray:
    """Bilinear up-sampling of a coarse grid to `(size, size)`."""
    for axis in (0, 1):
        steps = np.arange(size, dtype=np.float32) * ((grid.shape[axis] - 1) / size)
        low = steps.astype(np.int64)
        weight = (steps - low).reshape((-1, 1) if axis == 0 else (1, -1)).astype(np.float32)
        grid = np.take(grid, low, axis) * (1 - weight) + np.take(grid, low + 1, axis) * weight
    return grid


def _ground(kind: str, size: int, dice: _Dice) -> np.ndarray:
    """A ground of one kind, `(size, size, 3)` float32."""
    rows, columns = {"water": (33, 5), "grass": (9, 41), "sky": (5, 5), "road": (17, 17)}.get(kind, (25, 25))
    texture = 16 * _stretch(dice.grid(rows, columns), size) + 18 * _stretch(dice.grid(4, 4), size)
    if kind == "wall":
        period, offset = max(8, int(size * dice.uniform(0.09, 0.2))), dice.below(size)
        seams = (np.arange(size) + offset) % period < 2
        texture = texture * 0.6 - 22 * (seams[:, None] | (seams[None, :] if dice.chance(0.5) else False))
    return dice.near(GROUNDS[kind], 26) + texture[..., None].astype(np.float32)


class _Canvas:
    """The picture being painted: colours, class mask, and which object owns each pixel."""

    def __init__(self, size: int, dice: _Dice) -> None:
        self.size, self.dice = size, dice
        self.y, self.x = np.mgrid[0:size, 0:size].astype(np.float32)
        self.image = np.zeros((size, size, 3), dtype=np.float32)
        self.mask = np.zeros((size, size), dtype=np.uint8)
        self.owner = np.zeros((size, size), dtype=np.uint8)
        self.telling = np.zeros((size, size), dtype=bool)
        self.areas: list[int] = [0]
        self.telling_areas: list[int] = [0]

    def paint_ground(self, kinds: Sequence[str]) -> None:
        self.image[:] = _ground(kinds[0], self.size, self.dice)
        if len(kinds) == 2:
            tilt, level = self.dice.uniform(-0.15, 0.15), self.dice.uniform(0.25, 0.6)
            below = self.y > level * self.size + tilt * (self.x - self.size / 2)
            self.image[below] = _ground(kinds[1], self.size, self.dice)[below]

    def window(self, cx: float, cy: float, reach: float) -> tuple[slice, slice]:
        def span(centre: float) -> slice:
            return slice(max(0, int(centre - reach)), max(0, min(self.size, int(centre + reach) + 2)))

        return span(cy), span(cx)

    def local(self, place: Place) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The window that an object may touch, and its local coordinates there."""
        view = self.window(place.cx, place.cy, 1.75 * place.radius * place.stretch)
        dx, dy = self.x[view] - place.cx, self.y[view] - place.cy
        u = (dx * place.cos + dy * place.sin) * (place.flip / (place.radius * place.stretch))
        v = (dy * place.cos - dx * place.sin) * (place.stretch / place.radius)
        return view, u, v

    def fill(self, view: tuple[slice, slice], alpha: np.ndarray, color: np.ndarray) -> None:
        region = self.image[view]
        region += alpha[..., None] * (color - region)


@dataclass(frozen=True)
class Place:
    """Where and how an object stands: centre and radius in pixels, rotation, mirror (±1), stretch."""

    cx: float
    cy: float
    radius: float
    cos: float
    sin: float
    flip: float
    stretch: float


def _random_place(dice: _Dice, size: int, radius: float, lean: float) -> Place:
    cos, sin = dice.rotation(lean)
    margin = 0.75 * radius / size
    cx, cy = (dice.uniform(margin, 1 - margin) * size for _ in range(2))
    return Place(cx, cy, radius, cos, sin, 1.0 if dice.chance(0.5) else -1.0, dice.uniform(0.85, 1.18))


def _alpha(shape: Distance, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    return (0.5 - shape(u, v) * radius).clip(0, 1).astype(np.float32)


def _clutter(canvas: _Canvas) -> None:
    """Small plain things that are no class: stones, bars, shards."""
    dice = canvas.dice
    for _ in range(3 + dice.below(5)):
        place = _random_place(dice, canvas.size, dice.uniform(0.03, 0.1) * canvas.size, 0.9)
        shapes = (
            ellipse(0.0, 0.0, 1.0, dice.uniform(0.4, 1.0)),
            box(0.0, 0.0, 1.0, dice.uniform(0.1, 0.9)),
            polygon((0.0, -1.0), (1.0, 0.7), (-0.8, 0.8)),
        )
        view, u, v = canvas.local(place)
        color = dice.near(COLORS[dice.choice(list(COLORS))], 30)
        canvas.fill(view, _alpha(shapes[dice.below(3)], u, v, place.radius), color)


def _body_texture(dice: _Dice, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Shading and a faint pattern of a body, added to its colour, `(h, w)` float32."""
    shade = dice.uniform(-28, 28) * u + dice.uniform(-32, 12) * v
    kind, period, strength = dice.below(4), dice.uniform(0.2, 0.5), dice.uniform(10, 34)
    if kind == 1:
        across = u if dice.chance(0.5) else v
        shade = shade + strength * (np.floor(across / period) % 2 - 0.5)
    elif kind == 2:
        du, dv = u / period - np.floor(u / period) - 0.5, v / period - np.floor(v / period) - 0.5
        shade = shade + strength * (du * du + dv * dv < 0.07)
    elif kind == 3:
        shade = shade + strength * dice.grid(*u.shape) * 0.5
    return shade


def _tones(dice: _Dice, body: np.ndarray) -> dict[str, np.ndarray]:
    bright = int(body[0]) + int(body[1]) + int(body[2]) > 380
    accent = dice.near(COLORS[dice.choice(["red", "orange", "yellow", "blue", "purple", "pink"])], 20)
    dark = dice.near((35, 32, 38) if bright else (90, 20, 25), 20)
    light = dice.near((120, 60, 40) if bright and dice.chance(0.5) else (235, 232, 222), 18)
    return {"body": body, "accent": accent, "dark": dark, "light": light}


def _fits(canvas: _Canvas, view: tuple[slice, slice], inside: np.ndarray, telling: np.ndarray) -> bool:
    """Whether the telling part shows, and no more than a third of any object or of its telling part is hidden."""
    count = len(canvas.areas)
    owner = canvas.owner[view]
    hidden = np.bincount(owner[inside], minlength=count)
    hidden_telling = np.bincount(owner[inside & canvas.telling[view]], minlength=count)
    shows = bool(1000 * np.count_nonzero(telling) >= canvas.size**2)
    return shows and all(
        3 * hidden[other] <= canvas.areas[other] and 3 * hidden_telling[other] <= canvas.telling_areas[other]
        for other in range(1, count)
    )


def _place_object(canvas: _Canvas, name: str, color_name: str, radius: float) -> bool:
    """Paint one object where it fits beside the others; False where ten throws find no such place."""
    dice, blueprint = canvas.dice, BLUEPRINTS[name]
    for _ in range(10):
        place = _random_place(dice, canvas.size, radius, blueprint.lean)
        view, u, v = canvas.local(place)
        alphas = [_alpha(part.shape, u, v, radius) for part in blueprint.parts]
        inside, telling = np.zeros(u.shape, dtype=bool), np.zeros(u.shape, dtype=bool)
        for part, alpha in zip(blueprint.parts, alphas, strict=True):
            inside |= alpha > 0.5
            telling[alpha > 0.5] = part.tone != "body"
        if _fits(canvas, view, inside, telling):
            break
    else:
        return False
    tones = _tones(dice, dice.near(COLORS[color_name], 22))
    texture = _body_texture(dice, u, v)[..., None]
    for part, alpha in zip(blueprint.parts, alphas, strict=True):
        color = tones[part.tone]
        canvas.fill(view, alpha, color + texture if part.tone == "body" else color)
    canvas.mask[view][inside] = _CLASS_INDEX[name]
    canvas.owner[view][inside] = len(canvas.areas)
    canvas.telling[view][inside] = telling[inside]
    canvas.areas.append(int(np.count_nonzero(inside)))
    canvas.telling_areas.append(int(np.count_nonzero(telling)))
    return True


def _grounds_for(dice: _Dice, names: Sequence[str]) -> tuple[str, ...]:
    """The ground that the first class keeps company with, most of the time, and sometimes a second above it."""
    blueprint = BLUEPRINTS[names[0]]
    main = blueprint.company if dice.chance(blueprint.faithful) else dice.choice(list(GROUNDS))
    if main in ("sky", "wall") or dice.chance(0.45):
        return (main,)
    above = dice.choice(["sky", "wall", "grass"])
    return (main,) if above == main else (above, main)


def _place_objects(canvas: _Canvas, names: Sequence[str]) -> list[tuple[str, str]]:
    """Paint the objects that find a place; their class and colour names."""
    dice, placed = canvas.dice, []
    for name in names:
        radius = dice.uniform(0.15, 0.31 - 0.03 * len(names)) * canvas.size
        color_name = dice.choice(list(COLORS))
        if _place_object(canvas, name, color_name, radius):
            placed.append((name, color_name))
    return placed


def draw_scene(seed: Sequence[int], *, size: int = 128) -> Scene:
    """Draw one picture; the same seed and size give the same bytes on every machine.

    Args:
        seed: non-negative integers that name the picture.
        size: height and width in pixels, 64 or more.

    Returns:
        The scene; 1 to 3 classes, at most 4 objects.
    """
    dice = _Dice(seed)
    throw = dice.uniform()
    count = 1 if throw < 0.35 else 2 if throw < 0.75 else 3
    left, names = list(BLUEPRINTS), []
    for _ in range(count):
        names.append(left.pop(dice.below(len(left))))
    grounds = _grounds_for(dice, names)
    if dice.chance(0.25):
        names.append(names[0])
    canvas = _Canvas(size, dice)
    canvas.paint_ground(grounds)
    _clutter(canvas)
    objects: list[tuple[str, str]] = []
    while not objects:
        objects = _place_objects(canvas, names)
    noise = dice.bytes(size * size * 3).reshape(size, size, 3).astype(np.float32) * (dice.uniform(8, 26) / 255)
    light = dice.uniform(0.8, 1.12)
    image = (canvas.image * light + noise).clip(0, 255).astype(np.uint8)
    return Scene(image, canvas.mask, tuple(objects), grounds)
