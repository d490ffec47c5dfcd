"""Scenes of objects and written words, each made from one seed (no image library; see `vrbench.pocket.drawing`).

Seeds of the splits are disjoint ranges, so no training image is a test image.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cache

from vrbench.pocket import vocabulary

WORDS: tuple[str, ...] = tuple(vocabulary()["drawn_words"].split())
Box = tuple[float, float, float, float]
"""Centre x and y, half width and half height, pixels."""

SIDE = 128
"""Pixels of an image's sides."""

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
        cos, sin = cos_sin(self.angle)
        offsets = [(i + 0.5) * self.advance - self.half_width for i in range(len(self.text))]
        return [(self.x + cos * o, self.y + sin * o) for o in offsets]


@dataclass(frozen=True)
class Scene:
    """All that an image shows; equal scenes are equal images."""

    seed: int
    objects: tuple[SceneObject, ...]
    words: tuple[Word, ...]
    background: tuple[int, int, int]
    lines: tuple[tuple[float, float, float, float, int], ...]
    noise: int


def scene(split: str, index: int) -> Scene:
    """Return scene number `index` of a split ("train", "dev" or "test"): always the same one.

    Raises:
        ValueError: a split has no scene of that number.
    """
    if not 0 <= index < SEEDS_PER_SPLIT:
        raise ValueError(f"scene index is {index}; a split has {SEEDS_PER_SPLIT}")
    seed = SPLIT_SEEDS[split] + index
    rng = random.Random(seed)
    taken: list[Box] = []
    words = _place_words(rng, taken)
    objects = _place_objects(rng, taken)
    dark = rng.random() < 0.25
    base = rng.randint(18, 52) if dark else rng.randint(205, 250)
    background = _jitter(rng, (base, base, base), 8)
    lines = tuple(
        (rng.random() * SIDE, rng.random() * SIDE, rng.random() * SIDE, rng.random() * SIDE, rng.randint(-38, 38))
        for _ in range(rng.randint(1, 5))
    )
    return Scene(seed, objects, words, background, lines, rng.randint(10, 34))


def _place_words(rng: random.Random, taken: list[Box]) -> tuple[Word, ...]:
    count = rng.choice((0, 1, 1, 2))
    texts = rng.sample(WORDS, count)
    colours = rng.sample(list(COLOURS), count)
    words = []
    for text, colour in zip(texts, colours, strict=True):
        word = Word(
            text, colour, 0.0, 0.0, rng.uniform(9.5, 13.0), rng.uniform(1.1, 1.9), rng.uniform(-0.15, 0.3),
            rng.choice(range(-10, 11, 2)), _jitter(rng, COLOURS[colour], 18),
        )  # fmt: skip
        lean = abs(cos_sin(word.angle)[1]) * word.half_width
        half = (word.half_width + 2, word.height / 2 + lean + 2)
        place = _free_place(rng, taken, half)
        if place:
            words.append(replace(word, x=place[0], y=place[1]))
    return tuple(words)


def _place_objects(rng: random.Random, taken: list[Box]) -> tuple[SceneObject, ...]:
    count = rng.randint(2, 9)
    # A few shapes and colours a scene, so that often only both together identify an object.
    shapes = rng.sample(SHAPES, rng.randint(2, 4))
    colours = rng.sample(list(COLOURS), rng.randint(2, 4))
    objects = []
    for _ in range(count):
        size = rng.choice(SIZES)
        radius = rng.uniform(*RADII[size])
        place = _free_place(rng, taken, (radius + 1.5, radius + 1.5))
        shape, colour = rng.choice(shapes), rng.choice(colours)
        angle = rng.choice(range(-20, 21, 4))
        rgb = _jitter(rng, COLOURS[colour], 22)
        if place:
            objects.append(SceneObject(shape, colour, size, place[0], place[1], radius, angle, rgb))
    return tuple(objects)


def _free_place(rng: random.Random, taken: list[Box], half: tuple[float, float]) -> tuple[float, float] | None:
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
def cos_sin(degrees: int) -> tuple[float, float]:
    """Cosine and sine, rounded so that no two math libraries differ."""
    return round(math.cos(math.radians(degrees)), 6), round(math.sin(math.radians(degrees)), 6)
