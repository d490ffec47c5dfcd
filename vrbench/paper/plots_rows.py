"""Plots with a line of the page for each row: strategies, text, and the layers that were chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vrbench.paper.layersets import LayerChoice, choices
from vrbench.paper.results import Results
from vrbench.paper.seeds import Estimate
from vrbench.paper.tables import REGION
from vrbench.report.drawing import look_of, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = tuple[str, Estimate | None, Estimate | None]
"""Label, visual kept in percent, text in points."""


def strategies(results: Results) -> tuple[Figure, str] | None:
    """What each strategy keeps, the best on top; each seed as a small ring."""
    lines = _lines(results, "strategies")
    lines.sort(key=lambda line: -line[1].value if line[1] else 0.0)
    return _drawn(lines, "Which layers: what is kept, with 95 % intervals; rings are seeds")


def text(results: Results) -> tuple[Figure, str] | None:
    """What the text has gained or lost."""
    return _drawn(_lines(results, "text"), "What is left of the text, with 95 % intervals; rings are seeds")


def _lines(results: Results, key: str) -> list[Line]:
    visual, words = results.pool("visual"), results.pool("text")
    rows = [row for row in results.rows.get(key, ()) if not row.is_baseline]
    found = [(row.label, results.kept(row, visual), results.gained(row, words)) for row in rows]
    return [line for line in found if line[1] or line[2]]


def _drawn(lines: Sequence[Line], title: str) -> tuple[Figure, str] | None:
    sides = [(1, 100.0, "visual score kept, %"), (2, 0.0, "text against all layers, points")]
    sides = [side for side in sides if any(line[side[0]] for line in lines)]
    if not lines or not sides:
        return None
    figure, ((*axes,),) = panels(8.6, 1.3 + 0.27 * len(lines), 1, len(sides), sharey=True)
    for one, (place, zero, label) in zip(axes, sides, strict=True):
        one.axvline(zero, color=one.xaxis.label.get_color(), linewidth=1)
        for height, line in enumerate(lines):
            found = line[place]
            assert found is None or isinstance(found, Estimate)
            if found is not None:
                _dot(one, found, height, look_of(1 if line[0] == REGION else 0))
        one.grid(axis="x", linewidth=0.6)
        one.set_xlabel(label)
        one.tick_params(axis="y", length=0)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    axes[0].set_yticks(range(len(lines)), [line[0] for line in lines])
    for tick, line in zip(axes[0].get_yticklabels(), lines, strict=True):
        tick.set_fontweight("bold" if line[0] == REGION else "normal")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    return figure, f"{title}. {'; '.join(map(_told, lines))}."


def _dot(axes: Axes, found: Estimate, height: float, look: dict[str, Any]) -> None:
    if found.ends is not None:
        axes.plot(found.ends, [height, height], color=look["color"], linewidth=1.8)
    axes.plot([found.value], [height], markersize=6, **look)
    each = list(found.each.values())
    if len(each) > 1:
        axes.plot(
            each, [height + 0.27] * len(each), linestyle="", marker="o", markersize=3.2, markerfacecolor="none",
            color=look["color"],
        )  # fmt: skip


def _told(line: Line) -> str:
    name, visual, words = line
    parts = [f"{visual.value:.1f} % of the visual score"] if visual else []
    parts += [f"text {words.value:+.1f} points"] if words else []
    return f"{name} {', '.join(parts)}"


def layer_sets(results: Results) -> tuple[Figure, str] | None:
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
