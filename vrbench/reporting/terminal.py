"""The comparison, and plain scores, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from vrbench.core.schemas import Run, TaskResult
from vrbench.data.locate import skipped_note
from vrbench.reporting import columns, formatting
from vrbench.statistics.schema import Comparison

WIDTH = 110


def table(comparison: Comparison) -> str:
    """Return one table for each candidate with its notes and verdicts, then what holds for all."""
    parts: list[str] = []
    for candidate in comparison.candidates:
        parts.append(f"{candidate.label} against {comparison.baseline_label}")
        made = columns.candidate_table(candidate)
        rows = [line.cells for line in made.lines]
        parts.append(tabulate(rows, made.headers, "simple", colalign=made.aligns, disable_numparse=True))
        parts += [_wrap(f"  {line.cells[0]}: {line.note}") for line in made.lines if line.note]
        marks = formatting.VERDICT_MARKS
        parts += [_wrap(f"{marks[v.verdict]} {formatting.verdict(v)}") for v in candidate.verdicts]
        parts.append("")
    parts += [_wrap(f"note: {note}") for note in comparison.notes]
    sources = [(comparison.baseline_label, s) for s in comparison.baseline_sources]
    sources += [(c.label, s) for c in comparison.candidates for s in c.sources]
    parts += [_wrap(f"{label}: {text}") for label, s in sources if (text := formatting.describe_reused(s.provenance))]
    joined = max(len(sources) for sources in (comparison.baseline_sources, *(c.sources for c in comparison.candidates)))
    if joined > 1:
        parts += [_wrap(f"run: {origin.label}: {origin.made}") for origin in formatting.origins(comparison)]
    return "\n".join([*parts, _wrap(formatting.describe_method(comparison))])


def scores(runs: Sequence[Run]) -> str:
    """Return each run's score on each task with its 95 % interval, for runs without a baseline."""
    rows = [(run.record.checkpoint.id, *_cells(r)) for run in runs for r in run.record.results]
    headers = ("checkpoint", "task", "metric", "n", "score [95 %]")
    aligned = ("left", "left", "left", "right", "right")
    table = tabulate(rows, headers, "simple", colalign=aligned, disable_numparse=True)
    results = [(run.record.checkpoint.id, r) for run in runs for r in run.record.results]
    notes = [f"  {name}, {r.task}: {remark}" for name, r in results for remark in r.remarks]
    skipped = {task: why for run in runs for task, why in run.record.skipped.items()}
    notes += [skipped_note(skipped)] if skipped else []
    before = [
        f"{run.record.checkpoint.id}: {text}"
        for run in runs
        if (text := formatting.describe_reused(run.record.provenance))
    ]
    return "\n".join([table, *map(_wrap, [*notes, *before])])


def _cells(result: TaskResult) -> tuple[str, str, str, str]:
    name, items = (
        formatting.mark_unscored(result.task, result.has_many_unscored),
        formatting.count(result.n, result.n_unscored),
    )
    return name, result.metric, items, _score(result)


def _score(result: TaskResult) -> str:
    if result.score is None:
        return "error"
    digits = 2 if result.metric == "perplexity" else 1
    return formatting.interval(result.score.value, result.score.low, result.score.high, digits)


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="    ")
