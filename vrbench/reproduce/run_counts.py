"""Runs reduced to what statistics need, the counts of each cluster: one run is in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vrbench.core.sample_columns import columns_of
from vrbench.core.schemas import Run, RunRecord, Sample, TaskResult
from vrbench.statistics import pairing
from vrbench.statistics.claims import POOLS
from vrbench.tasks import metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class TaskCounts:
    """One task of one run.

    Attributes:
        result: its record.
        table: [clusters, ratios, 2], as `Metric.statistics` makes it, with a row for every cluster.
        n: scored items.
        outcomes: the same, or units where items count together.
        items_digest: sha256 of the items; the same where two runs can be paired.
        unscored: ids of items without a score.
    """

    result: TaskResult
    table: Array
    n: int
    outcomes: int
    items_digest: str
    unscored: frozenset[str]


@dataclass(frozen=True)
class RunCounts:
    """One run.

    Attributes:
        record: its record.
        tasks: counts of each finished task with a scored item.
        load: reads the whole run again.
    """

    record: RunRecord
    tasks: Mapping[str, TaskCounts]
    load: Callable[[], Run]

    @property
    def failed_tasks(self) -> tuple[str, ...]:
        """Tasks without a score."""
        return tuple(r.task for r in self.record.results if r.task not in self.tasks)

    def pool(self, name: str) -> tuple[str, ...]:
        """Return the tasks, failed ones too, that a claim's name such as 'visual' covers; percentages only."""
        suites = {name, *POOLS.get(name, ())}
        named = (r for r in self.record.results if r.suite in suites and r.higher_is_better)
        return tuple(r.task for r in named if metrics.metric_named(r.metric).kind == "percent")


def count_run(load: Callable[[], Run]) -> RunCounts:
    """Load a run and count it.

    Raises:
        VrbenchError: as `load`, or an unknown metric.
    """
    run = load()
    metric = {task: metrics.metric_named(run.result(task).metric) for task in run.samples}
    scored = [task for task in run.samples if metric[task].scored(columns_of(run, task))]
    return RunCounts(run.record, {task: _counts(run, task) for task in scored}, load)


def leave_out(counts: RunCounts, task: str, unscored: frozenset[str]) -> TaskCounts:
    """Return a task's counts without some more items, which another run could not score."""
    run = counts.load()
    kept = tuple(s.model_copy(update={"unscored": "left out"}) if s.id in unscored else s for s in run.samples[task])
    return _counts(run.model_copy(update={"samples": {task: kept}}), task)


def _counts(run: Run, task: str) -> TaskCounts:
    import numpy as np

    result, samples, columns = run.result(task), run.samples[task], columns_of(run, task)
    metric = metrics.metric_named(result.metric)
    table, scored = metric.statistics(columns), metric.scored(columns)
    filled, every = sorted(set(scored.cluster)), sorted(set(columns.cluster))
    if len(filled) < len(every):
        whole = np.zeros((len(every), *table.shape[1:]))
        whole[np.searchsorted(every, filled)] = table
        table = whole
    unscored = frozenset(s.id for s in samples if s.unscored)
    return TaskCounts(result, table, len(scored), metric.outcomes(columns), _items_digest(samples), unscored)


def _items_digest(samples: Iterable[Sample]) -> str:
    total = hashlib.sha256()
    for s in sorted(samples, key=lambda s: s.id):
        total.update(f"{s.id}\x1f{s.cluster}\x1f{s.group}\x1f{s.unit}\x1f{s.weight!r}\x1f{s.prompt_digest}\n".encode())
    return total.hexdigest()


def pairing_errors(candidate: RunCounts, baseline: RunCounts, label: str) -> list[str]:
    """Return why two runs may not be compared, by `vrbench.statistics.pairing` unless they are plainly alike.

    Runs of different versions of vrbench's code may be compared: a resumed plan has both, and its report says so.
    """
    if _are_alike(candidate, baseline):
        return []
    return list(pairing.validate_pair(candidate.load(), baseline.load(), label, same_code=False))


_PAIRED_FIELDS = (
    "version", "suite", "metric", "higher_is_better", "fewshot", "harness", "definition_digest", "data_digest",
)  # fmt: skip


def _are_alike(candidate: RunCounts, baseline: RunCounts) -> bool:
    candidate_inputs, baseline_inputs = (
        (run.record.settings.limit, run.record.settings.seed,
         {r.task: [getattr(r, name) for name in _PAIRED_FIELDS] for r in run.record.results},
         {task: counts.items_digest for task, counts in run.tasks.items()})
        for run in (candidate, baseline)
    )  # fmt: skip
    return candidate_inputs == baseline_inputs
