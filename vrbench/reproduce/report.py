"""`vrbench reproduce` shown: report.md, report.html, report.tex and plots, made of a results folder's records alone.

The same records give the same bytes: nothing of this day or machine goes in, so that committed records rebuild a
published report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vrbench.core.io import write_atomically
from vrbench.reporting.formatting import VERDICT_MARKS
from vrbench.reporting.pages import data_uri, environment, escape_markdown
from vrbench.reproduce.document import Document, document
from vrbench.reproduce.report_tables import ReportTable
from vrbench.reproduce.results import read

PLOTS = "plots"
"""Folder of the pictures."""


def write(folder: Path) -> list[Path]:
    """Write the report of what is in a results folder; returns what was written, pages first.

    Raises:
        VrbenchError: as `vrbench.reproduce.results.read`: no plan, or records that cannot be read or compared.
    """
    made = document(read(folder))
    pages = {f"report.{form}": render(made, form) for form in ("md", "html", "tex")}
    for name, text in pages.items():
        write_atomically(folder / name, text)
    pictures: dict[str, bytes] = {}
    for section in made.sections:
        for plot in section.plots:
            pictures |= {f"{PLOTS}/{plot.name}.png": plot.png, f"{PLOTS}/{plot.name}.svg": plot.svg}
    for name, data in pictures.items():
        write_atomically(folder / name, data)
    for old in (folder / PLOTS).glob("*"):
        if f"{PLOTS}/{old.name}" not in pictures and old.suffix in (".png", ".svg"):
            old.unlink()  # of an earlier report, whose data are gone
    return [folder / name for name in (*pages, *pictures)]


def render(made: Document, form: str) -> str:
    """The report as 'md', 'html' or 'tex'."""
    surroundings = environment(form, "vrbench.reproduce")
    surroundings.filters |= {"sheet": _sheet, "columns": _columns, "uri": data_uri}
    return str(surroundings.get_template(f"report.{form}.j2").render(page=made, marks=VERDICT_MARKS, folder=PLOTS))


def _sheet(sheet: ReportTable) -> str:
    """An aligned Markdown table; no line break within the brackets of an interval."""
    from tabulate import tabulate

    def cell(text: str) -> str:
        return escape_markdown(text).replace(", ", ",\N{NO-BREAK SPACE}") if "[" in text else escape_markdown(text)

    aligned = ["left" if words else "right" for words in _words(sheet)]
    rows = [[cell(text) for text in row] for row in sheet.rows]
    headers = [escape_markdown(header) for header in sheet.headers]
    return tabulate(rows, headers, "pipe", colalign=aligned if rows else None, disable_numparse=True)


def _columns(sheet: ReportTable) -> str:
    """LaTeX's letters of the columns."""
    return "".join("l" if words else "r" for words in _words(sheet))


def _words(sheet: ReportTable) -> list[bool]:
    """Which columns hold words rather than figures."""
    columns: list[Any] = list(zip(*sheet.rows, strict=True)) or [() for _ in sheet.headers]
    return [i == 0 or not any(text[-1:].isdigit() or text[-1:] in "]*%" for text in c) for i, c in enumerate(columns)]
