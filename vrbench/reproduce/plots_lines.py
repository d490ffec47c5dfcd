"""Plots with lines: over layers tuned, data, layers removed and restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.reporting.drawing import legend, look_of, panels
from vrbench.reproduce.published import PUBLISHED
from vrbench.reproduce.results import PlanResults
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import TABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VISUAL, TEXT = "visual score kept, %", "text, points"


@dataclass(frozen=True)
class Curve:
    """One line: points (x, visual kept in percent, text in points); the baseline's are 100 and 0, without interval."""

    name: str
    points: tuple[tuple[float, SeedEstimate | None, SeedEstimate | None], ...]


def layers(results: PlanResults) -> tuple[Figure, str] | None:
    """What is kept over the number of layers tuned; what was published in a panel of its own."""
    found = curves(results, "layers")
    if not found:
        return None
    figure, ((visual, text, theirs),) = panels(10.2, 3.8, 1, 3)
    theirs.sharey(visual)
    for axes in (visual, text, theirs):
        axes.set_xscale("log", base=2)
    for place, curve in enumerate(found):
        _curve(visual, curve, 1, look_of(place))
        _curve(text, curve, 2, look_of(place))
    table = PUBLISHED["layers"]
    kept = [(float(row[0]), float(row[2])) for row in table.rows]
    grey: dict[str, Any] = {"color": "#808080", "marker": "o", "markerfacecolor": "none", "linestyle": (0, (4, 3))}
    theirs.plot([x for x, _ in kept], [y for _, y in kept], **grey)
    theirs.set_title(f"published ({table.source}, second hand):\n{table.model}", fontsize=8.5, color="#808080")
    _axes(visual, "layers", VISUAL, 100.0)
    _axes(text, "layers", TEXT, 0.0)
    _axes(theirs, "layers", VISUAL, 100.0)
    for axes, ticks in ((visual, _ticks(found)), (text, _ticks(found)), (theirs, [x for x, _ in kept])):
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
        axes.minorticks_off()
    title = "How many layers: what is kept, with 95 % intervals"
    legend(figure, title, columns=4)
    return figure, _alt(title, found)


def data(results: PlanResults) -> tuple[Figure, str] | None:
    """What is kept over the share of the training data."""
    return _two(results, "data", "How much data: what is kept, with 95 % intervals")


def restoring(results: PlanResults) -> tuple[Figure, str] | None:
    """What is kept over the number of layers restored."""
    return _two(results, "restoring", "Layers put back to the backbone's weights: what is kept")


def _two(results: PlanResults, key: str, title: str) -> tuple[Figure, str] | None:
    """Visual and text side by side."""
    found = curves(results, key)
    if not found:
        return None
    figure, ((visual, text),) = panels(8.6, 3.6, 1, 2)
    for place, curve in enumerate(found):
        shift = _shift(place, len(found), _ticks(found))
        _curve(visual, curve, 1, look_of(place), shift=shift)
        _curve(text, curve, 2, look_of(place), shift=shift)
    for axes, label, zero in ((visual, VISUAL, 100.0), (text, TEXT, 0.0)):
        _axes(axes, key, label, zero)
        axes.set_xticks(_ticks(found), [f"{x:g}" for x in _ticks(found)])
    legend(figure, title, columns=4)
    return figure, _alt(title, found)


def pruning(results: PlanResults) -> tuple[Figure, str] | None:
    """A column for each way of choosing what goes; all layers tuned against the region in each."""
    found = curves(results, "pruning")
    ways = list(dict.fromkeys(_way(curve.name) for curve in found))
    models = list(dict.fromkeys(_model(curve.name) for curve in found))
    if not found:
        return None
    figure, grid = panels(2.1 + 1.75 * len(ways), 5.4, 2, len(ways), sharex=True, sharey="row")
    for column, way in enumerate(ways):
        for curve in found:
            if _way(curve.name) == way:
                shown = Curve(_model(curve.name), curve.points)
                place = models.index(shown.name)
                shift = 2 * _shift(place, len(models), _ticks(found))
                for row in (0, 1):
                    _curve(grid[row][column], shown, row + 1, look_of(place), labelled=False, shift=shift)
        grid[0][column].set_title(way, fontsize=9.5)
        grid[1][column].set_xticks([x for x in _ticks(found) if x % 2 == 0])
        _axes(grid[0][column], "", VISUAL if column == 0 else "", 100.0)
        _axes(grid[1][column], "pruning", TEXT if column == 0 else "", 0.0)
    for place, name in enumerate(models):
        grid[0][0].plot([], [], label=name, **look_of(place))
    title = "Layers removed: what is kept of the model tuned everywhere, with 95 % intervals"
    legend(figure, title, columns=4)
    return figure, _alt(title, found)


def _model(series: str) -> str:
    """'region, any layer' of 'region, any layer, by loss'."""
    parts = series.split(", ")
    return ", ".join(parts[:2]) if len(parts) > 2 and parts[1] == "any layer" else parts[0]


def _way(series: str) -> str:
    """'by loss, healed' of 'region, by loss, healed'."""
    return series.removeprefix(_model(series)).removeprefix(", ") or "removed"


def curves(results: PlanResults, key: str) -> list[Curve]:
    """The lines of a table, those that have a figure."""
    visual, words = results.pool("visual"), results.pool("text")
    points: dict[str, list[tuple[float, SeedEstimate | None, SeedEstimate | None]]] = {}
    for row in results.rows.get(key, ()):
        if row.x is None or not row.pairs:
            continue
        if row.is_baseline:
            kept, gained = SeedEstimate(100.0, None, None, {}), SeedEstimate(0.0, None, None, {})
            point = (row.x, kept if visual else None, gained if words else None)
        else:
            point = (row.x, results.kept(row, visual), results.gained(row, words))
        points.setdefault(row.series, []).append(point)
    return [Curve(name, tuple(sorted(found, key=lambda p: p[0]))) for name, found in points.items()]


def _curve(
    axes: Axes, curve: Curve, which: int, look: dict[str, Any], labelled: bool = True, shift: float = 0.0
) -> None:
    """Draw a line: `which` is 1 for visual, 2 for text; `shift` moves it aside, so that intervals do not overlap."""
    known = [(p[0] + shift, p[which]) for p in curve.points if p[which] is not None]
    shown = [(x, found) for x, found in known if isinstance(found, SeedEstimate)]
    label: dict[str, Any] = {"label": curve.name or "measured here"} if labelled and which == 1 else {}
    axes.plot([x for x, _ in shown], [e.value for _, e in shown], markersize=4.5, linewidth=1.4, **label, **look)
    for x, found in shown:
        if found.ends is not None:
            axes.plot([x, x], found.ends, color=look["color"], linewidth=1.6, alpha=0.75)
        if len(found.each) > 1:
            ring: dict[str, Any] = {"marker": "o", "markersize": 2.6, "markerfacecolor": "none", "linestyle": ""}
            axes.plot([x] * len(found.each), list(found.each.values()), color=look["color"], alpha=0.8, **ring)


def _axes(axes: Axes, key: str, label: str, zero: float) -> None:
    axes.axhline(zero, color=axes.xaxis.label.get_color(), linewidth=0.8)
    axes.grid(linewidth=0.6)
    axes.set_ylabel(label)
    if key:
        axes.set_xlabel(TABLES[key].x + (", %" if TABLES[key].unit else ""))


def _shift(place: int, count: int, ticks: Sequence[float]) -> float:
    """How far one of several lines is moved aside: about 1 % of the axis between two of them."""
    return (place - (count - 1) / 2) * 0.012 * (ticks[-1] - ticks[0])


def _ticks(found: Sequence[Curve]) -> list[float]:
    return sorted({point[0] for curve in found for point in curve.points})


def _alt(title: str, found: Sequence[Curve]) -> str:
    """The visual figures in words."""
    told = []
    for curve in found:
        points = ", ".join(f"{x:g}: {visual.value:.1f} %" for x, visual, _ in curve.points if visual is not None)
        told.append(f"{curve.name or 'measured here'}: {points}")
    return f"{title}. Visual score kept; {'; '.join(told)}."
