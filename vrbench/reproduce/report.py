"""Write the report of a plan's folder: report.md, report.html, report.tex and plots, from its records alone.

The same records give the same bytes, without dates or machines, so that a published report can be rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.core.io import write_atomically
from vrbench.core.schemas import Provenance
from vrbench.reporting.comparison_pages import data_uri, environment, pipe_table
from vrbench.reporting.formatting import VERDICT_MARKS, code, describe_reused
from vrbench.reproduce.claims import claim_results
from vrbench.reproduce.families import FAMILIES
from vrbench.reproduce.plan import Plan
from vrbench.reproduce.plots import ReportPlot, report_plots
from vrbench.reproduce.report_tables import ReportTable, report_tables
from vrbench.reproduce.results import PlanResults, read_results
from vrbench.reproduce.seed_estimate import ONE_SEED
from vrbench.reproduce.tables import PAPER, REGION, REGION_ROW, TABLES
from vrbench.statistics import bootstrap

PLOTS = "plots"
"""Folder of the plots."""

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "lm_eval", "lmms_eval")


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


@dataclass(frozen=True)
class ReportSection:
    """The section of one of the paper's tables: measured tables first, then published ones, then details."""

    key: str
    title: str
    question: str
    tables: tuple[ReportTable, ...]
    plots: tuple[ReportPlot, ...]
    notes: tuple[str, ...]


def report_content(results: PlanResults) -> dict[str, Any]:
    """Return everything that a folder's records show, as the templates name it."""
    plan = results.plan
    seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) != 1)}"
    return {
        "title": f"The paper's tables, reproduced: {plan.family}, {seeds}",
        "lead": list(_introduction(results)),
        "claims": claim_results(results),
        "sections": list(_sections(results)),
        "missing": results.undone,
        "method": list(_method(results)),
        "origins": list(origins(results)),
    }


def _introduction(results: PlanResults) -> Iterator[str]:
    plan = results.plan
    yield (
        f"The claims and tables of {PAPER}, tested at the scale of the family {plan.family}. Measured and published "
        "figures are in separate tables; every published table names its source."
    )
    if plan.is_trial:
        yield "This is a trial: so few training steps teach nothing, and the figures are meaningless."
    if plan.limit is not None:
        yield f"At most {plan.limit:,} items a task were used."
    if plan.overrides:
        yield f"Set for all trainings: {', '.join(f'{k} = {v}' for k, v in sorted(plan.overrides.items()))}."
    yield from _region_note(plan)
    if results.undone:
        count = f"{len(results.undone)} of {len(plan.steps)}"
        yield f"{count} steps are not done; cells that need them are marked or left out."


def _region_note(plan: Plan) -> Iterator[str]:
    """Yield which layers are published and which are a guess, in a plan with a published region."""
    family = FAMILIES.get(plan.family)
    if family and family.region and any(step.arguments.get("tune.layers") == family.region for step in plan.steps):
        yield (
            f"Layers {family.region} ({REGION}, {REGION_ROW}, region) are published {family.region_source}. The paper "
            "publishes no indices for other numbers of evenly spread layers, for hybrid, for a region chosen after a "
            "removal, or for restored layers: those are a guess."
        )


def _sections(results: PlanResults) -> Iterator[ReportSection]:
    for key, table in TABLES.items():
        is_profile = key == "profile" and bool(results.profile or key in results.plan.tables)
        if key in results.rows or is_profile:
            tables, plots = report_tables(results, key), report_plots(results, key)
            yield ReportSection(key, table.title, table.question, tables, plots, tuple(_notes(results, key)))


def _notes(results: PlanResults, key: str) -> Iterator[str]:
    if key == "profile":
        if not results.profile:
            yield "Not measured: there is no profile.json."
        return
    rows = results.rows.get(key, ())
    if not TABLES[key].published:
        yield "No figures of this table were published, except those in the claims."
    if any(len(row.pairs) == 1 for row in rows):
        yield f"*: {ONE_SEED}; the interval is over items alone."
    for row in rows:
        label = f"{row.series}: {row.label}" if row.series else row.label
        for seed, name in row.runs.items():
            if failed := results.runs[name].failed_tasks:
                yield f"{label}, seed {seed}: {', '.join(failed)} failed; the means leave this seed out."
        notes = {r.note for name in row.runs.values() for r in results.runs[name].record.results if r.has_many_unscored}
        yield from (f"{label}: {note}" for note in sorted(filter(None, notes)))


def _method(results: PlanResults) -> Iterator[str]:
    yield (
        "Every run is compared with the run of the model tuned in all layers with the same seed, over the same items; "
        "the official metric is recomputed. A figure is the mean over seeds; each seed's own figure is beside it."
    )
    yield (
        f"Brackets are 95 % intervals over items and seeds: a cluster bootstrap ({bootstrap.DRAWS:,} draws) that draws "
        "the same items for all seeds and both runs, and the deviation between seeds with Student's t (how: "
        "vrbench/reproduce/seed_estimate.py; how often they cover the truth: benchmarks/results/seeds.md). SD is the "
        "standard deviation of the seeds' figures."
    )
    tasks = [("visual", results.pool("visual")), ("text", results.pool("text"))]
    yield " ".join(f"The {name} score is the mean of {', '.join(found)}." for name, found in tasks if found)
    yield (
        "Kept is candidate / baseline in %, of a perplexity baseline / candidate; points are candidate minus baseline. "
        "A claim is supported if the whole interval meets its threshold, refuted if none of it does, else undecided; "
        "each verdict holds at this scale alone. p is two-sided, from the same two parts as the interval."
    )


def origins(results: PlanResults) -> Iterator[str]:
    """Yield sentences: minutes by device and kind of step, then versions, then commands."""
    if not results.done:
        yield "No step is done yet."
        return
    kinds = {step.name: step.kind for step in results.plan.steps}
    devices: dict[str, dict[str, list[float]]] = {}
    for name, done in results.done.items():
        device = done.device or done.provenance.device or "an unnamed device"
        devices.setdefault(device, {}).setdefault(kinds[name], []).append(done.seconds)
    for device, each in sorted(devices.items()):
        parts = ", ".join(f"{kind} {_minutes(seconds)} ({len(seconds)})" for kind, seconds in sorted(each.items()))
        total = _minutes([sum(seconds) for seconds in each.values()])
        yield f"Spent on {device}: {total} of steps in all: {parts}. Steps that shared a GPU are each counted in full."
    peak = max((done.peak_gib for done in results.done.values() if done.peak_gib is not None), default=None)
    if peak is not None:
        yield f"Peak GPU memory of a step: {peak:.1f} GiB."
    yield from _mixed_code(results)
    for name, run in results.runs.items():
        if reused := describe_reused(run.record.provenance):
            yield f"{name}: {reused}."
    yield from dict.fromkeys(f"Made with {_versions(done.provenance)}." for done in results.done.values())
    yield from sorted({f"Command: {c}" for c in (d.provenance.command for d in results.done.values()) if c})


def _mixed_code(results: PlanResults) -> Iterator[str]:
    """Yield a note on tasks that runs answered or scored with different versions of vrbench's code."""
    found: dict[str, list[Mapping[str, int]]] = {}
    for run in results.runs.values():
        for result in run.record.results:
            found.setdefault(result.task, []).append(result.code)
    mixed = [task for task, codes in found.items() if any(code != codes[0] for code in codes)]
    if mixed:
        yield f"Not all runs were answered and scored by the same versions of vrbench's code: {', '.join(mixed)}."


def _minutes(seconds: list[float]) -> str:
    return f"{sum(seconds) / 60:.1f} min"


def _versions(by: Provenance) -> str:
    libraries = [f"{name} {by.packages[name]}" for name in LIBRARIES if name in by.packages]
    return ", ".join(filter(None, [code(by), *libraries, f"Python {by.python}" if by.python else "", by.platform]))
