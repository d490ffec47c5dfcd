"""Scenes of shapes and written words, and how they are drawn (numpy only; the same bytes on every machine).

A scene is a value: things (shape, colour, size, place), words, background and clutter, all made from one seed. Seeds
of the splits are disjoint ranges, so no training picture is a test picture.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vrbench.pocket.glyphs import STROKES, WORDS

SIDE = 128
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "hexagon")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 40),
    "green": (45, 150, 60),
    "blue": (45, 80, 205),
    "yellow": (225, 195, 35),
    "orange": (230, 125, 30),
    "purple": (135, 60, 165),
    "teal": (35, 150, 155),
    "brown": (125, 80, 45),
}
SIZES = ("small", "large")
RADII = {"small": (6.5, 8.5), "large": (11.0, 14.0)}
SPLIT_SEEDS = {"test": 1_000_000_000, "dev": 2_000_000_000, "train": 3_000_000_000}
SEEDS_PER_SPLIT = 1_000_000_000
PLACE_TRIES = 60


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape; x, y (centre) and radius in pixels, angle in degrees."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: int
    rgb: tuple[int, int, int]

    @property
    def name(self) -> str:
        """Such as "red circle"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Word:
    """One written word; x, y (centre of the word), letter height and pen width in pixels."""

    text: str
    colour: str
    x: float
    y: float
    height: float
    pen: float
    slant: float
    angle: int
    rgb: tuple[int, int, int]

    @property
    def half_width(self) -> float:
        """Half of the drawn width in pixels."""
        return len(self.text) * self.advance / 2

    @property
    def advance(self) -> float:
        """Distance from letter to letter in pixels."""
        return self.height * 0.86

    def letter_centres(self) -> list[tuple[float, float]]:
        """Centre of each letter in pixels."""
        cos, sin = _turn(self.angle)
        offsets = [(i + 0.5) * self.advance - self.half_width for i in range(len(self.text))]
        return [(self.x + cos * o, self.y + sin * o) for o in offsets]


@dataclass(frozen=True)
class Scene:
    """All that a picture shows; equal scenes are equal pictures."""

    seed: int
    things: tuple[SceneObject, ...]
    words: tuple[Word, ...]
    background: tuple[int, int, int]
    lines: tuple[tuple[float, float, float, float, int], ...]
    noise: int


def scene(split: str, index: int) -> Scene:
    """The scene number `index` of a split ("train", "dev" or "test"): always the same one."""
    if not 0 <= index < SEEDS_PER_SPLIT:
        raise ValueError(f"scene index is {index}; a split has {SEEDS_PER_SPLIT}")
    seed = SPLIT_SEEDS[split] + index
    rng = random.Random(seed)
    taken: list[tuple[float, float, float, float]] = []
    words = _place_words(rng, taken)
    things = _place_things(rng, taken)
    dark = rng.random() < 0.25
    base = rng.randint(18, 52) if dark else rng.randint(205, 250)
    background = _jitter(rng, (base, base, base), 8)
    lines = tuple(
        (rng.random() * SIDE, rng.random() * SIDE, rng.random() * SIDE, rng.random() * SIDE, rng.randint(-38, 38))
        for _ in range(rng.randint(1, 5))
    )
    return Scene(seed, things, words, background, lines, rng.randint(10, 34))


def draw(of: Scene) -> NDArray[np.uint8]:
    """The picture of a scene: [SIDE, SIDE, 3], uint8 RGB."""
    canvas = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    canvas[:] = of.background
    for x0, y0, x1, y1, shade in of.lines:
        grey = tuple(float(np.clip(c + shade, 0, 255)) for c in of.background)
        _ink(canvas, [((x0, y0), (x1, y1))], 0.7, grey)
    for thing in of.things:
        _fill(canvas, thing)
    for word in of.words:
        _ink(canvas, _pen_strokes(word), word.pen / 2, word.rgb)
    source = np.random.Generator(np.random.PCG64(of.seed))
    grain = source.integers(-of.noise, of.noise + 1, canvas.shape, dtype=np.int16)
    return np.clip(np.rint(canvas) + grain, 0, 255).astype(np.uint8)


def _place_words(rng: random.Random, taken: list[tuple[float, float, float, float]]) -> tuple[Word, ...]:
    count = rng.choice((0, 1, 1, 2))
    texts = rng.sample(WORDS, count)
    colours = rng.sample(list(COLOURS), count)
    words = []
    for text, colour in zip(texts, colours, strict=True):
        word = Word(
            text, colour, 0.0, 0.0, rng.uniform(9.5, 13.0), rng.uniform(1.1, 1.9), rng.uniform(-0.15, 0.3),
            rng.choice(range(-10, 11, 2)), _jitter(rng, COLOURS[colour], 18),
        )  # fmt: skip
        lean = abs(_turn(word.angle)[1]) * word.half_width
        half = (word.half_width + 2, word.height / 2 + lean + 2)
        place = _free_place(rng, taken, half)
        if place:
            words.append(Word(**{**word.__dict__, "x": place[0], "y": place[1]}))
    return tuple(words)


def _place_things(rng: random.Random, taken: list[tuple[float, float, float, float]]) -> tuple[SceneObject, ...]:
    count = rng.randint(2, 9)
    # A few shapes and colours a scene, so that one often has to look at both to tell two things apart.
    shapes = rng.sample(SHAPES, rng.randint(2, 4))
    colours = rng.sample(list(COLOURS), rng.randint(2, 4))
    things = []
    for _ in range(count):
        size = rng.choice(SIZES)
        radius = rng.uniform(*RADII[size])
        place = _free_place(rng, taken, (radius + 1.5, radius + 1.5))
        shape, colour = rng.choice(shapes), rng.choice(colours)
        angle = rng.choice(range(-20, 21, 4))
        rgb = _jitter(rng, COLOURS[colour], 22)
        if place:
            things.append(SceneObject(shape, colour, size, place[0], place[1], radius, angle, rgb))
    return tuple(things)


def _free_place(
    rng: random.Random, taken: list[tuple[float, float, float, float]], half: tuple[float, float]
) -> tuple[float, float] | None:
    """A centre whose box overlaps no taken box; the box is then taken. None if `PLACE_TRIES` draws found none."""
    half_x, half_y = half
    for _ in range(PLACE_TRIES):
        x, y = rng.uniform(half_x, SIDE - half_x), rng.uniform(half_y, SIDE - half_y)
        if all(abs(x - tx) > half_x + hx or abs(y - ty) > half_y + hy for tx, ty, hx, hy in taken):
            taken.append((x, y, half_x, half_y))
            return x, y
    return None


def _jitter(rng: random.Random, rgb: tuple[int, int, int], by: int) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, c + rng.randint(-by, by))) for c in rgb)
    return red, green, blue


@cache
def _turn(degrees: int) -> tuple[float, float]:
    """Cosine and sine, rounded so that no two math libraries differ."""
    return round(math.cos(math.radians(degrees)), 6), round(math.sin(math.radians(degrees)), 6)


def _polygon(count: int, inner: float = 1.0, first: int = -90) -> list[tuple[float, float]]:
    """A regular polygon of radius 1, or a star where every other corner lies at `inner`."""
    corners = []
    for k in range(count):
        cos, sin = _turn(first + 360 * k // count)
        scale = inner if k % 2 else 1.0
        corners.append((cos * scale, sin * scale))
    return corners


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": _polygon(3),
    "star": _polygon(10, inner=0.45),
    "cross": [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3),
              (-1, 0.3), (-1, -0.3), (-0.3, -0.3)],
    "diamond": [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)],
    "hexagon": _polygon(6),
}  # fmt: skip


def _window(x: float, y: float, half_x: float, half_y: float) -> tuple[slice, slice, NDArray, NDArray]:
    """The canvas rows and columns around a centre, and the pixel centres' offsets from it."""
    top, bottom = max(0, int(y - half_y)), min(SIDE, int(y + half_y) + 2)
    left, right = max(0, int(x - half_x)), min(SIDE, int(x + half_x) + 2)
    rows = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    columns = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - x)
    return slice(top, bottom), slice(left, right), rows, columns


def _fill(canvas: NDArray, thing: SceneObject) -> None:
    rows, columns, dy, dx = _window(thing.x, thing.y, thing.radius + 2, thing.radius + 2)
    if thing.shape in ("circle", "ring"):
        distance = np.sqrt(dx * dx + dy * dy)
        outside = distance - thing.radius * 0.95
        if thing.shape == "ring":
            outside = np.maximum(outside, thing.radius * 0.52 - distance)
    else:
        cos, sin = _turn(thing.angle)
        corners = [
            (thing.radius * (cos * a - sin * b), thing.radius * (sin * a + cos * b)) for a, b in _OUTLINES[thing.shape]
        ]
        outside = _outside_polygon(dx, dy, corners)
    _blend(canvas, rows, columns, np.clip(0.5 - outside, 0.0, 1.0), thing.rgb)


def _outside_polygon(dx: NDArray, dy: NDArray, corners: list[tuple[float, float]]) -> NDArray:
    """Signed distance in pixels to a closed polygon, negative inside (even-odd rule)."""
    nearest = np.full(np.broadcast_shapes(dx.shape, dy.shape), np.float32(1e9))
    inside = np.zeros(nearest.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        nearest = np.minimum(nearest, _squared_distance(dx, dy, (ax, ay), (bx, by)))
        if ay != by:
            crosses = (dy < ay) != (dy < by)
            inside ^= crosses & (dx < np.float32(ax) + (dy - np.float32(ay)) * np.float32((bx - ax) / (by - ay)))
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def _squared_distance(dx: NDArray, dy: NDArray, start: tuple[float, float], end: tuple[float, float]) -> NDArray:
    (ax, ay), (bx, by) = start, end
    length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-6)
    across, down = np.float32(bx - ax), np.float32(by - ay)
    from_x, from_y = dx - np.float32(ax), dy - np.float32(ay)
    along = np.clip((from_x * across + from_y * down) / np.float32(length), 0.0, 1.0)
    return (from_x - along * across) ** 2 + (from_y - along * down) ** 2


def _pen_strokes(word: Word) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The word's strokes as segments in pixels."""
    cos, sin = _turn(word.angle)
    scale = word.height / 6
    segments = []
    for i, letter in enumerate(word.text):
        left = i * word.advance - word.half_width + word.advance * 0.12
        for stroke in STROKES[letter]:
            points = []
            for gx, gy in stroke:
                across = left + gx * scale + (3 - gy) * scale * word.slant
                down = (gy - 3) * scale
                points.append((word.x + cos * across - sin * down, word.y + sin * across + cos * down))
            segments += list(pairwise(points))
    return segments


def _ink(canvas: NDArray, segments: list[tuple[tuple[float, float], tuple[float, float]]], radius: float,
         rgb: tuple[float, ...]) -> None:  # fmt: skip
    """Draw segments with a round pen of the given radius in pixels."""
    for (ax, ay), (bx, by) in segments:
        x, y = (ax + bx) / 2, (ay + by) / 2
        half = radius + 1.5
        rows, columns, dy, dx = _window(x, y, abs(bx - ax) / 2 + half, abs(by - ay) / 2 + half)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        distance = np.sqrt(_squared_distance(dx, dy, (ax - x, ay - y), (bx - x, by - y)))
        _blend(canvas, rows, columns, np.clip(radius + 0.5 - distance, 0.0, 1.0), rgb)


def _blend(canvas: NDArray, rows: slice, columns: slice, alpha: NDArray, rgb: tuple[float, ...]) -> None:
    patch = canvas[rows, columns]
    patch += alpha[..., None] * (np.asarray(rgb, dtype=np.float32) - patch)
