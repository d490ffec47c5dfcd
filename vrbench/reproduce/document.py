"""The report before it has a format: sections with tables, plots and sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vrbench.reproduce import claims, layersets, orderings, report_tables
from vrbench.reproduce.claims import ClaimResult
from vrbench.reproduce.plots import ReportPlot, pictures
from vrbench.reproduce.published import PAPER, PUBLISHED
from vrbench.reproduce.report_tables import ReportTable
from vrbench.reproduce.results import PlanResults
from vrbench.reproduce.seed_estimate import ONE_SEED
from vrbench.reproduce.spent import spent
from vrbench.reproduce.tables import REGION, TABLES
from vrbench.statistics import bootstrap


@dataclass(frozen=True)
class ReportSection:
    """One of the paper's tables.

    Attributes:
        key: of the table.
        title: of the section.
        question: what it answers.
        sheets: ours first, the published ones beside it.
        plots: of it.
        notes: what a reader must know.
    """

    key: str
    title: str
    question: str
    sheets: tuple[ReportTable, ...]
    plots: tuple[ReportPlot, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """The whole report.

    Attributes:
        title: what was repeated.
        lead: what it is, in sentences.
        findings: claim by claim.
        sections: table by table.
        missing: steps that are not done.
        method: how the figures were made.
        origins: with what, and what it cost.
    """

    title: str
    lead: tuple[str, ...]
    findings: tuple[ClaimResult, ...]
    sections: tuple[ReportSection, ...]
    missing: tuple[str, ...]
    method: tuple[str, ...]
    origins: tuple[str, ...]


def document(results: PlanResults) -> Document:
    """Everything that the folder's records say."""
    plan = results.plan
    seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) != 1)}"
    return Document(
        title=f"The paper's tables, repeated: {plan.family}, {seeds}",
        lead=tuple(_lead(results)),
        findings=claims.claim_results(results),
        sections=tuple(_section(results, key) for key in TABLES if _has(results, key)),
        missing=tuple(results.undone),
        method=tuple(_method(results)),
        origins=tuple(spent(results)),
    )


def _has(results: PlanResults, key: str) -> bool:
    return key in results.rows or (key == "profile" and bool(results.profile or key in results.plan.tables))


def _lead(results: PlanResults) -> Iterator[str]:
    plan = results.plan
    yield (
        f"What {PAPER} says, as experiments at the scale of the family {plan.family}. What is measured here and what "
        "was published stand in tables of their own; a published figure bears the mark of its source."
    )
    if plan.is_trial:
        yield "This is a trial: with so few training steps nothing can be learned, and the figures mean nothing."
    if plan.limit is not None:
        yield f"At most {plan.limit:,} items a task were used."
    if plan.overrides:
        yield f"Set for all trainings: {', '.join(f'{k} = {v}' for k, v in sorted(plan.overrides.items()))}."
    if results.undone:
        count = f"{len(results.undone)} of {len(plan.steps)}"
        yield f"{count} steps are not done; what rests on them is marked or left out."


def _section(results: PlanResults, key: str) -> ReportSection:
    table = TABLES[key]
    beside = [report_tables.published(PUBLISHED[name]) for name in table.published]
    if key == "profile":
        own = report_tables.profile(results.profile) if results.profile else []
        notes = () if own else ("It has not been measured: profile.json is not there.",)
        return ReportSection(key, table.title, table.question, (*own, *beside), pictures(results, key), notes)
    own = [report_tables.ours(results, key)]
    more = _MORE[key](results) if key in _MORE else []
    return ReportSection(
        key, table.title, table.question, (*own, *beside, *more, report_tables.by_task(results, key)),
        pictures(results, key), tuple(_notes(results, key)),
    )  # fmt: skip


def _strategies(results: PlanResults) -> list[ReportTable]:
    rows = [row for row in results.rows["strategies"] if not row.is_baseline and row.pairs]
    tasks = results.pool("visual")
    first = next((row for row in rows if row.label == REGION), None)
    found = []
    if first is not None and len(rows) > 1:
        others = [row for row in rows if row is not first]
        title = f"Measured here: {REGION} against each of the others, points of the visual score"
        found.append(report_tables.orderings(orderings.against(results, first, others, tasks), title, folded=False))
    every = orderings.every_pair(results, rows, tasks)
    if len(every) > 1:
        clear = sum(o.is_clear for o in every)
        title = f"Measured here: every pair; {clear} of {len(every)} are told apart at 5 % after Holm's correction"
        found.append(report_tables.orderings(every, title, folded=True))
    chosen = layersets.choices(results)
    return [*found, report_tables.layer_choices(chosen)] if chosen else found


_MORE: dict[str, Callable[[PlanResults], list[ReportTable]]] = {"strategies": _strategies}


def _notes(results: PlanResults, key: str) -> Iterator[str]:
    rows = results.rows.get(key, ())
    if not TABLES[key].published:
        yield "No published figures of this table are at hand, beside what the claims say."
    if any(len(row.pairs) == 1 for row in rows):
        yield f"*: {ONE_SEED}; the interval is over items alone."
    for row in rows:
        label = f"{row.series}: {row.label}" if row.series else row.label
        for seed, name in row.runs.items():
            dead = results.runs[name].dead
            if dead:
                yield f"{label}, seed {seed}: {', '.join(dead)} did not run through; its means leave this seed out."
        notes = {r.note for name in row.runs.values() for r in results.runs[name].record.results if r.has_many_unscored}
        yield from (f"{label}: {note}" for note in sorted(filter(None, notes)))


def _method(results: PlanResults) -> Iterator[str]:
    yield (
        "Every run is compared with the run of the model tuned everywhere with the same seed, over the same items; the "
        "official metric is recomputed. A figure is the mean over seeds; each seed's own stands beside it."
    )
    yield (
        f"Brackets are 95 % intervals over items and seeds: a cluster bootstrap ({bootstrap.DRAWS:,} draws) that draws the "  # noqa: E501
        "same items for all seeds and both runs, and the scatter between seeds with Student's t for so few (how: "
        "vrbench/reproduce/seed_estimate.py; how often they hold the truth: benchmarks/results/seeds.md). SD is the "
        "standard deviation of the seeds' figures."
    )
    tasks = [("visual", results.pool("visual")), ("text", results.pool("text"))]
    yield " ".join(f"The {name} score is the mean of {', '.join(found)}." for name, found in tasks if found)
    yield (
        "Kept is candidate / baseline in %, of a perplexity baseline / candidate; points are candidate minus baseline. "
        "A claim is supported if the whole interval keeps its threshold, refuted if none of it does, else undecided; "
        "each verdict is of this scale alone. p is two-sided, from the same two parts as the interval."
    )
