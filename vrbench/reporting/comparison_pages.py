"""The comparison as Markdown, LaTeX and one self-contained HTML page, from the templates in this package."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from vrbench.reporting import comparison_table, formatting
from vrbench.reporting.comparison_table import Table
from vrbench.reporting.plot_style import to_dark_theme
from vrbench.statistics.schema import Comparison

if TYPE_CHECKING:
    from jinja2 import Environment

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    formatting.MINUS: r"$-$",
}


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def escape_markdown(text: str) -> str:
    """Return text that Markdown prints as it is, also in a table's cell; only what needs it is escaped."""
    return re.sub(r"([\\`*~|<$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|&(?=#?\w+;)|^[>#])", r"\\\1", _line(text))


def _line(text: str) -> str:
    return " ".join(text.splitlines())


def pipe_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], aligned: Sequence[str], bold: Collection[int] = ()
) -> str:
    """Return an aligned Markdown table; no line break within the brackets of an interval.

    Args:
        headers: one a column.
        rows: one text a column.
        aligned: "left" or "right" for each column.
        bold: indices of rows in bold.
    """

    def cell(text: str, is_bold: bool) -> str:
        shown = escape_markdown(text)
        shown = shown.replace(", ", ",\N{NO-BREAK SPACE}") if "[" in text else shown
        return f"**{shown}**" if is_bold and text else shown

    cells = [[cell(text, i in bold) for text in row] for i, row in enumerate(rows)]
    headers = [escape_markdown(header) for header in headers]
    return tabulate(cells, headers, "pipe", colalign=aligned if rows else None, disable_numparse=True)


def _markdown_table(table: Table) -> str:
    suites = [i for i, line in enumerate(table.lines) if line.is_suite]
    return pipe_table(table.headers, [line.cells for line in table.lines], table.aligns, suites)


def _code(text: str) -> str:
    """Return text as Markdown code, whatever backticks are in it."""
    line = _line(text)
    fence = "`" * (1 + max((len(ticks) for ticks in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def markdown(comparison: Comparison, plots: tuple[str, ...] = ()) -> str:
    """Return a Markdown page; `plots` are file names beside it."""
    return _template("comparison.md.j2").render(**_content(comparison), plots=plots)


def latex(comparison: Comparison) -> str:
    """Return a booktabs table for each candidate."""
    return _template("comparison.tex.j2").render(**_content(comparison))


def html(comparison: Comparison) -> str:
    """Return one page with its plots embedded, light or dark as the reader's system is."""
    from vrbench.reporting import comparison_plots

    drawn = comparison_plots.draw(comparison, "svg").items()
    embedded = [(comparison_plots.TITLES[name], data_uri(svg), data_uri(to_dark_theme(svg))) for name, svg in drawn]
    return _template("comparison.html.j2").render(**_content(comparison), plots=embedded)


def data_uri(svg: bytes) -> str:
    """Return an image as a URI that a page can embed."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _content(comparison: Comparison) -> dict[str, Any]:
    return {
        "baseline": comparison.baseline_label,
        "overview": comparison_table.overview_table(comparison),
        "caption": comparison_table.caption(comparison),
        "origins": formatting.origins(comparison),
        "candidates": [
            {
                "label": c.label,
                "table": comparison_table.candidate_table(c),
                "verdicts": [
                    (v.verdict, formatting.VERDICT_MARKS[v.verdict], formatting.verdict(v)) for v in c.verdicts
                ],
            }
            for c in comparison.candidates
        ],
        "notes": comparison.notes,
        "method": formatting.describe_method(comparison),
    }


def _template(name: str) -> Any:
    return environment(name.split(".")[1]).get_template(name)


@cache
def environment(kind: str, package: str = "vrbench.reporting") -> Environment:
    """Return the environment that renders a package's templates, with filters that escape; HTML escapes by default.

    Args:
        kind: 'md', 'tex' (whose expressions stand in << >>) or 'html'.
        package: with a folder of templates.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    braces: dict[str, Any] = {"variable_start_string": "<<", "variable_end_string": ">>"} if kind == "tex" else {}
    templates = Environment(
        loader=PackageLoader(package),
        autoescape=kind == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **braces,
    )
    templates.filters |= {"tex": escape_latex, "md": escape_markdown}
    templates.filters |= {"line": _line, "code": _code, "table": _markdown_table}
    return templates
