"""The report's plots (matplotlib): curves here, rows and bars in `vrbench.reproduce.row_plots`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from vrbench.reporting.plot_style import encode_figure, legend, new_panels, series_style, to_dark_theme, use_theme
from vrbench.reproduce import row_plots
from vrbench.reproduce.results import PlanResults
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import PUBLISHED, TABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[[PlanResults], "tuple[Figure, str] | None"]
"""Results -> the figure and its description in words; None without data."""

VISUAL, TEXT = ("visual score kept, %", 100.0), ("text, points", 0.0)
"""Label of an axis, and the baseline's value."""


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


class _CurvePoint(NamedTuple):
    """x, visual retention in percent, and text in points; the baseline's have no interval."""

    x: float
    visual: SeedEstimate | None
    text: SeedEstimate | None


_Curves = dict[str, list[_CurvePoint]]


def layers(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot retention over the number of tuned layers, and published values in a panel of their own."""
    title = "How many layers: what is kept, with 95 % intervals"
    return _visual_and_text(results, "layers", title, with_published=True)


def data(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot retention over the share of the training data."""
    return _visual_and_text(results, "data", "How much data: what is kept, with 95 % intervals")


def restoring(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot retention over the number of restored layers."""
    return _visual_and_text(results, "restoring", "Layers restored to the backbone's weights: what is kept")


def _visual_and_text(
    results: PlanResults, key: str, title: str, with_published: bool = False
) -> tuple[Figure, str] | None:
    """Plot the curves of a table, in `with_published` over a logarithmic axis with the published curve beside them."""
    curves = _curves(results, key)
    if not curves:
        return None
    size = (10.2, 3.8, 1, 3) if with_published else (8.6, 3.6, 1, 2)
    figure, ((visual, text, *others),) = new_panels(*size)
    ticks = _ticks(curves)
    for axes in (visual, text, *others) if with_published else ():
        axes.set_xscale("log", base=2)
    for index, (name, points) in enumerate(curves.items()):
        look, shift = series_style(index), 0.0 if with_published else _shift(index, len(curves), ticks)
        _draw_curve(visual, [(p.x + shift, p.visual) for p in points], look, name or "measured here")
        _draw_curve(text, [(p.x + shift, p.text) for p in points], look)
    for axes, axis in ((visual, VISUAL), (text, TEXT)):
        _label_axes(axes, key, *axis)
        _set_ticks(axes, ticks)
    for axes in others:
        axes.sharey(visual)
        _draw_published(axes, key)
    legend(figure, title, columns=4)
    return figure, _describe(title, curves)


def _draw_published(axes: Axes, key: str) -> None:
    """Plot the published retention over the first column of a table."""
    table = PUBLISHED[key]
    published = [(float(row[0]), float(row[2])) for row in table.rows]
    grey: dict[str, Any] = {"color": "#808080", "marker": "o", "markerfacecolor": "none", "linestyle": (0, (4, 3))}
    axes.plot([x for x, _ in published], [y for _, y in published], **grey)
    axes.set_title(f"published ({table.source}, second hand):\n{table.model}", fontsize=8.5, color="#808080")
    _label_axes(axes, key, *VISUAL)
    _set_ticks(axes, [x for x, _ in published])


def pruning(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot a column for each way of selecting removed layers, with all layers tuned against the region in each."""
    curves = _curves(results, "pruning")
    methods = list(dict.fromkeys(_method(name) for name in curves))
    models = list(dict.fromkeys(_model(name) for name in curves))
    if not curves:
        return None
    figure, grid = new_panels(2.1 + 1.75 * len(methods), 5.4, 2, len(methods), sharex=True, sharey="row")
    ticks = _ticks(curves)
    for column, (method, visual, text) in enumerate(zip(methods, *grid, strict=True)):
        for name, points in ((name, points) for name, points in curves.items() if _method(name) == method):
            index = models.index(_model(name))
            look, shift = series_style(index), 2 * _shift(index, len(models), ticks)
            _draw_curve(visual, [(p.x + shift, p.visual) for p in points], look)
            _draw_curve(text, [(p.x + shift, p.text) for p in points], look)
        visual.set_title(method, fontsize=9.5)
        text.set_xticks([x for x in ticks if x % 2 == 0])
        for axes, key, (label, zero) in ((visual, "", VISUAL), (text, "pruning", TEXT)):
            _label_axes(axes, key, "" if column else label, zero)
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


def _curves(results: PlanResults, key: str) -> _Curves:
    visual, text = results.pool("visual"), results.pool("text")
    found: _Curves = {}
    for row in results.rows.get(key, ()):
        if row.x is None or not row.pairs:
            continue
        if row.is_baseline:
            kept, changed = SeedEstimate(100.0, None, None, {}), SeedEstimate(0.0, None, None, {})
            point = _CurvePoint(row.x, kept if visual else None, changed if text else None)
        else:
            point = _CurvePoint(row.x, results.retention(row, visual), results.difference(row, text))
        found.setdefault(row.series, []).append(point)
    return {name: sorted(points, key=lambda point: point.x) for name, points in found.items()}


def _draw_curve(
    axes: Axes, points: Iterable[tuple[float, SeedEstimate | None]], look: dict[str, Any], label: str | None = None
) -> None:
    shown = [(x, found) for x, found in points if found is not None]
    axes.plot([x for x, _ in shown], [e.value for _, e in shown], markersize=4.5, linewidth=1.4, label=label, **look)
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


def _set_ticks(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()


def _shift(index: int, count: int, ticks: Sequence[float]) -> float:
    """Return the offset of one of several curves, so that intervals do not overlap: about 1 % of the axis."""
    return (index - (count - 1) / 2) * 0.012 * (ticks[-1] - ticks[0])


def _ticks(curves: _Curves) -> list[float]:
    return sorted({point.x for points in curves.values() for point in points})


def _describe(title: str, curves: _Curves) -> str:
    """Describe the visual retentions in words."""
    texts = []
    for name, points in curves.items():
        values = ", ".join(f"{p.x:g}: {p.visual.value:.1f} %" for p in points if p.visual is not None)
        texts.append(f"{name or 'measured here'}: {values}")
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
