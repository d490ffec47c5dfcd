"""The comparison, and plain scores, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from vrbench.core.schemas import Run, TaskResult
from vrbench.data.locate import skipped_note
from vrbench.reporting import comparison_table, formatting
from vrbench.statistics.schema import Comparison

WIDTH = 110


def table(comparison: Comparison) -> str:
    """Return one table for each candidate with its notes and verdicts, then what holds for all."""
    parts: list[str] = []
    for candidate in comparison.candidates:
        parts.append(f"{candidate.label} against {comparison.baseline_label}")
        rows = comparison_table.candidate_table(candidate)
        cells = [line.cells for line in rows.lines]
        parts.append(tabulate(cells, rows.headers, "simple", colalign=rows.aligns, disable_numparse=True))
        parts += [_wrap(f"  {line.cells[0]}: {line.note}") for line in rows.lines if line.note]
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
    results = [(run.checkpoint.id, result) for run in runs for result in run.results]
    headers = ("checkpoint", "task", "metric", "n", "score [95 %]")
    aligned = ("left", "left", "left", "right", "right")
    rows = [(name, *_cells(result)) for name, result in results]
    table = tabulate(rows, headers, "simple", colalign=aligned, disable_numparse=True)
    notes = [f"  {name}, {result.task}: {remark}" for name, result in results for remark in result.remarks]
    skipped = {task: why for run in runs for task, why in run.skipped.items()}
    notes += [skipped_note(skipped)] if skipped else []
    reused = [(run.checkpoint.id, formatting.describe_reused(run.provenance)) for run in runs]
    notes += [f"{name}: {text}" for name, text in reused if text]
    return "\n".join([table, *map(_wrap, notes)])


def _cells(result: TaskResult) -> tuple[str, str, str, str]:
    name = formatting.mark_unscored(result.task, result.has_many_unscored)
    found, digits = result.score, 2 if result.metric == "perplexity" else 1
    score = "error" if found is None else formatting.interval(found.value, found.low, found.high, digits)
    return name, result.metric, formatting.count(result.n, result.n_unscored), score


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="    ")
