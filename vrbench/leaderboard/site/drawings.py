"""Small drawings in a page, as SVG without any style of its own: intervals as bars, and layers as a strip of cells.

Only numbers go into them, and their colours are the style sheet's, so that they follow the reader's theme.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from statistics import quantiles

from markupsafe import Markup

from vrbench.core.layers import LayerSet
from vrbench.leaderboard.schema import LayerRegion, ScoreWithCI

WIDTH, HEIGHT = 116, 14
_INSET = 4
REACH = 1.5
"""How many times the upper quartile of the distances from the mark a scale reaches."""
CELL, GAP = 3, 1
STRIP_HEIGHT = 12


MARKERS = (
    "M2 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "M2 2h8v8h-8z", "M6 1l5 5l-5 5l-5 -5z",
    "M6 1l5 10h-10z", "M1 1h10l-5 10z", "M4 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
)  # fmt: skip
"""Those of `vrbench.reporting.drawing.MARKERS`: disc, square, diamond, triangles up and down, plus."""


@dataclass(frozen=True)
class Scale:
    """What the bars of one column have in common, so that they can be compared by eye."""

    low: float
    """Value at the left end."""
    high: float
    """Value at the right end."""
    mark: float | None = None
    """Where a line stands: 100 % of the baseline, or no difference."""

    def x(self, value: float) -> float:
        """Where a value lies, in pixels; what lies outside is drawn at the end."""
        span = (self.high - self.low) or 1.0
        part = min(1.0, max(0.0, (value - self.low) / span))
        return round(_INSET + part * (WIDTH - 2 * _INSET), 1)

    def beyond(self, value: float) -> int:
        """-1 for what lies left of the scale, 1 for what lies right of it, else 0."""
        return (value > self.high) - (value < self.low)


def scale_of(figures: Iterable[ScoreWithCI | None], mark: float | None = None) -> Scale:
    """The range of some figures and their intervals, the mark within it.

    With a mark, the scale reaches no further from it than `REACH` times the upper quartile of the estimates' distances,
    so that one far away does not press the others together; it is drawn as an arrow at the end.
    """
    known = [figure for figure in figures if figure is not None and figure.value is not None]
    ends = [end for figure in known for end in (figure.value, figure.low, figure.high) if end is not None]
    if mark is None:
        return Scale(min(ends, default=0.0), max(ends, default=1.0), mark)
    distances = (abs(figure.value - mark) for figure in known if figure.value is not None)
    far = [distance for distance in distances if distance]
    reach = REACH * quantiles(far, n=4, method="inclusive")[2] if len(far) > 1 else inf
    low, high = (choose([*ends, mark]) for choose in (min, max))
    return Scale(max(low, mark - reach), min(high, mark + reach), mark)


def interval_bar(figure: ScoreWithCI | None, scale: Scale) -> Markup:
    """An interval with its estimate; hidden from a screen reader, for which the numbers stand beside it."""
    parts = [] if scale.mark is None else [f'<path class="bar-mark" d="M{scale.x(scale.mark)} 0V{HEIGHT}"/>']
    middle = HEIGHT / 2
    if figure is not None and figure.low is not None and figure.high is not None:
        left, right = scale.x(figure.low), scale.x(figure.high)
        parts.append(f'<path class="bar-ends" d="M{left} {middle:g}H{right}"/>')
    if figure is not None and figure.value is not None:
        x, way = scale.x(figure.value), scale.beyond(figure.value)
        arrow = f'<path class="bar-dot" d="M{x + 4 * way:g} {middle:g}l{-7 * way} -4v8z"/>'
        parts.append(arrow if way else f'<circle class="bar-dot" cx="{x}" cy="{middle:g}" r="3"/>')
    return _svg("bar", WIDTH, HEIGHT, parts)


def layer_strip(tuned: LayerSet, removed: LayerSet) -> Markup:
    """One cell a decoder layer, the first at the left: high and filled where tuned, a stroke where removed."""
    low, height = STRIP_HEIGHT, STRIP_HEIGHT
    shapes: dict[str, list[str]] = {"kept": [], "tuned": [], "removed": []}
    for layer in range(tuned.depth):
        x = layer * (CELL + GAP)
        if layer in tuned:
            shapes["tuned"].append(f"M{x} 0h{CELL}v{height}h-{CELL}z")
        elif layer not in removed:
            shapes["kept"].append(f"M{x} {low - 5}h{CELL}v5h-{CELL}z")
        if layer in removed:
            shapes["removed"].append(f"M{x} {low}l{CELL} -{height}")
    parts = [f'<path class="strip-{kind}" d="{"".join(paths)}"/>' for kind, paths in shapes.items() if paths]
    return _svg("strip", tuned.depth * (CELL + GAP) - GAP, STRIP_HEIGHT, parts)


def region_strip(region: LayerRegion) -> Markup:
    """The strip of a row of the board."""
    return layer_strip(LayerSet.parse(region.tuned, region.depth), LayerSet.parse(region.removed, region.depth))


def marker(place: int) -> Markup:
    """The marker of the n-th kind of point in the plots, for their key."""
    shape = MARKERS[place % len(MARKERS)]
    return _svg("key-dot", 12, 12, [f'<path class="c{place % len(MARKERS)}" d="{shape}"/>'])


def _svg(name: str, width: int, height: int, parts: Iterable[str]) -> Markup:
    return Markup(
        f'<svg class="{name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true" '
        f'focusable="false">{"".join(parts)}</svg>'
    )


DRAWINGS = {
    "interval_bar": interval_bar, "region_strip": region_strip, "layer_strip": layer_strip,
    "marker": marker,
}  # fmt: skip
"""Name in a template -> what draws it."""
