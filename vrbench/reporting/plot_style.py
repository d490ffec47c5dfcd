"""The common style of all plots: light and dark theme, colours safe for colour-blind readers, reproducible bytes."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: for colour-blind readers
DARK_COLOURS = ("#4aa8e0", "#ff8a3d", "#2fc79c", "#e59cc5", "#f5be3d", "#8fd0f5")
MARKERS = ("o", "s", "D", "^", "v", "P")
_HASHED_ID = re.compile(rb"(?<=[\"#])[a-zA-Z][0-9a-f]{10}(?=[\")])")
_LIGHT_INK, _DARK_INK = ("#1b1f24", "#ffffff", "#d1d9e0"), ("#e6e9ed", "#14181d", "#3a424b")


def use_theme() -> AbstractContextManager[None]:
    """Draw and encode figures within the block in the light theme; `to_dark_theme` changes an SVG's."""
    import matplotlib

    ink, paper, line = _LIGHT_INK
    style: Any = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor"), paper),
        **dict.fromkeys(("axes.edgecolor", "grid.color"), line),
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same image on every machine
        "font.size": 9.5,
        "svg.hashsalt": "vrbench",
        "text.parse_math": False,  # a name may hold dollar signs
    }
    return matplotlib.rc_context(style)


def encode_figure(figure: Figure, form: str) -> bytes:
    """Return the figure as 'png' or 'svg', without a date: the same bytes for the same figure on every processor."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.BytesIO()
    if form == "png":
        FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    else:
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    return _renumber_ids(stream.getvalue()) if form == "svg" else stream.getvalue()


def _renumber_ids(svg: bytes) -> bytes:
    """Number ids in order: matplotlib hashes unrounded coordinates, whose last bit depends on the processor."""
    numbers: dict[bytes, bytes] = {}
    return _HASHED_ID.sub(lambda found: numbers.setdefault(found[0], found[0][:1] + b"%d" % len(numbers)), svg)


def to_dark_theme(svg: bytes) -> bytes:
    """Return an SVG that was drawn in the light theme with the colours of the dark one."""
    for old, new in zip((*_LIGHT_INK, *COLOURS), (*_DARK_INK, *DARK_COLOURS), strict=True):
        svg = svg.replace(old.encode(), new.encode())
    return svg


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes; sizes in inches."""
    figure, ((axes,),) = new_panels(width, height, 1, 1)
    return figure, axes


def new_panels(width: float, height: float, rows: int, columns: int, **shared: Any) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with rows of axes; sizes in inches, `shared` goes to `Figure.subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure, [list(row) for row in grid]


def legend(figure: Figure, title: str, columns: int) -> None:
    """Draw a legend above the axes, with the figure's title."""
    figure.legend(
        loc="outside upper left", ncols=columns, frameon=False, alignment="left", title=title,
        title_fontproperties={"weight": "bold", "size": 11},
    )  # fmt: skip


def series_style(place: int) -> dict[str, Any]:
    """Return colour and marker of the n-th series."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
