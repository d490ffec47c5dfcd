"""Runs reduced to what statistics need: counts of each cluster, read one run at a time so that memory stays small."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.core.run_storage import load_run
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
    """One task in one run.

    Attributes:
        result: its record.
        table: [clusters, ratios, 2], as `Metric.statistics` makes it, with a row for every cluster.
        n: items scored.
        outcomes: the same, or units where items count together.
        items: sha256 over what the items are; the same where two runs can be paired.
        unscored: ids of items without a score.
    """

    result: TaskResult
    table: Array
    n: int
    outcomes: int
    items: str
    unscored: frozenset[str]


@dataclass(frozen=True)
class RunCounts:
    """One run.

    Attributes:
        record: its record.
        tasks: counts of each task that ran through and of which an item was scored.
        load: reads the whole run again.
    """

    record: RunRecord
    tasks: Mapping[str, TaskCounts]
    load: Callable[[], Run]

    @property
    def dead(self) -> tuple[str, ...]:
        """Tasks without a figure."""
        return tuple(r.task for r in self.record.results if r.task not in self.tasks)

    def pool(self, name: str) -> tuple[str, ...]:
        """Tasks, dead ones too, whose suites a claim's name such as 'visual' speaks of, percentages only."""
        suites = {name, *POOLS.get(name, ())}
        named = (r for r in self.record.results if r.suite in suites and r.higher_is_better)
        return tuple(r.task for r in named if metrics.metric_named(r.metric).kind == "percent")


def read(folder: Path) -> RunCounts:
    """A run from disk as counts; see `count_run`."""
    return count_run(partial(load_run, folder))


def count_run(load: Callable[[], Run]) -> RunCounts:
    """A run as counts.

    Args:
        load: reads the run.

    Raises:
        VrbenchError: as `load`, or an unknown metric.
    """
    run = load()
    return RunCounts(run.record, {task: _counts(run, task) for task in run.samples if _scored(run, task)}, load)


def without(counted: RunCounts, task: str, unscored: frozenset[str]) -> TaskCounts:
    """A task's counts with more items left out, those that another run could not score."""
    run = counted.load()
    left = tuple(s.model_copy(update={"unscored": "left out"}) if s.id in unscored else s for s in run.samples[task])
    return _counts(run.model_copy(update={"samples": {task: left}}), task)


def _scored(run: Run, task: str) -> bool:
    return bool(metrics.metric_named(run.result(task).metric).scored(run.samples[task]))


def _counts(run: Run, task: str) -> TaskCounts:
    import numpy as np

    result, samples = run.result(task), run.samples[task]
    metric = metrics.metric_named(result.metric)
    table = metric.statistics(samples)
    scored = metric.scored(samples)
    filled = sorted({s.cluster for s in scored})
    everyone = sorted({s.cluster for s in samples})
    if len(filled) < len(everyone):
        place = {cluster: i for i, cluster in enumerate(everyone)}
        whole = np.zeros((len(everyone), *table.shape[1:]))
        whole[[place[cluster] for cluster in filled]] = table
        table = whole
    unscored = frozenset(s.id for s in samples if s.unscored)
    return TaskCounts(result, table, len(scored), metric.outcomes(samples), _items(samples), unscored)


def _items(samples: Iterable[Sample]) -> str:
    total = hashlib.sha256()
    for s in sorted(samples, key=lambda s: s.id):
        total.update(f"{s.id}\x1f{s.cluster}\x1f{s.group}\x1f{s.unit}\x1f{s.weight!r}\x1f{s.prompt_digest}\n".encode())
    return total.hexdigest()


def faults(candidate: RunCounts, baseline: RunCounts, label: str) -> list[str]:
    """Why two runs may not be compared, one sentence each, told by `pairing` unless they are plainly alike.

    Runs of other versions of vrbench's code may be: a folder that is gone on with has both, and its report says so.
    """
    if _alike(candidate, baseline):
        return []
    return list(pairing.validate_pair(candidate.load(), baseline.load(), label, same_code=False))


def _alike(candidate: RunCounts, baseline: RunCounts) -> bool:
    ours, theirs = candidate.record, baseline.record
    if (ours.settings.limit, ours.settings.seed) != (theirs.settings.limit, theirs.settings.seed):
        return False
    here, there = ({r.task: r for r in record.results} for record in (ours, theirs))
    fields = (
        "version",
        "suite",
        "metric",
        "higher_is_better",
        "fewshot",
        "harness",
        "definition_digest",
        "data_digest",
    )
    return here.keys() == there.keys() and all(
        candidate.tasks.keys() == baseline.tasks.keys()
        and all(getattr(here[task], f) == getattr(there[task], f) for f in fields)
        and (task not in candidate.tasks or candidate.tasks[task].items == baseline.tasks[task].items)
        for task in here
    )
