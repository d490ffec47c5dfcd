"""Plots with a line of the page for each row: strategies, text, and the layers that were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.reporting.drawing import look_of, panels
from vrbench.reproduce.layersets import LayerChoice, choices
from vrbench.reproduce.results import PlanResults
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import REGION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Side:
    """One panel: its label, where nothing is changed, and a figure for each row that has one."""

    label: str
    zero: float
    figures: Mapping[str, SeedEstimate]


def strategies(results: PlanResults) -> tuple[Figure, str] | None:
    """What each strategy keeps, the best on top; each seed as a small ring."""
    sides = [_kept(results, "strategies", results.pool("visual"), "visual score"), _gained(results, "strategies")]
    return _drawn(sides, "Which layers: what is kept, with 95 % intervals; rings are seeds")


def text(results: PlanResults) -> tuple[Figure, str] | None:
    """What the text has gained or lost."""
    ratios = [_kept(results, "text", [task], f"perplexity of {task}") for task in results.ratios()]
    return _drawn([_gained(results, "text"), *ratios], "What is left of the text, with 95 % intervals; rings are seeds")


def _kept(results: PlanResults, key: str, tasks: Sequence[str], what: str) -> Side:
    found = {row.label: results.kept(row, tasks) for row in results.rows.get(key, ())}
    return Side(f"{what} kept, %", 100.0, {label: e for label, e in found.items() if e is not None})


def _gained(results: PlanResults, key: str) -> Side:
    tasks = results.pool("text")
    found = {row.label: results.gained(row, tasks) for row in results.rows.get(key, ())}
    known = {label: e for label, e in found.items() if e is not None}
    return Side("text against all layers, points", 0.0, known)


def _drawn(asked: Sequence[Side], title: str) -> tuple[Figure, str] | None:
    """Panels side by side, with a line of the page for each row; the first panel decides the order."""
    sides = [side for side in asked if side.figures]
    if not sides:
        return None
    first = sides[0].figures
    labels = sorted(first, key=lambda label: -first[label].value)
    labels += [label for label in dict.fromkeys(n for side in sides for n in side.figures) if label not in first]
    figure, ((*axes,),) = panels(8.6, 1.3 + 0.27 * len(labels), 1, len(sides), sharey=True)
    for one, side in zip(axes, sides, strict=True):
        one.axvline(side.zero, color=one.xaxis.label.get_color(), linewidth=1)
        for height, label in enumerate(labels):
            if label in side.figures:
                _dot(one, side.figures[label], height, look_of(1 if label == REGION else 0))
        one.grid(axis="x", linewidth=0.6)
        one.set_xlabel(side.label)
        one.tick_params(axis="y", length=0)
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    axes[0].set_yticks(range(len(labels)), labels)
    for tick, label in zip(axes[0].get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if label == REGION else "normal")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    return figure, f"{title}. {'; '.join(map(_told, sides))}."


def _dot(axes: Axes, found: SeedEstimate, height: float, look: dict[str, Any]) -> None:
    if found.ends is not None:
        axes.plot(found.ends, [height, height], color=look["color"], linewidth=1.8)
    axes.plot([found.value], [height], markersize=6, **look)
    each = list(found.each.values())
    if len(each) > 1:
        axes.plot(
            each, [height + 0.27] * len(each), linestyle="", marker="o", markersize=3.2, markerfacecolor="none",
            color=look["color"],
        )  # fmt: skip


def _told(side: Side) -> str:
    return f"{side.label}: {', '.join(f'{label} {e.value:.1f}' for label, e in side.figures.items())}"


def layer_sets(results: PlanResults) -> tuple[Figure, str] | None:
    """Which layers each strategy tuned: the darker a field, the more seeds have it."""
    found = choices(results)
    if not found:
        return None
    depth = max(layers.depth for choice in found for layers in choice.layers.values())
    figure, ((axes,),) = panels(8.6, 1.1 + 0.24 * len(found), 1, 1)
    for height, choice in enumerate(found):
        for layer, share in _shares(choice).items():
            axes.barh(height, 0.9, left=layer - 0.45, height=0.8, color=look_of(0)["color"], alpha=share)
    axes.set_xlim(-0.5, depth - 0.5)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_yticks(range(len(found)), [choice.strategy for choice in found])
    axes.set_xticks(range(0, depth, max(1, depth // 15)))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("decoder layer")
    title = "The layers that each strategy tuned; paler where fewer seeds have one"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    told = "; ".join(f"{c.strategy}: {' or '.join(dict.fromkeys(map(str, c.layers.values())))}" for c in found)
    return figure, f"{title}. {told}."


def _shares(choice: LayerChoice) -> dict[int, float]:
    """Layer -> share of the seeds that have it."""
    seen = [layer for layers in choice.layers.values() for layer in layers]
    return {layer: seen.count(layer) / len(choice.layers) for layer in sorted(set(seen))}
