"""Plots with a row for each strategy, model or setting: retention, tuned layers, time and memory (matplotlib)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vrbench.core.layers import LayerSet
from vrbench.reporting.plot_style import legend, new_panels, series_style
from vrbench.reproduce.results import PlanResults, ResultRow
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import REGION
from vrbench.training.profile_results import ProfileRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class _Panel:
    """One panel: its label, the value of the baseline, and label -> figure of each row that has one."""

    label: str
    zero: float
    figures: dict[str, SeedEstimate]


def strategies(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot the retention of each strategy, the best on top; each seed is a small ring."""
    retention = partial(results.retention, tasks=results.pool("visual"))
    kept = _panel(results, "strategies", "visual score kept, %", 100.0, retention)
    title = "Which layers: what is kept, with 95 % intervals; rings are seeds"
    return _dot_plot([kept, _text_differences(results, "strategies")], title)


def text(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot the change in text scores."""
    ratios = [
        _panel(results, "text", f"perplexity of {task} kept, %", 100.0, partial(results.retention, tasks=[task]))
        for task in results.perplexities()
    ]
    title = "Text ability, with 95 % intervals; rings are seeds"
    return _dot_plot([_text_differences(results, "text"), *ratios], title)


def _text_differences(results: PlanResults, key: str) -> _Panel:
    difference = partial(results.difference, tasks=results.pool("text"))
    return _panel(results, key, "text against all layers, points", 0.0, difference)


def _panel(
    results: PlanResults, key: str, label: str, zero: float, figure: Callable[[ResultRow], SeedEstimate | None]
) -> _Panel:
    found = {row.label: figure(row) for row in results.rows.get(key, ())}
    return _Panel(label, zero, {name: e for name, e in found.items() if e is not None})


def _dot_plot(every: Sequence[_Panel], title: str) -> tuple[Figure, str] | None:
    """Plot panels side by side with shared rows, in the order of the first panel."""
    shown = [panel for panel in every if panel.figures]
    if not shown:
        return None
    first = shown[0].figures
    labels = sorted(first, key=lambda label: -first[label].value)
    labels += [label for label in dict.fromkeys(n for panel in shown for n in panel.figures) if label not in first]
    figure, ((*axes,),) = new_panels(8.6, 1.3 + 0.27 * len(labels), 1, len(shown), sharey=True)
    for one, panel in zip(axes, shown, strict=True):
        one.axvline(panel.zero, color=one.xaxis.label.get_color(), linewidth=1)
        for height, label in enumerate(labels):
            if label in panel.figures:
                _draw_dot(one, panel.figures[label], height, series_style(1 if label == REGION else 0))
        one.grid(axis="x", linewidth=0.6)
        one.set_xlabel(panel.label)
    _label_rows(axes, labels)
    for tick, label in zip(axes[0].get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if label == REGION else "normal")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    texts = (f"{p.label}: {', '.join(f'{label} {e.value:.1f}' for label, e in p.figures.items())}" for p in shown)
    return figure, f"{title}. {'; '.join(texts)}."


def _label_rows(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    for one in axes:
        one.tick_params(axis="y", length=0)
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    axes[0].set_yticks(range(len(labels)), labels)


def _draw_dot(axes: Axes, found: SeedEstimate, height: float, look: dict[str, Any]) -> None:
    if found.ends is not None:
        axes.plot(found.ends, [height, height], color=look["color"], linewidth=1.8)
    axes.plot([found.value], [height], markersize=6, **look)
    each = list(found.each.values())
    if len(each) > 1:
        axes.plot(
            each, [height + 0.27] * len(each), linestyle="", marker="o", markersize=3.2, markerfacecolor="none",
            color=look["color"],
        )  # fmt: skip


def layer_sets(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot the layers that each strategy tuned: the darker a cell, the more seeds have it."""
    found = results.strategy_layers()
    if not found:
        return None
    depth = max(layers.depth for one in found.values() for layers in one.values())
    figure, ((axes,),) = new_panels(8.6, 1.1 + 0.24 * len(found), 1, 1)
    for height, one in enumerate(found.values()):
        for layer, seeds in sorted(Counter(layer for layers in one.values() for layer in layers).items()):
            look = {"color": series_style(0)["color"], "alpha": seeds / len(one)}
            axes.barh(height, 0.9, left=layer - 0.45, height=0.8, **look)
    axes.set_xlim(-0.5, depth - 0.5)
    _label_rows([axes], list(found))
    axes.set_xticks(range(0, depth, max(1, depth // 15)))
    axes.set_xlabel("decoder layer")
    title = "The layers that each strategy tuned; lighter where fewer seeds have one"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    texts = (f"{name}: {' or '.join(dict.fromkeys(map(str, one.values())))}" for name, one in found.items())
    return figure, f"{title}. {'; '.join(texts)}."


def profile(results: PlanResults) -> tuple[Figure, str] | None:
    """Plot time and memory of a training step, a group of bars for each shape and setting."""
    rows = [row for row in results.profile if row.kind == "train" and row.seconds_per_step is not None]
    groups = list(dict.fromkeys(map(_setting, rows)))
    kinds = list(dict.fromkeys(map(_tuned, rows)))
    if not rows:
        return None
    figure, ((*axes,),) = new_panels(9.2, 1.5 + 0.2 * len(groups) * max(2, len(kinds)), 1, 2, sharey=True)
    thick = 0.8 / len(kinds)
    for one, field, label, digits in zip(
        axes, ("seconds_per_step", "peak_gib"), ("seconds a step", "GiB"), (3, 1), strict=True
    ):
        for row in rows:
            value, index = getattr(row, field), kinds.index(_tuned(row))
            height = groups.index(_setting(row)) + (index - (len(kinds) - 1) / 2) * thick
            if value is not None:
                one.barh(height, value, height=thick * 0.9, color=series_style(index)["color"])
                one.text(value, height, f" {value:.{digits}f}", va="center", fontsize=7)
        one.set_xlabel(label)
        one.grid(axis="x", linewidth=0.6)
    _label_rows(axes, groups)
    for index, kind in enumerate(kinds):
        counts = dict.fromkeys(
            f"{len(LayerSet.parse(row.indices, row.depth))} of {row.depth}" for row in rows if _tuned(row) == kind
        )
        axes[0].barh([0], [0], color=series_style(index)["color"], label=f"{kind} ({'; '.join(counts)})")
    title = "A training step at true shapes"
    legend(figure, title, columns=4)
    texts = (f"{_setting(r)}, {_tuned(r)}: {r.seconds_per_step:.3f} s, {_gib(r)}" for r in rows)
    return figure, f"{title}. {'; '.join(texts)}."


def _setting(row: ProfileRow) -> str:
    recomputed = "checkpointing" if row.checkpointing else "no checkpointing"
    return f"{row.shape}, {row.tuning}, {recomputed}"


def _tuned(row: ProfileRow) -> str:
    """Return the strategy without its number of layers."""
    return "all layers" if row.indices == "all" else row.layers.partition(":")[0]


def _gib(row: ProfileRow) -> str:
    return "memory not measured" if row.peak_gib is None else f"{row.peak_gib:.1f} GiB"
