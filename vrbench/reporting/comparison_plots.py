"""The two plots of a comparison: retention of each task, and visual against text retention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from vrbench.reporting.comparison_table import row_names
from vrbench.reporting.plot_style import encode_figure, legend, new_figure, series_style, use_theme
from vrbench.statistics.schema import CandidateComparison, Comparison, ComparisonRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "retention": "What is kept of each task, with 95 % intervals",
    "visual-text": "Visual against text: what is kept of each, with 95 % intervals",
}

_WIDEST = (0.0, 200.0)


def draw(comparison: Comparison, form: Literal["png", "svg"]) -> dict[str, bytes]:
    """Draw each plot that the data allow, by its key in `TITLES`; the same bytes for the same comparison."""
    with use_theme():
        figures = {"retention": _retention(comparison), "visual-text": _visual_text(comparison)}
        return {name: encode_figure(figure, form) for name, figure in figures.items() if figure is not None}


def _retention(comparison: Comparison) -> Figure | None:
    """Plot a line per task and a bold one per suite, candidates side by side; 100 is the baseline."""
    names = row_names(comparison.candidates)
    rows = [{r.name: r for r in (*c.tasks, *c.suites)} for c in comparison.candidates]
    if not any(r.retention is not None for found in rows for r in found.values()):
        return None
    count = len(rows)
    figure, axes = new_figure(8.2, 1.7 + len(names) * (0.2 + 0.13 * count))
    low, high = _range([r for found in rows for r in found.values()])
    for place, (candidate, found) in enumerate(zip(comparison.candidates, rows, strict=True)):
        offset = (place - (count - 1) / 2) * 0.7 / count
        look = series_style(place)
        axes.plot([], [], linestyle="", label=candidate.label, **look)
        for height, (name, _) in enumerate(names):
            if name in found:
                _bar(axes, found[name], height + offset, (low, high), look)
    for height, (_, is_suite) in enumerate(names):
        if is_suite:
            axes.axhspan(height - 0.5, height + 0.5, color="#808080", alpha=0.13, linewidth=0)
    _thresholds(comparison, axes.axvline)
    axes.axvline(100, color=axes.xaxis.label.get_color(), linewidth=1)
    axes.set_xlim(low, high)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [f"mean: {n}" if is_suite else n for n, is_suite in names])
    for label, (_, is_suite) in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if is_suite else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_xlabel(f"kept of {comparison.baseline_label} (100 = as good), % with 95 % interval")
    legend(figure, TITLES["retention"], columns=4)
    return figure


def _bar(axes: Axes, row: ComparisonRow, height: float, limits: tuple[float, float], look: dict[str, Any]) -> None:
    """Plot a point with its interval, or the text "no figure"."""
    if row.retention is None:
        axes.text(limits[0], height, " no figure", va="center", fontsize=8, color=look["color"])
        return
    if row.retention_low is not None and row.retention_high is not None:
        axes.plot([row.retention_low, row.retention_high], [height, height], color=look["color"], linewidth=1.8)
    shown = min(max(row.retention, limits[0]), limits[1])
    axes.plot([shown], [height], markersize=7 if row.kind == "suite" else 4.5, clip_on=False, **look)
    if row.kind == "suite":
        end = max(shown if row.retention_low is None else row.retention_low, limits[0])
        text: dict[str, Any] = {"va": "center", "ha": "right", "fontsize": 8, "fontweight": "bold"}
        axes.text(end, height, f"{row.retention:.1f}  ", color=look["color"], **text)


def _range(rows: Sequence[ComparisonRow]) -> tuple[float, float]:
    ends = [e for r in rows for e in (r.retention, r.retention_low, r.retention_high) if e is not None]
    low, high = min([*ends, 98.0]), max([*ends, 102.0])
    margin = 0.04 * (high - low)
    return max(_WIDEST[0], low - margin), min(_WIDEST[1], high + margin)


def _thresholds(comparison: Comparison, draw: Any) -> None:
    """Plot a dashed line at each claimed retention."""
    for claim in comparison.claims:
        if claim.unit == "retention":
            draw(claim.threshold, color="#808080", linewidth=1, linestyle=(0, (4, 3)), label=f"claim {claim.text}")


def _visual_text(comparison: Comparison) -> Figure | None:
    """Plot a point per candidate: visual retention over text retention, both with their intervals."""
    points = [(c.label, _suite(c, "visual"), _suite(c, "text")) for c in comparison.candidates]
    usable = [(i, n, v, t) for i, (n, v, t) in enumerate(points) if v is not None and t is not None]
    if not usable:
        return None
    figure, axes = new_figure(6.4, 5.2)
    ink = axes.xaxis.label.get_color()
    axes.axvline(100, color=ink, linewidth=0.8)
    axes.axhline(100, color=ink, linewidth=0.8)
    name = f"{comparison.baseline_label} (baseline)"
    axes.plot([100], [100], marker="*", markersize=13, color=ink, linestyle="", label=name)
    for place, name, visual, text in usable:
        axes.errorbar(
            text.retention or 0.0, visual.retention or 0.0, xerr=_error_bar(text), yerr=_error_bar(visual),
            markersize=7, linestyle="", linewidth=1.6, label=name, **series_style(place),
        )  # fmt: skip
    axes.set_xlim(*_range([t for _, _, _, t in usable]))
    axes.set_ylim(*_range([v for _, _, v, _ in usable]))
    axes.grid(linewidth=0.6)
    axes.set_xlabel(f"text kept, % (mean of {len(usable[0][3].tasks)} tasks)")
    axes.set_ylabel(f"visual kept, % (mean of {len(usable[0][2].tasks)} tasks)")
    legend(figure, TITLES["visual-text"], columns=2)
    return figure


def _suite(candidate: CandidateComparison, kind: str) -> ComparisonRow | None:
    """Return the mean over visual (or text) tasks: the pool if there is one, else the only suite of that kind."""
    found = {row.name: row for row in candidate.suites if row.retention is not None}
    return found.get(kind) or found.get(f"pocket_{kind}")


def _error_bar(row: ComparisonRow) -> list[list[float]] | None:
    if row.retention is None or row.retention_low is None or row.retention_high is None:
        return None
    return [[max(0.0, row.retention - row.retention_low)], [max(0.0, row.retention_high - row.retention)]]
