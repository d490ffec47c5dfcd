"""A comparison as text, as a page, or as files: the same rows in every format.

To add a format, write its function and name it in `FORMATS`; to add a column, see `comparison_table`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vrbench.core.errors import VrbenchError
from vrbench.core.io import write_atomically
from vrbench.reporting import terminal
from vrbench.reporting.comparison_pages import html, latex, markdown
from vrbench.reporting.terminal import scores
from vrbench.statistics.schema import Comparison

__all__ = ["FORMATS", "render", "scores", "write"]


def _json(comparison: Comparison) -> str:
    return comparison.model_dump_json(indent=1)


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "table": terminal.table,
    "markdown": markdown,
    "latex": latex,
    "html": html,
    "json": _json,
}


def render(comparison: Comparison, form: str = "table") -> str:
    """Return the comparison as text.

    Args:
        form: key in `FORMATS`.

    Raises:
        VrbenchError: unknown format.
    """
    if form not in FORMATS:
        raise VrbenchError(f"format {form!r} is unknown; there are {', '.join(FORMATS)}")
    return FORMATS[form](comparison)


def write(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write comparison.md, .html and .json and the plots beside them; returns the files, pages first.

    The HTML page embeds its plots; the Markdown page shows retention.png and, where there are visual and textual tasks,
    visual-text.png.
    """
    from vrbench.reporting import comparison_plots

    place = Path(folder)
    images = {f"{name}.png": data for name, data in comparison_plots.draw(comparison, "png").items()}
    place.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (place / name).write_bytes(data)
    pages = {
        "comparison.md": markdown(comparison, tuple(images)),
        "comparison.html": html(comparison),
        "comparison.json": _json(comparison) + "\n",
    }
    for name, text in pages.items():
        write_atomically(place / name, text)
    return [place / name for name in (*pages, *images)]
