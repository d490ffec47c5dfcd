"""The columns of the two tables of a comparison; every format takes headers, cells and alignment from here.

To add a column to a candidate's table, add a line to `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from vrbench.reporting.formatting import VERDICT_MARKS, count, interval, mark_unscored, number, p_value
from vrbench.statistics.schema import CandidateComparison, Comparison, ComparisonRow


@dataclass(frozen=True)
class Column:
    """A column of a candidate's table.

    Attributes:
        header: its heading.
        text: row -> cell; of a row without a value only where `without_value` is None.
        without_value: cell of a row without a value.
        align: alignment of the cells.
    """

    header: str
    text: Callable[[ComparisonRow], str]
    without_value: str | None = "-"
    align: Literal["left", "right"] = "right"


def _name(row: ComparisonRow) -> str:
    name = f"mean of {len(row.tasks)}: {row.name}" if row.kind == "suite" else row.name
    return mark_unscored(name, row.has_many_unscored)


def _digits(row: ComparisonRow) -> int:
    return 2 if row.unit == "perplexity" else 1


def _difference(row: ComparisonRow) -> str:
    return interval(row.difference, row.difference_low, row.difference_high, _digits(row), signed=True)


def _retention(row: ComparisonRow) -> str:
    return interval(row.retention, row.retention_low, row.retention_high, 1)


COLUMNS = (
    Column("task", _name, None, "left"),
    Column("n", lambda row: count(row.n, row.n_unscored), None),
    Column("baseline", lambda row: number(row.baseline, _digits(row))),
    Column("candidate", lambda row: number(row.candidate, _digits(row))),
    Column("difference", _difference),
    Column("retention %", _retention, "error"),
    Column("p (Holm)", lambda row: p_value(row.p_holm)),
)


@dataclass(frozen=True)
class TableLine:
    """One row as text.

    Attributes:
        cells: one text a column.
        is_suite: whether it is a suite's mean.
        has_failed: whether there is no value.
        note: what a reader must know, or why there is no value.
    """

    cells: tuple[str, ...]
    is_suite: bool
    has_failed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table as text: headers, alignment of the columns ("left" or "right"), and lines."""

    headers: tuple[str, ...]
    aligns: tuple[str, ...]
    lines: tuple[TableLine, ...]


def candidate_table(candidate: CandidateComparison) -> Table:
    """Return the tasks by suite, each suite's mean after its tasks, means over several suites last."""
    rows = _rows(candidate)
    lines = tuple(_line(rows[name]) for name in row_names([candidate]))
    return Table(tuple(c.header for c in COLUMNS), tuple(c.align for c in COLUMNS), lines)


def _rows(candidate: CandidateComparison) -> dict[tuple[str, bool], ComparisonRow]:
    return {(row.name, row.kind == "suite"): row for row in (*candidate.tasks, *candidate.suites)}


def _line(row: ComparisonRow) -> TableLine:
    has_failed = row.status == "error"
    fixed = [column.without_value if has_failed else None for column in COLUMNS]
    cells = tuple(c.text(row) if text is None else text for c, text in zip(COLUMNS, fixed, strict=True))
    unit = "perplexity, lower is better" if row.unit == "perplexity" else ""
    note = row.error if has_failed else "; ".join(filter(None, [unit, row.note]))
    return TableLine(cells, row.kind == "suite", has_failed, note)


def row_names(candidates: Sequence[CandidateComparison]) -> list[tuple[str, bool]]:
    """Return every row's name and whether it is a suite, tasks by suite and each suite's mean after its tasks."""
    tasks = {r.name: r.suite for c in candidates for r in c.tasks}
    suites = dict.fromkeys(r.name for c in candidates for r in c.suites)
    found: list[tuple[str, bool]] = []
    for home in dict.fromkeys(tasks.values()):
        found += [(task, False) for task, suite in tasks.items() if suite == home]
        found += [(home, True)] if home in suites else []
    return found + [(s, True) for s in suites if (s, True) not in found]


def overview_table(comparison: Comparison) -> Table:
    """Return all candidates side by side: n, the baseline's score and each retention; then one line a claim."""
    lines: list[TableLine] = []
    for name, is_suite in row_names(comparison.candidates):
        rows = [_rows(c).get((name, is_suite)) for c in comparison.candidates]
        known = [row for row in rows if row is not None and row.status == "ok"]
        title = f"mean: {name}" if is_suite else name
        if any(row.unit == "perplexity" for row in known):
            title += " (perplexity)"
        title = mark_unscored(title, any(row is not None and row.has_many_unscored for row in rows))
        counts = _join_distinct(count(row.n, row.n_unscored) for row in known)
        scores = _join_distinct(number(row.baseline, _digits(row)) for row in known)
        kept = ("-" if row is None else "error" if row.status == "error" else _retention(row) for row in rows)
        lines.append(TableLine((title, counts, scores, *kept), is_suite, not known))
    for claim in comparison.claims:
        found = [next((v for v in c.verdicts if v.claim == claim), None) for c in comparison.candidates]
        signed = claim.unit == "points"
        cells = (
            f"{VERDICT_MARKS[v.verdict]} {v.verdict} ({number(v.estimate, 1, signed)})" if v else "-" for v in found
        )
        lines.append(TableLine((f"claim {claim.text}", "", "", *cells), False))
    headers = ("task", "n", comparison.baseline_label, *(c.label for c in comparison.candidates))
    return Table(headers, ("left", *["right"] * (len(headers) - 1)), tuple(lines))


def caption(comparison: Comparison) -> str:
    """Return a caption that explains the columns of `overview_table`."""
    return (
        f"Column {comparison.baseline_label} is its score (0 to 100, or a perplexity); the other columns are the "
        "retention of that score in %, with the 95 % interval. In parentheses after a verdict: the estimate, in % or "
        "in points, as in the claim."
    )


def _join_distinct(texts: Iterable[str]) -> str:
    """Return the text, or the different ones where candidates share different items with the baseline."""
    return " / ".join(dict.fromkeys(texts)) or "-"
