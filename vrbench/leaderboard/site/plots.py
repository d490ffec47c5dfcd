"""The plots of a board as SVG elements; their colours are the style sheet's, so that they follow the reader's theme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vrbench.leaderboard.schema import LeaderboardRow, ScoreWithCI
from vrbench.leaderboard.site import wording
from vrbench.leaderboard.site.columns import getter
from vrbench.leaderboard.site.drawings import MARKERS, Axis
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display

WIDTH, HEIGHT = 430, 350
LEFT, RIGHT, TOP, BOTTOM = 54, WIDTH - 12, 10, HEIGHT - 44
"""Ends of the axes, in pixels."""
MARGIN = 0.09
"""Share of the data's range that is left free at each end of an axis."""
MAX_NAMED = 9
"""Points of a plot up to which each carries its name; of more, the name shows under the pointer."""


@dataclass(frozen=True)
class BoardPlot:
    """One plot of a board's page.

    Attributes:
        name: of its element.
        title: what it shows.
        x_label, y_label: of the axes.
        x, y: a row's values; a row without both is not drawn.
        lines: values at which lines are drawn across the plot: 100 % of the baseline.
        x_range: what the x axis shows; None for the range of the data.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    x: Callable[[LeaderboardRow], ScoreWithCI | None]
    y: Callable[[LeaderboardRow], ScoreWithCI | None]
    lines: tuple[float | None, float | None]
    x_range: tuple[float, float] | None = None

    def content(self, rows: Sequence[LeaderboardRow], kinds: Sequence[str]) -> dict[str, Any] | None:
        """Return what plot.svg.j2 draws; None if no row has both values.

        Args:
            kinds: of all rows, in the order of their colours.
        """
        pairs = [(row, self.x(row), self.y(row)) for row in rows]
        points = [(row, x, y) for row, x, y in pairs if x and y and x.value is not None and y.value is not None]
        if not points:
            return None
        x_low, x_high = self.x_range or _range([x for _, x, _ in points], self.lines[0])
        across = Axis(x_low, x_high, LEFT, RIGHT, self.lines[0])
        up = Axis(*_range([y for _, _, y in points], self.lines[1]), BOTTOM, TOP, self.lines[1])
        drawn = [_point(row, x, y, across, up, kinds.index(kind_of(row))) for row, x, y in points]
        return {
            "about": self,
            "box": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
            "across": across,
            "up": up,
            "points": drawn,
            "names": _names(drawn) if len(points) <= MAX_NAMED else [],
        }


def _range(scores: Sequence[ScoreWithCI], line: float | None) -> tuple[float, float]:
    values = [end for score in scores for end in (score.value, score.low, score.high, line) if end is not None]
    low, high = min(values), max(values)
    margin = MARGIN * (high - low) or 1.0
    return low - margin, high + margin


def _point(row: LeaderboardRow, x: ScoreWithCI, y: ScoreWithCI, across: Axis, up: Axis, kind: int) -> dict[str, Any]:
    """Return one row's marker and intervals as one path: lines have no inside, so only the marker is filled."""
    assert x.value is not None and y.value is not None
    left, top = across.pixel(x.value), up.pixel(y.value)
    path = f"M{left} {top}{MARKERS[kind % len(MARKERS)]}"
    if y.low is not None and y.high is not None:
        path = f"M{left} {up.pixel(y.low)}V{up.pixel(y.high)}" + path
    if x.low is not None and x.high is not None:
        path = f"M{across.pixel(x.low)} {top}H{across.pixel(x.high)}" + path
    means = [(name, mean.retention) for name, mean in (("visual", row.visual), ("text", row.text)) if mean]
    kept = [f"{name} {wording.value(score)} {wording.ends(score)}".strip() + " %" for name, score in means]
    return {
        "row": row,
        "x": left,
        "y": top,
        "path": path,
        "kind": kind % len(MARKERS),
        "is_hollow": row.region.removed_share > 0,
        "title": f"{row.org}/{row.name}: {', '.join(kept)}; {wording.tuned(row.region)} tuned",
    }


def _names(points: Sequence[dict[str, Any]]) -> list[tuple[float, float, str]]:
    """Return labels with positions: each beside its point, at the first place where it covers nothing."""
    taken = [(p["x"] - 6, p["y"] - 6, p["x"] + 6, p["y"] + 6) for p in points]
    found = []
    for point in points:
        name, x, y = sanitize_for_display(point["row"].name, 28), point["x"], point["y"]
        width = 6.2 * len(name)
        for dx, dy in ((9, -18), (-9 - width, -18), (9, 5), (-9 - width, 5), (-width / 2, -21), (-width / 2, 8)):
            left, top, right, bottom = x + dx, y + dy, x + dx + width, y + dy + 13
            is_inside = left >= LEFT and right <= RIGHT and top >= TOP and bottom <= BOTTOM
            if is_inside and not any(
                left < box[2] and box[0] < right and top < box[3] and box[1] < bottom for box in taken
            ):
                taken.append((left, top, right, bottom))
                found.append((round(left, 1), round(bottom - 3, 1), name))
                break
    return found


def kinds_of(rows: Sequence[LeaderboardRow]) -> list[str]:
    """Return the kinds of points of a board's plots, in the order of their colours: the baseline first."""
    return sorted({kind_of(row) for row in rows}, key=lambda kind: (kind != "baseline", kind))


def kind_of(row: LeaderboardRow) -> str:
    """Return which colour and marker a row has in the plots: its tuning, or 'baseline'."""
    return "baseline" if row.is_baseline else row.region.tuning


def plot_contents(rows: Sequence[LeaderboardRow]) -> list[dict[str, Any]]:
    """Return what plot.svg.j2 draws of each plot of a board; those without values are left out."""
    kinds = kinds_of(rows)
    return [content for plot in PLOTS if (content := plot.content(rows, kinds)) is not None]


def _share(row: LeaderboardRow) -> ScoreWithCI:
    return ScoreWithCI(value=100 * row.region.tuned_share)


PLOTS = (
    BoardPlot(
        "plot-both", "Visual score kept, against text score kept",
        "visual score kept, %", "text score kept, %",
        getter("visual.retention"), getter("text.retention"), (100.0, 100.0),
    ),
    BoardPlot(
        "plot-visual", "Visual score kept, against the share of layers tuned",
        "layers tuned, %", "visual score kept, %", _share, getter("visual.retention"), (None, 100.0), (-4.0, 106.0),
    ),
    BoardPlot(
        "plot-text", "Text score kept, against the share of layers tuned",
        "layers tuned, %", "text score kept, %", _share, getter("text.retention"), (None, 100.0), (-4.0, 106.0),
    ),
)  # fmt: skip
