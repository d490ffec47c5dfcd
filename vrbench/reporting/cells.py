"""Rows of a comparison as the texts that every format shows."""

from __future__ import annotations

from dataclasses import dataclass

from vrbench.core.schemas import UNSCORED_MARK, AnswerProvenance, Provenance, RunSource
from vrbench.statistics.schema import CandidateComparison, Comparison, ComparisonRow, Verdict

HEADERS = ("task", "n", "baseline", "candidate", "difference", "retention %", "p (Holm)")
MINUS = "\N{MINUS SIGN}"
MARKS = {"supported": "\N{CHECK MARK}", "refuted": "\N{MULTIPLICATION X}", "undecided": "?"}


@dataclass(frozen=True)
class TableLine:
    """One row as text.

    Attributes:
        cells: one text a column.
        suite: whether it is a suite's mean.
        failed: whether there is no figure.
        note: what a reader must know, or why there is no figure.
    """

    cells: tuple[str, ...]
    suite: bool
    failed: bool
    note: str


def lines(candidate: CandidateComparison) -> list[TableLine]:
    """Tasks by suite, each suite's mean after its tasks, means over several suites last."""
    homes = dict.fromkeys(row.suite for row in candidate.tasks)
    means = {row.name: row for row in candidate.suites}
    found: list[TableLine] = []
    for suite in homes:
        found += [_line(row) for row in candidate.tasks if row.suite == suite]
        if suite in means:
            found.append(_line(means[suite]))
    return found + [_line(row) for name, row in means.items() if name not in homes]


def count(n: int, unscored: int) -> str:
    """Items scored, and how many could not be, if any."""
    return f"{n:,}" + (f" ({unscored:,} unscored)" if unscored else "")


def marked(name: str, is_marked: bool) -> str:
    """A task's name, with a mark behind it where many of its items could not be scored."""
    return f"{name} {UNSCORED_MARK}" if is_marked else name


def _line(row: ComparisonRow) -> TableLine:
    items = count(row.n, row.n_unscored)
    name = marked(f"mean of {len(row.tasks)}: {row.name}" if row.kind == "suite" else row.name, row.has_many_unscored)
    if row.status == "error":
        return TableLine((name, items, "-", "-", "-", "error", "-"), row.kind == "suite", True, row.error)
    digits = 2 if row.unit == "perplexity" else 1
    cells = (
        name,
        items,
        number(row.baseline, digits),
        number(row.candidate, digits),
        interval(row.difference, row.difference_low, row.difference_high, digits, signed=True),
        interval(row.retention, row.retention_low, row.retention_high, 1),
        p_value(row.p_holm),
    )
    note = "; ".join(filter(None, ["perplexity, lower is better" if row.unit == "perplexity" else "", row.note]))
    return TableLine(cells, row.kind == "suite", False, note)


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """A figure with a real minus sign, '-' for none; zero carries no sign."""
    if value is None:
        return "-"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def interval(value: float | None, low: float | None, high: float | None, digits: int, signed: bool = False) -> str:
    """'94.7 [90.9, 98.4]'; without ends where there is no interval, '-' where there is no value."""
    if value is None or low is None or high is None:
        return number(value, digits, signed)
    ends = f"{number(low, digits, signed)}, {number(high, digits, signed)}"
    return f"{number(value, digits, signed)} [{ends}]"


def p_value(p: float | None) -> str:
    """Three digits, or '<0.001'."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def verdict(found: Verdict) -> str:
    """One sentence: the claim, what is said of it, the interval, and what would decide it."""
    signed = found.claim.unit == "points"
    unit = "points" if signed else "%"
    figure = interval(found.estimate, found.low, found.high, 2 if signed else 1, signed)
    said = f"{found.claim.text}: {found.verdict}"
    said += f", {figure} {unit}" if found.estimate is not None else ""
    return said + (f"; {found.reason}" if found.reason else "")


@dataclass(frozen=True)
class RunOrigin:
    """One of the runs that a checkpoint's figures come from.

    Attributes:
        label: the checkpoint, with the start of its digest.
        made: tasks, machine, time and versions.
        command: the command line.
    """

    label: str
    made: str
    command: str


def origins(comparison: Comparison) -> list[RunOrigin]:
    """Where every figure comes from: a line a run, the baseline's first."""
    named = [(comparison.baseline_label, comparison.baseline, comparison.baseline_sources)]
    named += [(c.label, c.checkpoint, c.sources) for c in comparison.candidates]
    return [
        RunOrigin(f"{label} (sha256 {ref.digest[:12]})", _made(source, len(sources) == 1), source.provenance.command)
        for label, ref, sources in named
        for source in sources
    ]


def _made(source: RunSource, whole: bool) -> str:
    """How a run was made; `whole` when all of the checkpoint's tasks are from it, so that they need no names."""
    by, count = source.provenance, len(source.tasks)
    versions = [f"{name} {by.packages[name]}" for name in ("torch", "transformers") if name in by.packages]
    parts = [
        f"{count} task{'s' * (count != 1)}" if whole else ", ".join(source.tasks),
        " on ".join(filter(None, [source.dtype, by.device])),
        by.started[:16].replace("T", " ") + " UTC" if by.started else "",
        ", ".join([code(by), *versions, *([f"Python {by.python}"] if by.python else [])]),
        reused(by) if by.answered else UNRECORDED,
    ]
    return "; ".join(filter(None, parts))


UNRECORDED = "which versions computed each answer is not recorded"
"""Said of a run whose record does not say what its answers come from, as those of vrbench 0.2.0."""


def code(by: Provenance | AnswerProvenance) -> str:
    """Version of vrbench, with the start of the commit and whether it was changed, where they are known."""
    commit = f" ({by.commit[:7]}{' and changes' if by.dirty else ''})" if by.commit else ""
    return f"vrbench {by.vrbench}{commit}"


def reused(by: Provenance) -> str:
    """How many of a run's answers were stored before it, and when and with what else they were computed; or ''."""
    before = [some for some in by.answered if some.reused]
    if not before:
        return ""
    total = sum(some.requests for some in by.answered)
    said = "; ".join(f"{some.requests:,} {_when(some)}{_with_what_else(some, by)}" for some in before)
    return f"{sum(some.requests for some in before):,} of {total:,} answers were stored before this run: {said}"


def _when(some: AnswerProvenance) -> str:
    first, last = (time[:16].replace("T", " ") for time in (some.first, some.last))
    return f"computed {first} UTC" if first == last else f"computed {first} to {last} UTC"


def _with_what_else(some: AnswerProvenance, by: Provenance) -> str:
    """What computed some answers, as far as it is not what the run was scored with; uncommitted changes always."""
    differs = some.vrbench != by.vrbench or (some.commit and some.commit != by.commit) or some.dirty
    other = [code(some)] if differs else []
    other += [f"{name} {found}" for name, found in some.packages.items() if by.packages.get(name) != found]
    where = f" on {some.device}" if some.device != by.device else ""
    return f" with {', '.join(other)}{where}" if other else where


def method(comparison: Comparison) -> str:
    """How the numbers were made, for a reader of the table."""
    limit = f" At most {comparison.limit} items a task were used." if comparison.limit is not None else ""
    return (
        "Brackets are 95 % intervals from a paired cluster bootstrap that recomputes the official metric "
        f"({comparison.draws:,} draws, seed {comparison.seed}). Retention is candidate / baseline, for perplexity "
        "baseline / candidate. A suite is the mean over its tasks' 0-100 scores. p is McNemar's exact test where every "
        "item stands alone and is right or wrong, else random sign flips of clusters; Holm's correction is over the "
        f"tasks (or suites) of a candidate. Claims are judged on the interval.{limit}"
    )
