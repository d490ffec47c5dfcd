"""All candidates side by side: what each keeps of every score, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vrbench.reporting.cells import MARKS, TableLine, count, interval, marked, number
from vrbench.statistics.schema import CandidateComparison, Comparison, ComparisonRow


def names(candidates: Sequence[CandidateComparison]) -> list[tuple[str, bool]]:
    """Every row's name and whether it is a suite, tasks by suite and each suite's mean after its tasks."""
    tasks = {r.name: r.suite for c in candidates for r in c.tasks}
    suites = dict.fromkeys(r.name for c in candidates for r in c.suites)
    found: list[tuple[str, bool]] = []
    for home in dict.fromkeys(tasks.values()):
        found += [(task, False) for task, suite in tasks.items() if suite == home]
        found += [(home, True)] if home in suites else []
    return found + [(s, True) for s in suites if (s, True) not in found]


def headers(comparison: Comparison) -> tuple[str, ...]:
    """One for each cell of `overview`."""
    return ("task", "n", comparison.baseline_label, *(c.label for c in comparison.candidates))


def caption(comparison: Comparison) -> str:
    """What the columns of `overview` are."""
    return (
        f"Under {comparison.baseline_label} is its score, 0 to 100 or a perplexity; under the others what they keep of "
        "it, in %, with the 95 % interval. Beside a verdict: the estimate, in % or in points as the claim is."
    )


def overview(comparison: Comparison) -> list[TableLine]:
    """A line a task and suite with n, the baseline's score and each candidate's retention; then one a claim."""
    found: list[TableLine] = []
    for name, is_suite in names(comparison.candidates):
        rows = [_row(c, name, is_suite) for c in comparison.candidates]
        known = [row for row in rows if row is not None and row.status == "ok"]
        title = f"mean: {name}" if is_suite else name
        if any(row.unit == "perplexity" for row in known):
            title += " (perplexity)"
        title = marked(title, any(row is not None and row.has_many_unscored for row in rows))
        scores = (number(row.baseline, 2 if row.unit == "perplexity" else 1) for row in known)
        cells = (title, _each(count(row.n, row.n_unscored) for row in known), _each(scores), *map(_kept, rows))
        found.append(TableLine(cells, is_suite, not known, ""))
    for claim in comparison.claims:
        said = [next((v for v in c.verdicts if v.claim == claim), None) for c in comparison.candidates]
        signed = claim.unit == "points"
        shown = (f"{MARKS[v.verdict]} {v.verdict} ({number(v.estimate, 1, signed)})" if v else "-" for v in said)
        found.append(TableLine((f"claim {claim.text}", "", "", *shown), False, False, ""))
    return found


def _row(candidate: CandidateComparison, name: str, is_suite: bool) -> ComparisonRow | None:
    return next((r for r in (candidate.suites if is_suite else candidate.tasks) if r.name == name), None)


def _each(texts: Iterable[str]) -> str:
    """The text, or the different ones where candidates share other items with the baseline."""
    return " / ".join(dict.fromkeys(texts)) or "-"


def _kept(row: ComparisonRow | None) -> str:
    if row is None:
        return "-"
    return "error" if row.status == "error" else interval(row.retention, row.retention_low, row.retention_high, 1)
