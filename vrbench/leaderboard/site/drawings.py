"""Small drawings in a page, as SVG without any style of its own: intervals as bars, and layers as a strip of cells.

Only numbers are drawn, and their colours are the style sheet's, so that they follow the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import quantiles

from markupsafe import Markup

from vrbench.core.layers import LayerSet
from vrbench.leaderboard.schema import LayerRegion, ScoreWithCI
from vrbench.reporting.formatting import MINUS

WIDTH, HEIGHT = 116, 14
_INSET = 4
REACH = 1.5
"""How many times the upper quartile of the distances from the mark a scale reaches."""
CELL, GAP = 3, 1
STRIP_HEIGHT = 12
MARKERS = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "m-4 -4h8v8h-8z", "m0 -5l5 5l-5 5l-5 -5z",
    "m0 -5l5 10h-10z", "m-5 -5h10l-5 10z", "m-2 -5h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
)  # fmt: skip
"""Outlines around a point: disc, square, diamond, triangles up and down, plus."""


@dataclass(frozen=True)
class Axis:
    """An axis: the values at its two ends, and the pixels between which they are drawn; the default is that of a bar.

    Attributes:
        mark: where a line is drawn across it: 100 % of the baseline, or no difference.
    """

    low: float
    high: float
    start: float = _INSET
    end: float = WIDTH - _INSET
    mark: float | None = None

    def pixel(self, value: float) -> float:
        """Return where a value is drawn; what is outside is drawn at the end."""
        part = min(1.0, max(0.0, (value - self.low) / ((self.high - self.low) or 1.0)))
        return round(self.start + part * (self.end - self.start), 1)

    def beyond(self, value: float) -> int:
        """Return -1 for what is left of the axis, 1 for what is right of it, else 0."""
        return (value > self.high) - (value < self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return pixel and label of about six round values."""
        rough = (self.high - self.low) / 6
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        numbers = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [(self.pixel(n * step), f"{n * step:.6g}".replace("-", MINUS)) for n in numbers]


def bar_scale(scores: Iterable[ScoreWithCI | None], mark: float | None = None) -> Axis:
    """Return the range of some scores and their intervals, the mark included.

    With a mark, the scale reaches no further from it than `REACH` times the upper quartile of the estimates' distances,
    so that one far away does not compress the others; that one is drawn as an arrow at the end.
    """
    known = [score for score in scores if score is not None and score.value is not None]
    ends = [end for score in known for end in (score.value, score.low, score.high) if end is not None]
    if mark is None:
        return Axis(min(ends, default=0.0), max(ends, default=1.0))
    distances = (abs(score.value - mark) for score in known if score.value is not None)
    far = [distance for distance in distances if distance]
    reach = REACH * quantiles(far, n=4, method="inclusive")[2] if len(far) > 1 else math.inf
    ends.append(mark)
    return Axis(max(min(ends), mark - reach), min(max(ends), mark + reach), mark=mark)


def interval_bar(score: ScoreWithCI | None, scale: Axis) -> Markup:
    """Draw an interval with its estimate; hidden from a screen reader, for which the numbers are beside it."""
    parts = [] if scale.mark is None else [f'<path class="bar-mark" d="M{scale.pixel(scale.mark)} 0V{HEIGHT}"/>']
    middle = HEIGHT / 2
    if score is not None and score.low is not None and score.high is not None:
        parts.append(f'<path class="bar-ends" d="M{scale.pixel(score.low)} {middle:g}H{scale.pixel(score.high)}"/>')
    if score is not None and score.value is not None:
        x, way = scale.pixel(score.value), scale.beyond(score.value)
        arrow = f'<path class="bar-dot" d="M{x + 4 * way:g} {middle:g}l{-7 * way} -4v8z"/>'
        parts.append(arrow if way else f'<circle class="bar-dot" cx="{x}" cy="{middle:g}" r="3"/>')
    return _svg("bar", WIDTH, HEIGHT, parts)


def layer_strip(tuned: LayerSet, removed: LayerSet) -> Markup:
    """Draw one cell a decoder layer, the first at the left: high and filled where tuned, a stroke where removed."""
    shapes: dict[str, list[str]] = {"kept": [], "tuned": [], "removed": []}
    for layer in range(tuned.depth):
        x = layer * (CELL + GAP)
        if layer in tuned:
            shapes["tuned"].append(f"M{x} 0h{CELL}v{STRIP_HEIGHT}h-{CELL}z")
        elif layer not in removed:
            shapes["kept"].append(f"M{x} {STRIP_HEIGHT - 5}h{CELL}v5h-{CELL}z")
        if layer in removed:
            shapes["removed"].append(f"M{x} {STRIP_HEIGHT}l{CELL} -{STRIP_HEIGHT}")
    parts = [f'<path class="strip-{kind}" d="{"".join(paths)}"/>' for kind, paths in shapes.items() if paths]
    return _svg("strip", tuned.depth * (CELL + GAP) - GAP, STRIP_HEIGHT, parts)


def region_strip(region: LayerRegion) -> Markup:
    """Draw the strip of a row of the board."""
    return layer_strip(LayerSet.parse(region.tuned, region.depth), LayerSet.parse(region.removed, region.depth))


def marker(kind: int) -> Markup:
    """Draw the marker of a kind of point in the plots, for their key."""
    number = kind % len(MARKERS)
    return _svg("key-dot", 12, 12, [f'<path class="c{number}" d="M6 6{MARKERS[number]}"/>'])


def _svg(name: str, width: int, height: int, parts: Iterable[str]) -> Markup:
    return Markup(
        f'<svg class="{name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true" '
        f'focusable="false">{"".join(parts)}</svg>'
    )


DRAWINGS = {"interval_bar": interval_bar, "region_strip": region_strip, "layer_strip": layer_strip, "marker": marker}
"""Name in a template -> what draws it."""
