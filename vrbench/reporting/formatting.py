"""Values, verdicts and the origin of a run as text, the same in every format."""

from __future__ import annotations

from dataclasses import dataclass

from vrbench.core.schemas import UNSCORED_MARK, AnswerProvenance, Provenance, RunSource
from vrbench.statistics.schema import Comparison, Verdict

MINUS = "\N{MINUS SIGN}"
VERDICT_MARKS = {"supported": "\N{CHECK MARK}", "refuted": "\N{MULTIPLICATION X}", "undecided": "?"}

UNRECORDED = "which versions computed each answer is not recorded"
"""For a run whose record does not say what its answers come from, as those of vrbench 0.2.0."""


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """Return a value with a real minus sign, '-' for none; zero has no sign."""
    if value is None:
        return "-"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def interval(value: float | None, low: float | None, high: float | None, digits: int, signed: bool = False) -> str:
    """Return '94.7 [90.9, 98.4]'; without ends where there is no interval, '-' where there is no value."""
    if value is None or low is None or high is None:
        return number(value, digits, signed)
    return f"{number(value, digits, signed)} [{number(low, digits, signed)}, {number(high, digits, signed)}]"


def p_value(p: float | None) -> str:
    """Return three digits, or '<0.001'."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def count(n: int, unscored: int) -> str:
    """Return how many items were scored, and how many could not be, if any."""
    return f"{n:,}" + (f" ({unscored:,} unscored)" if unscored else "")


def mark_unscored(name: str, has_many_unscored: bool) -> str:
    """Return a task's name, with a mark behind it where many of its items could not be scored."""
    return f"{name} {UNSCORED_MARK}" if has_many_unscored else name


def verdict(found: Verdict) -> str:
    """Return one sentence: the claim, the verdict, the interval, and what would decide it."""
    signed = found.claim.unit == "points"
    value = interval(found.estimate, found.low, found.high, 2 if signed else 1, signed)
    text = f"{found.claim.text}: {found.verdict}"
    if found.estimate is not None:
        text += f", {value} {'points' if signed else '%'}"
    return text + (f"; {found.reason}" if found.reason else "")


@dataclass(frozen=True)
class RunOrigin:
    """One of the runs that a checkpoint's values come from.

    Attributes:
        label: the checkpoint, with the start of its digest.
        made: tasks, machine, time and versions.
        command: the command line.
    """

    label: str
    made: str
    command: str


def origins(comparison: Comparison) -> list[RunOrigin]:
    """Return the origin of every value: one entry for each run, the baseline's first."""
    named = [(comparison.baseline_label, comparison.baseline, comparison.baseline_sources)]
    named += [(c.label, c.checkpoint, c.sources) for c in comparison.candidates]
    return [
        RunOrigin(
            f"{label} (sha256 {ref.digest[:12]})", _describe(source, len(sources) == 1), source.provenance.command
        )
        for label, ref, sources in named
        for source in sources
    ]


def _describe(source: RunSource, whole: bool) -> str:
    """Describe how a run was made; its tasks are listed unless all of the checkpoint's are from it (`whole`)."""
    by, n = source.provenance, len(source.tasks)
    versions = [f"{name} {by.packages[name]}" for name in ("torch", "transformers") if name in by.packages]
    parts = [
        f"{n} task{'s' * (n != 1)}" if whole else ", ".join(source.tasks),
        " on ".join(filter(None, [source.dtype, by.device])),
        by.started[:16].replace("T", " ") + " UTC" if by.started else "",
        ", ".join([code(by), *versions, *([f"Python {by.python}"] if by.python else [])]),
        describe_reused(by) if by.answered else UNRECORDED,
    ]
    return "; ".join(filter(None, parts))


def code(by: Provenance | AnswerProvenance) -> str:
    """Return the version of vrbench, with the start of the commit and whether it was changed, where known."""
    commit = f" ({by.commit[:7]}{' and changes' if by.dirty else ''})" if by.commit else ""
    return f"vrbench {by.vrbench}{commit}"


def describe_reused(by: Provenance) -> str:
    """Describe the answers that were stored before a run, and when and how they were computed; '' for none."""
    before = [some for some in by.answered if some.reused]
    if not before:
        return ""
    total = sum(some.requests for some in by.answered)
    parts = "; ".join(f"{some.requests:,} {_when(some)}{_differences(some, by)}" for some in before)
    return f"{sum(some.requests for some in before):,} of {total:,} answers were stored before this run: {parts}"


def _when(some: AnswerProvenance) -> str:
    first, last = (time[:16].replace("T", " ") for time in (some.first, some.last))
    return f"computed {first} UTC" if first == last else f"computed {first} to {last} UTC"


def _differences(some: AnswerProvenance, by: Provenance) -> str:
    """Describe what computed some answers where it differs from what scored the run; uncommitted changes always."""
    differs = some.vrbench != by.vrbench or (some.commit and some.commit != by.commit) or some.dirty
    other = [code(some)] if differs else []
    other += [f"{name} {found}" for name, found in some.packages.items() if by.packages.get(name) != found]
    where = f" on {some.device}" if some.device != by.device else ""
    return f" with {', '.join(other)}{where}" if other else where


def describe_method(comparison: Comparison) -> str:
    """Describe the statistical methods, for a reader of the table."""
    limit = f" At most {comparison.limit} items per task were used." if comparison.limit is not None else ""
    return (
        "Brackets are 95 % intervals from a paired cluster bootstrap that recomputes the official metric "
        f"({comparison.draws:,} draws, seed {comparison.seed}). Retention is candidate / baseline, for perplexity "
        "baseline / candidate. A suite is the mean over its tasks' 0-100 scores. p is from McNemar's exact test if "
        "each cluster is a single item scored 0 or 1, else from random sign flips of clusters, with Holm's correction "
        f"over the tasks (or suites) of a candidate. Verdicts on claims are based on the interval.{limit}"
    )
