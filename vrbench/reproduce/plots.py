"""The report's plots: strategies, lines over layers, data and removals, layers chosen, time and memory (matplotlib)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vrbench.reporting.drawing import darkened, encoded, themed
from vrbench.reproduce import plots_bars, plots_lines, plots_rows
from vrbench.reproduce.results import PlanResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[PlanResults], "tuple[Figure, str] | None"]
"""Results -> the figure and what it shows in words; None where the data do not allow it."""

PLOTS: dict[str, dict[str, Draw]] = {
    "strategies": {"strategies": plots_rows.strategies, "layer-sets": plots_rows.layer_sets},
    "layers": {"layers": plots_lines.layers},
    "data": {"data": plots_lines.data},
    "text": {"text": plots_rows.text},
    "pruning": {"pruning": plots_lines.pruning},
    "restoring": {"restoring": plots_lines.restoring},
    "profile": {"profile": plots_bars.profile},
}
"""Table -> its plots, each under the name of its files."""


@dataclass(frozen=True)
class ReportPlot:
    """One picture.

    Attributes:
        name: of its files, without an ending.
        alt: what it shows, in words.
        png: light.
        svg: light.
        dark: svg, for a dark page.
    """

    name: str
    alt: str
    png: bytes
    svg: bytes
    dark: bytes


def pictures(results: PlanResults, key: str) -> tuple[ReportPlot, ...]:
    """A table's plots, those that the data allow; the same bytes for the same results."""
    found = (_picture(results, name, draw) for name, draw in PLOTS.get(key, {}).items())
    return tuple(plot for plot in found if plot is not None)


def _picture(results: PlanResults, name: str, draw: Draw) -> ReportPlot | None:
    with themed():
        made = draw(results)
        if made is None:
            return None
        figure, alt = made
        light = encoded(figure, "svg")
        return ReportPlot(name, alt, encoded(figure, "png"), light, darkened(light))
