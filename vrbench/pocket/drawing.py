"""How scenes are drawn (numpy only; the same bytes on every machine)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vrbench.pocket import vocabulary
from vrbench.pocket.world import SIDE, Scene, SceneObject, Word, cos_sin

Point = tuple[float, float]
STROKES: dict[str, list[list[Point]]] = vocabulary()["strokes"]
"""Letter -> its pen strokes on a grid 4 wide and 6 high, y downwards."""


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Return the image of a scene: [SIDE, SIDE, 3], uint8 RGB."""
    canvas = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    canvas[:] = scene.background
    for x0, y0, x1, y1, shade in scene.lines:
        grey = tuple(float(np.clip(c + shade, 0, 255)) for c in scene.background)
        _ink(canvas, [((x0, y0), (x1, y1))], 0.7, grey)
    for obj in scene.objects:
        _fill(canvas, obj)
    for word in scene.words:
        _ink(canvas, _pen_strokes(word), word.pen / 2, word.rgb)
    source = np.random.Generator(np.random.PCG64(scene.seed))
    grain = source.integers(-scene.noise, scene.noise + 1, canvas.shape, dtype=np.int16)
    return np.clip(np.rint(canvas) + grain, 0, 255).astype(np.uint8)


def _polygon(count: int, inner: float = 1.0, first: int = -90) -> list[Point]:
    """A regular polygon of radius 1, or a star where every other corner lies at `inner`."""
    corners = []
    for k in range(count):
        cos, sin = cos_sin(first + 360 * k // count)
        scale = inner if k % 2 else 1.0
        corners.append((cos * scale, sin * scale))
    return corners


_OUTLINES: dict[str, list[Point]] = {
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


def _fill(canvas: NDArray, obj: SceneObject) -> None:
    rows, columns, dy, dx = _window(obj.x, obj.y, obj.radius + 2, obj.radius + 2)
    if obj.shape in ("circle", "ring"):
        distance = np.sqrt(dx * dx + dy * dy)
        outside = distance - obj.radius * 0.95
        if obj.shape == "ring":
            outside = np.maximum(outside, obj.radius * 0.52 - distance)
    else:
        cos, sin = cos_sin(obj.angle)
        corners = [
            (obj.radius * (cos * a - sin * b), obj.radius * (sin * a + cos * b)) for a, b in _OUTLINES[obj.shape]
        ]
        outside = _outside_polygon(dx, dy, corners)
    _blend(canvas, rows, columns, np.clip(0.5 - outside, 0.0, 1.0), obj.rgb)


def _outside_polygon(dx: NDArray, dy: NDArray, corners: list[Point]) -> NDArray:
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


def _squared_distance(dx: NDArray, dy: NDArray, start: Point, end: Point) -> NDArray:
    (ax, ay), (bx, by) = start, end
    length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-6)
    across, down = np.float32(bx - ax), np.float32(by - ay)
    from_x, from_y = dx - np.float32(ax), dy - np.float32(ay)
    along = np.clip((from_x * across + from_y * down) / np.float32(length), 0.0, 1.0)
    return (from_x - along * across) ** 2 + (from_y - along * down) ** 2


def _pen_strokes(word: Word) -> list[tuple[Point, Point]]:
    """The word's strokes as segments in pixels."""
    cos, sin = cos_sin(word.angle)
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


def _ink(canvas: NDArray, segments: list[tuple[Point, Point]], radius: float,
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
