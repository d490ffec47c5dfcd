"""The report's plots (matplotlib): curves here, rows and bars in `vrbench.reproduce.row_plots`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.reporting.drawing import encode_figure, legend, new_panels, series_style, to_dark_theme, use_theme
from vrbench.reproduce import row_plots
from vrbench.reproduce.results import PlanResults
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import PUBLISHED, TABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[[PlanResults], "tuple[Figure, str] | None"]
"""Results -> the figure and its description in words; None without data."""

VISUAL, TEXT = "visual score kept, %", "text, points"


@dataclass(frozen=True)
class ReportPlot:
    """One plot.

    Attributes:
        name: of its files, without an ending.
        alt: its description in words.
        png: light.
        svg: light.
        dark: svg, for a dark page.
    """

    name: str
    alt: str
    png: bytes
    svg: bytes
    dark: bytes


def report_plots(results: PlanResults, key: str) -> tuple[ReportPlot, ...]:
    """Return the plots of a table that the data allow; the same bytes for the same results."""
    found = []
    for name, draw in PLOTS.get(key, {}).items():
        with use_theme():
            if drawn := draw(results):
                figure, alt = drawn
                light = encode_figure(figure, "svg")
                found.append(ReportPlot(name, alt, encode_figure(figure, "png"), light, to_dark_theme(light)))
    return tuple(found)


@dataclass(frozen=True)
class _Curve:
    """One curve: points (x, visual retention in percent, text in points); the baseline's have no interval."""

    name: str
    points: tuple[tuple[float, SeedEstimate | None, SeedEstimate | None], ...]


def layers(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot retention over the number of tuned layers, and published values in a panel of their own."""
    curves = _curves(results, "layers")
    if not curves:
        return None
    figure, ((visual, text, theirs),) = new_panels(10.2, 3.8, 1, 3)
    theirs.sharey(visual)
    for axes in (visual, text, theirs):
        axes.set_xscale("log", base=2)
    for index, curve in enumerate(curves):
        _draw_curve(visual, curve, 1, series_style(index))
        _draw_curve(text, curve, 2, series_style(index))
    table = PUBLISHED["layers"]
    published = [(float(row[0]), float(row[2])) for row in table.rows]
    grey: dict[str, Any] = {"color": "#808080", "marker": "o", "markerfacecolor": "none", "linestyle": (0, (4, 3))}
    theirs.plot([x for x, _ in published], [y for _, y in published], **grey)
    theirs.set_title(f"published ({table.source}, second hand):\n{table.model}", fontsize=8.5, color="#808080")
    _label_axes(visual, "layers", VISUAL, 100.0)
    _label_axes(text, "layers", TEXT, 0.0)
    _label_axes(theirs, "layers", VISUAL, 100.0)
    for axes, ticks in ((visual, _ticks(curves)), (text, _ticks(curves)), (theirs, [x for x, _ in published])):
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
        axes.minorticks_off()
    title = "How many layers: what is kept, with 95 % intervals"
    legend(figure, title, columns=4)
    return figure, _describe(title, curves)


def data(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot retention over the share of the training data."""
    return _visual_and_text(results, "data", "How much data: what is kept, with 95 % intervals")


def restoring(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot retention over the number of restored layers."""
    return _visual_and_text(results, "restoring", "Layers restored to the backbone's weights: what is kept")


def _visual_and_text(results: PlanResults, key: str, title: str) -> tuple[Figure, str] | None:
    curves = _curves(results, key)
    if not curves:
        return None
    figure, ((visual, text),) = new_panels(8.6, 3.6, 1, 2)
    ticks = _ticks(curves)
    for index, curve in enumerate(curves):
        shift = _shift(index, len(curves), ticks)
        _draw_curve(visual, curve, 1, series_style(index), shift=shift)
        _draw_curve(text, curve, 2, series_style(index), shift=shift)
    for axes, label, zero in ((visual, VISUAL, 100.0), (text, TEXT, 0.0)):
        _label_axes(axes, key, label, zero)
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    legend(figure, title, columns=4)
    return figure, _describe(title, curves)


def pruning(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot a column for each way of selecting removed layers, with all layers tuned against the region in each."""
    curves = _curves(results, "pruning")
    methods = list(dict.fromkeys(_method(curve.name) for curve in curves))
    models = list(dict.fromkeys(_model(curve.name) for curve in curves))
    if not curves:
        return None
    figure, grid = new_panels(2.1 + 1.75 * len(methods), 5.4, 2, len(methods), sharex=True, sharey="row")
    ticks = _ticks(curves)
    for column, method in enumerate(methods):
        for curve in (curve for curve in curves if _method(curve.name) == method):
            index = models.index(_model(curve.name))
            shift = 2 * _shift(index, len(models), ticks)
            for row in (0, 1):
                _draw_curve(grid[row][column], curve, row + 1, series_style(index), labelled=False, shift=shift)
        grid[0][column].set_title(method, fontsize=9.5)
        grid[1][column].set_xticks([x for x in ticks if x % 2 == 0])
        _label_axes(grid[0][column], "", VISUAL if column == 0 else "", 100.0)
        _label_axes(grid[1][column], "pruning", TEXT if column == 0 else "", 0.0)
    for index, name in enumerate(models):
        grid[0][0].plot([], [], label=name, **series_style(index))
    title = "Layers removed: what is kept of the model tuned in all layers, with 95 % intervals"
    legend(figure, title, columns=4)
    return figure, _describe(title, curves)


def _model(series: str) -> str:
    """Return the model of a series: 'region, any layer' for 'region, any layer, by loss'."""
    parts = series.split(", ")
    return ", ".join(parts[:2]) if len(parts) > 2 and parts[1] == "any layer" else parts[0]


def _method(series: str) -> str:
    """Return the method of a series: 'by loss, healed' for 'region, by loss, healed'."""
    return series.removeprefix(_model(series)).removeprefix(", ") or "removed"


def _curves(results: PlanResults, key: str) -> list[_Curve]:
    visual, text = results.pool("visual"), results.pool("text")
    points: dict[str, list[tuple[float, SeedEstimate | None, SeedEstimate | None]]] = {}
    for row in results.rows.get(key, ()):
        if row.x is None or not row.pairs:
            continue
        if row.is_baseline:
            kept, changed = SeedEstimate(100.0, None, None, {}), SeedEstimate(0.0, None, None, {})
            point = (row.x, kept if visual else None, changed if text else None)
        else:
            point = (row.x, results.retention(row, visual), results.difference(row, text))
        points.setdefault(row.series, []).append(point)
    return [_Curve(name, tuple(sorted(found, key=lambda p: p[0]))) for name, found in points.items()]


def _draw_curve(
    axes: Axes, curve: _Curve, which: int, look: dict[str, Any], labelled: bool = True, shift: float = 0.0
) -> None:
    """Draw a curve: `which` is 1 for visual, 2 for text; `shift` moves it aside, so that intervals do not overlap."""
    known = [(p[0] + shift, p[which]) for p in curve.points]
    shown = [(x, found) for x, found in known if isinstance(found, SeedEstimate)]
    label: dict[str, Any] = {"label": curve.name or "measured here"} if labelled and which == 1 else {}
    axes.plot([x for x, _ in shown], [e.value for _, e in shown], markersize=4.5, linewidth=1.4, **label, **look)
    for x, found in shown:
        if found.ends is not None:
            axes.plot([x, x], found.ends, color=look["color"], linewidth=1.6, alpha=0.75)
        if len(found.each) > 1:
            ring: dict[str, Any] = {"marker": "o", "markersize": 2.6, "markerfacecolor": "none", "linestyle": ""}
            axes.plot([x] * len(found.each), list(found.each.values()), color=look["color"], alpha=0.8, **ring)


def _label_axes(axes: Axes, key: str, label: str, zero: float) -> None:
    axes.axhline(zero, color=axes.xaxis.label.get_color(), linewidth=0.8)
    axes.grid(linewidth=0.6)
    axes.set_ylabel(label)
    if key:
        axes.set_xlabel(TABLES[key].x + (", %" if TABLES[key].unit else ""))


def _shift(index: int, count: int, ticks: Sequence[float]) -> float:
    """Return the horizontal offset of one of several curves: about 1 % of the axis between two of them."""
    return (index - (count - 1) / 2) * 0.012 * (ticks[-1] - ticks[0])


def _ticks(curves: Sequence[_Curve]) -> list[float]:
    return sorted({point[0] for curve in curves for point in curve.points})


def _describe(title: str, curves: Sequence[_Curve]) -> str:
    """Describe the visual retentions in words."""
    texts = []
    for curve in curves:
        points = ", ".join(f"{x:g}: {visual.value:.1f} %" for x, visual, _ in curve.points if visual is not None)
        texts.append(f"{curve.name or 'measured here'}: {points}")
    return f"{title}. Visual score kept; {'; '.join(texts)}."


PLOTS: dict[str, dict[str, Draw]] = {
    "strategies": {"strategies": row_plots.strategies, "layer-sets": row_plots.layer_sets},
    "layers": {"layers": layers},
    "data": {"data": data},
    "text": {"text": row_plots.text},
    "pruning": {"pruning": pruning},
    "restoring": {"restoring": restoring},
    "profile": {"profile": row_plots.profile},
}
"""Table -> its plots, each under the name of its files."""
