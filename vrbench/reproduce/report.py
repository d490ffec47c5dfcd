"""Write the report of a plan's folder: report.md, report.html, report.tex and plots, from its records alone.

The same records give the same bytes, without dates or machines, so that a published report can be rebuilt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vrbench.core.io import write_atomically
from vrbench.reporting.comparison_pages import data_uri, environment, pipe_table
from vrbench.reporting.formatting import VERDICT_MARKS
from vrbench.reproduce.report_content import report_content
from vrbench.reproduce.report_tables import ReportTable
from vrbench.reproduce.results import read_results

PLOTS = "plots"
"""Folder of the plots."""


def write_report(folder: Path) -> list[Path]:
    """Write the report of a plan's folder; returns the written files, pages first.

    Raises:
        VrbenchError: as `vrbench.reproduce.results.read_results`.
    """
    content = report_content(read_results(folder))
    files: dict[str, str | bytes] = {f"report.{form}": render(content, form) for form in ("md", "html", "tex")}
    for plot in (plot for section in content["sections"] for plot in section.plots):
        files |= {f"{PLOTS}/{plot.name}.png": plot.png, f"{PLOTS}/{plot.name}.svg": plot.svg}
    for name, data in files.items():
        write_atomically(folder / name, data)
    for old in (folder / PLOTS).glob("*"):
        if f"{PLOTS}/{old.name}" not in files and old.suffix in (".png", ".svg"):
            old.unlink()  # of an earlier report, whose data are gone
    return [folder / name for name in files]


def render(content: dict[str, Any], form: str) -> str:
    """Return the report as 'md', 'html' or 'tex'."""
    templates = environment(form, "vrbench.reproduce")
    templates.filters |= {"pipe": _pipe_table, "columns": _latex_columns, "uri": data_uri}
    return str(templates.get_template(f"report.{form}.j2").render(page=content, marks=VERDICT_MARKS, folder=PLOTS))


def _pipe_table(table: ReportTable) -> str:
    return pipe_table(table.headers, table.rows, ["left" if words else "right" for words in _word_columns(table)])


def _latex_columns(table: ReportTable) -> str:
    return "".join("l" if words else "r" for words in _word_columns(table))


def _word_columns(table: ReportTable) -> list[bool]:
    """Return which columns hold words rather than figures."""
    columns: list[Any] = list(zip(*table.rows, strict=True)) or [() for _ in table.headers]
    return [i == 0 or not any(text[-1:].isdigit() or text[-1:] in "]*%" for text in c) for i, c in enumerate(columns)]
