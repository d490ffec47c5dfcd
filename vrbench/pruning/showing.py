"""Chosen layers for a reader: a table in the terminal, and a plot of their scores (no torch)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vrbench.pruning.choose import ChosenLayers

FORMS = (".png", ".svg")
"""Endings of a plot's file."""

CHOSEN, OTHER = "#0072b2", "#b8c4cc"


def as_text(chosen: ChosenLayers) -> str:
    """The set as a recipe takes it, how it was made, and each layer's score with its rank where there is one."""
    from tabulate import tabulate

    of = f" {chosen.note}" if chosen.note else ""
    lines = [
        f"{len(chosen.indices)} of {chosen.depth} layers by {chosen.strategy}{',' if of else ''}{of}",
        f"as a set: --set tune.layers={chosen.layers}",
    ]
    if chosen.scores:
        order = sorted(range(chosen.depth), key=lambda layer: -chosen.scores[layer])
        rows = [
            (layer, f"{score:.6g}", order.index(layer) + 1, "*" if layer in chosen.indices else "")
            for layer, score in enumerate(chosen.scores)
        ]
        lines += ["", tabulate(rows, ("layer", "score", "rank", "chosen"), "simple")]
    if chosen.blocks:
        lines += [
            "",
            tabulate(list(_block_rows(chosen)), ("block of", "turns least", "by", "turns most", "by"), "simple"),
        ]
    return "\n".join(lines)


def _block_rows(chosen: ChosenLayers) -> Iterator[tuple[int, str, str, str, str]]:
    """For each length, the block that turns states least and most at the last token, with the angular distance."""
    for n, distances in enumerate(chosen.blocks, 1):
        least, most = (find(range(len(distances)), key=distances.__getitem__) for find in (min, max))
        names = [str(start) if n == 1 else f"{start}-{start + n - 1}" for start in (least, most)]
        yield n, names[0], f"{distances[least]:.6g}", names[1], f"{distances[most]:.6g}"


def write_plot(chosen: ChosenLayers, file: Path) -> None:
    """A bar for each layer's score, those of the chosen layers set off; the same bytes for the same scores."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5, "svg.hashsalt": "vrbench"}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        colours = [CHOSEN if layer in chosen.indices else OTHER for layer in range(chosen.depth)]
        axes.bar(range(chosen.depth), chosen.scores, color=colours)
        axes.set_xlabel("decoder layer")
        axes.set_ylabel(chosen.strategy)
        axes.set_title(f"{len(chosen.indices)} of {chosen.depth} layers: {chosen.layers}", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        file.parent.mkdir(parents=True, exist_ok=True)
        made = {"Software": None} if file.suffix == ".png" else {"Date": None}
        figure.savefig(file, dpi=150, metadata=made)
