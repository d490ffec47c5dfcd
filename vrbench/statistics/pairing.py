"""Pairing of two runs over the same items: whether they may be compared, and their paired counts."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vrbench.core.errors import VrbenchError
from vrbench.core.sample_columns import SampleColumns, columns_of
from vrbench.core.schemas import Run, TaskResult
from vrbench.statistics import bootstrap
from vrbench.statistics.bootstrap import Array
from vrbench.tasks.metrics import metric_named


@dataclass(frozen=True)
class PairedTask:
    """One task in both runs.

    Attributes:
        baseline: the baseline's result.
        candidate: the candidate's result.
        counts: paired counts; None if the task failed in one of them or no item was scored in both.
        drawn: the values on each bootstrap draw; None with `counts`, and before `draw_task`.
        n: items scored in both.
        unscored: items left out because one of the two could not be scored.
        unscored_alone: of these, items unscored in the baseline alone, and in the candidate alone.
    """

    baseline: TaskResult
    candidate: TaskResult
    counts: bootstrap.PairedCounts | None
    drawn: bootstrap.BootstrapDraws | None = None
    n: int = 0
    unscored: int = 0
    unscored_alone: tuple[int, int] = (0, 0)

    @property
    def in_mean(self) -> bool:
        """Whether it is part of its suite's mean: a percentage, higher is better."""
        return self.counts is not None and self.counts.metric.kind == "percent" and self.baseline.higher_is_better


def validate_pair(candidate: Run, baseline: Run, label: str, same_code: bool = True) -> Iterator[str]:
    """Return why the two runs may not be compared, one sentence each.

    Args:
        label: of the candidate.
        same_code: whether both must have been answered and scored by the same versions of vrbench's code.
    """
    ours, theirs = candidate.record.settings, baseline.record.settings
    if ours.limit != theirs.limit:
        yield f"{label}: limit {ours.limit} against the baseline's {theirs.limit}; run both over the same items"
    elif ours.limit is not None and ours.seed != theirs.seed:
        yield f"{label}: seed {ours.seed} against the baseline's {theirs.seed}; both chose other items"
    tasks = common_tasks(candidate, baseline)
    if not tasks:
        names = " against ".join(", ".join(r.task for r in run.record.results) for run in (candidate, baseline))
        yield f"{label}: no task in common with the baseline ({names})"
    for task in tasks:
        for error in _validate_task(task, candidate, baseline):
            yield f"{label}: {task}: {error}"
        ours_by, theirs_by = candidate.result(task).code, baseline.result(task).code
        if same_code and ours_by != theirs_by:
            yield f"{label}: {task}: {_code_differences(ours_by, theirs_by)}; run the older one again with this vrbench"


def _code_differences(ours: Mapping[str, int], theirs: Mapping[str, int]) -> str:
    """Return which parts of vrbench's code differ in version; parts that are not named have version 1."""
    different = [name for name in sorted({*ours, *theirs}) if ours.get(name, 1) != theirs.get(name, 1)]
    parts = [f"{name} {ours.get(name, 1)} against the baseline's {theirs.get(name, 1)}" for name in different]
    return f"vrbench's code changed between the two ({', '.join(parts)})"


def common_tasks(candidate: Run, baseline: Run) -> list[str]:
    """Return the tasks that both runs have, failed ones included, in the baseline's order."""
    ours = {r.task for r in candidate.record.results}
    return [r.task for r in baseline.record.results if r.task in ours]


def _validate_task(task: str, candidate: Run, baseline: Run) -> Iterator[str]:
    ours, theirs = candidate.result(task), baseline.result(task)
    for field in ("version", "suite", "metric", "higher_is_better", "fewshot", "harness"):
        a, b = getattr(ours, field), getattr(theirs, field)
        if a != b and "error" not in (ours.status, theirs.status):
            yield f"{field} {a!r} against the baseline's {b!r}"
    if "error" in (ours.status, theirs.status):
        return
    if ours.definition_digest != theirs.definition_digest and ours.definition_digest and theirs.definition_digest:
        yield "its prompt, generation settings or scoring differ from the baseline's"
    if ours.data_digest != theirs.data_digest:
        yield f"data {ours.data_digest[:12]!r} against the baseline's {theirs.data_digest[:12]!r}; the items differ"
        return
    yield from _validate_samples(columns_of(candidate, task), columns_of(baseline, task))


def _validate_samples(ours: SampleColumns, theirs: SampleColumns) -> Iterator[str]:
    if len(ours.place) < len(ours) or len(theirs.place) < len(theirs):
        yield "an item id occurs twice, so items cannot be paired"
    elif ours.place.keys() != theirs.place.keys():
        different = sorted(ours.place.keys() ^ theirs.place.keys())
        yield f"{len(different)} items are in one run only, such as {different[0]!r}"
    else:
        if ours.id != theirs.id:
            theirs = theirs.take([theirs.place[name] for name in ours.id])
        for what, fields in (("prompt", ("prompt_digest",)), ("place", ("cluster", "group", "unit", "weight"))):
            pairs = [(getattr(ours, field), getattr(theirs, field)) for field in fields]
            if places := sorted({i for a, b in pairs for i in _different(a, b)}):
                yield f"the {what} of {len(places)} items differs, such as {ours.id[places[0]]!r}"


def _different(ours: Sequence[str] | Array, theirs: Sequence[str] | Array) -> list[int]:
    """Return the positions at which two columns differ."""
    if isinstance(ours, np.ndarray):
        return np.flatnonzero(ours != theirs).tolist()
    return [] if ours == theirs else [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]


def pair_task(task: str, candidate: Run, baseline: Run, seed: int = 0) -> PairedTask:
    """Pair the items of one task by id and draw its bootstrap samples.

    Raises:
        VrbenchError: unknown metric.
    """
    return draw_task(task, [pair_counts(task, candidate, baseline)], seed)[0]


def draw_task(task: str, pairs: Sequence[PairedTask], seed: int, draws: int = bootstrap.DRAWS) -> list[PairedTask]:
    """Return the pairs of one task of several candidates with their bootstrap samples.

    A task's draws depend on the seed and its name, so they do not depend on other tasks or candidates.
    """
    counts = [pair.counts for pair in pairs if pair.counts is not None]
    drawn = iter(bootstrap.draw_all(counts, [seed, zlib.crc32(task.encode())], draws))
    return [pair if pair.counts is None else replace(pair, drawn=next(drawn)) for pair in pairs]


def pair_counts(task: str, candidate: Run, baseline: Run) -> PairedTask:
    """Pair the items of one task by id, without bootstrap samples.

    Raises:
        VrbenchError: unknown metric.
    """
    ours, theirs = candidate.result(task), baseline.result(task)
    if "error" in (ours.status, theirs.status):
        return PairedTask(theirs, ours, None)
    metric = metric_named(theirs.metric)
    here, there = columns_of(candidate, task), columns_of(baseline, task)
    lacking = [{name: why for name, why in zip(of.id, of.unscored, strict=True) if why} for of in (there, here)]
    alone = (len(lacking[0].keys() - lacking[1].keys()), len(lacking[1].keys() - lacking[0].keys()))
    here, there = (of.leave_out(lacking[1] | lacking[0]) for of in (here, there))
    n = len(metric.scored(there))
    counts = None
    if n:
        tables = metric.statistics(there), metric.statistics(here)
        counts = bootstrap.PairedCounts(metric, *tables, metric.outcomes(there))
    return PairedTask(theirs, ours, counts, n=n, unscored=len(there) - n, unscored_alone=alone)


def candidates_of(runs: list[Run], baseline: Run) -> list[Run]:
    """Return the runs without the baseline itself and without repetitions.

    Raises:
        VrbenchError: nothing is left.
    """
    seen = {baseline.record.inputs_digest}
    left: list[Run] = []
    for run in runs:
        if run.record.inputs_digest not in seen:
            seen.add(run.record.inputs_digest)
            left.append(run)
    if not left:
        given = "none was given" if not runs else "the only run given is the baseline itself"
        raise VrbenchError(f"there is nothing to compare with the baseline {baseline.record.checkpoint.id}: {given}")
    return left


def labels(runs: list[Run]) -> list[str]:
    """Return a different name for each run: its checkpoint's id, with digest and number where ids repeat."""
    ids = [r.record.checkpoint.id for r in runs]
    long = [f"{r.record.checkpoint.id}@{r.record.checkpoint.digest[:8]}" for r in runs]
    names = [short if ids.count(short) == 1 else full for short, full in zip(ids, long, strict=True)]
    return [f"{n}#{names[: i + 1].count(n)}" if names.count(n) > 1 else n for i, n in enumerate(names)]
