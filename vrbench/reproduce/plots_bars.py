"""Time and memory of a training step, as bars: all layers tuned against some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vrbench.core.layers import LayerSet
from vrbench.reporting.drawing import legend, look_of, panels
from vrbench.reproduce.results import PlanResults
from vrbench.training.profile_results import ProfileRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def profile(results: PlanResults) -> tuple[Figure, str] | None:
    """A group of bars for each shape and setting."""
    rows = [row for row in results.profile if row.kind == "train" and row.seconds_per_step is not None]
    groups = list(dict.fromkeys(map(_group, rows)))
    kinds = list(dict.fromkeys(map(_layers, rows)))
    counts = {kind: dict.fromkeys(_count(row) for row in rows if _layers(row) == kind) for kind in kinds}
    if not rows:
        return None
    figure, ((*axes,),) = panels(9.2, 1.5 + 0.2 * len(groups) * max(2, len(kinds)), 1, 2, sharey=True)
    thick = 0.8 / len(kinds)
    for one, field, label in zip(axes, ("seconds_per_step", "peak_gib"), ("seconds a step", "GiB"), strict=True):
        for row in rows:
            value = getattr(row, field)
            place = kinds.index(_layers(row))
            height = groups.index(_group(row)) + (place - (len(kinds) - 1) / 2) * thick
            if value is not None:
                one.barh(height, value, height=thick * 0.9, color=look_of(place)["color"])
                one.text(
                    value, height, f" {value:.{3 if field == 'seconds_per_step' else 1}f}", va="center", fontsize=7
                )
        one.set_xlabel(label)
        one.grid(axis="x", linewidth=0.6)
        one.tick_params(axis="y", length=0)
    axes[0].set_ylim(len(groups) - 0.5, -0.5)
    axes[0].set_yticks(range(len(groups)), groups)
    for place, kind in enumerate(kinds):
        axes[0].barh([0], [0], color=look_of(place)["color"], label=f"{kind} ({'; '.join(counts[kind])})")
    title = "A training step at true shapes"
    legend(figure, title, columns=4)
    told = (f"{_group(r)}, {_layers(r)}: {r.seconds_per_step:.3f} s, {_gib(r)}" for r in rows)
    return figure, f"{title}. {'; '.join(told)}."


def _group(row: ProfileRow) -> str:
    recomputed = "checkpointing" if row.checkpointing else "no checkpointing"
    return f"{row.shape}, {row.tuning}, {recomputed}"


def _layers(row: ProfileRow) -> str:
    """What is tuned, alike for all depths: the strategy without its number."""
    return "all layers" if row.indices == "all" else row.layers.partition(":")[0]


def _count(row: ProfileRow) -> str:
    """'8 of 32'."""
    return f"{len(LayerSet.parse(row.indices, row.depth))} of {row.depth}"


def _gib(row: ProfileRow) -> str:
    return "memory not measured" if row.peak_gib is None else f"{row.peak_gib:.1f} GiB"
