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
from vrbench.statistics.resampling import Array
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
    settings, base = candidate.record.settings, baseline.record.settings
    if settings.limit != base.limit:
        yield f"{label}: limit {settings.limit} against the baseline's {base.limit}; run both over the same items"
    elif settings.limit is not None and settings.seed != base.seed:
        yield f"{label}: seed {settings.seed} against the baseline's {base.seed}; both chose other items"
    tasks = common_tasks(candidate, baseline)
    if not tasks:
        names = " against ".join(", ".join(r.task for r in run.record.results) for run in (candidate, baseline))
        yield f"{label}: no task in common with the baseline ({names})"
    for task in tasks:
        for error in _validate_task(task, candidate, baseline):
            yield f"{label}: {task}: {error}"
        code, base_code = candidate.result(task).code, baseline.result(task).code
        if same_code and code != base_code:
            yield f"{label}: {task}: {_code_differences(code, base_code)}; run the older one again with this vrbench"


def _code_differences(code: Mapping[str, int], base: Mapping[str, int]) -> str:
    """Return which parts of vrbench's code differ in version; parts that are not named have version 1."""
    different = [name for name in sorted({*code, *base}) if code.get(name, 1) != base.get(name, 1)]
    parts = [f"{name} {code.get(name, 1)} against the baseline's {base.get(name, 1)}" for name in different]
    return f"vrbench's code changed between the two ({', '.join(parts)})"


def common_tasks(candidate: Run, baseline: Run) -> list[str]:
    """Return the tasks that both runs have, failed ones included, in the baseline's order."""
    tasks = {r.task for r in candidate.record.results}
    return [r.task for r in baseline.record.results if r.task in tasks]


def _validate_task(task: str, candidate: Run, baseline: Run) -> Iterator[str]:
    result, base = candidate.result(task), baseline.result(task)
    for field in ("version", "suite", "metric", "higher_is_better", "fewshot", "harness"):
        a, b = getattr(result, field), getattr(base, field)
        if a != b and "error" not in (result.status, base.status):
            yield f"{field} {a!r} against the baseline's {b!r}"
    if "error" in (result.status, base.status):
        return
    if result.definition_digest != base.definition_digest and result.definition_digest and base.definition_digest:
        yield "its prompt, generation settings or scoring differ from the baseline's"
    if result.data_digest != base.data_digest:
        yield f"data {result.data_digest[:12]!r} against the baseline's {base.data_digest[:12]!r}; the items differ"
        return
    yield from _validate_samples(columns_of(candidate, task), columns_of(baseline, task))


def _validate_samples(candidate: SampleColumns, baseline: SampleColumns) -> Iterator[str]:
    if len(candidate.place) < len(candidate) or len(baseline.place) < len(baseline):
        yield "an item id occurs twice, so items cannot be paired"
    elif candidate.place.keys() != baseline.place.keys():
        different = sorted(candidate.place.keys() ^ baseline.place.keys())
        yield f"{len(different)} items are in one run only, such as {different[0]!r}"
    else:
        if candidate.id != baseline.id:
            baseline = baseline.take([baseline.place[name] for name in candidate.id])
        for what, fields in (("prompt", ("prompt_digest",)), ("place", ("cluster", "group", "unit", "weight"))):
            pairs = [(getattr(candidate, field), getattr(baseline, field)) for field in fields]
            if places := sorted({i for a, b in pairs for i in _different(a, b)}):
                yield f"the {what} of {len(places)} items differs, such as {candidate.id[places[0]]!r}"


def _different(a: Sequence[str] | Array, b: Sequence[str] | Array) -> list[int]:
    """Return the positions at which two columns differ."""
    if isinstance(a, np.ndarray):
        return np.flatnonzero(a != b).tolist()
    return [] if a == b else [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


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
    result, base = candidate.result(task), baseline.result(task)
    if "error" in (result.status, base.status):
        return PairedTask(base, result, None)
    metric = metric_named(base.metric)
    here, there = columns_of(candidate, task), columns_of(baseline, task)
    lacking = [{name: why for name, why in zip(of.id, of.unscored, strict=True) if why} for of in (there, here)]
    alone = (len(lacking[0].keys() - lacking[1].keys()), len(lacking[1].keys() - lacking[0].keys()))
    left_out = lacking[1] | lacking[0]
    n, outcomes, base_table = _count(task, baseline, left_out)
    counts = None
    if base_table is not None:
        counts = bootstrap.PairedCounts(metric, base_table, metric.statistics(here.leave_out(left_out)), outcomes)
    return PairedTask(base, result, counts, n=n, unscored=len(there) - n, unscored_alone=alone)


def _count(task: str, baseline: Run, left_out: dict[str, str]) -> tuple[int, int, Array | None]:
    """Return the items scored, the outcomes and the counts of a baseline, made once for candidates with the same items.

    Args:
        left_out: unscored items of either run, and why.
    """
    columns, metric = columns_of(baseline, task), metric_named(baseline.result(task).metric)
    key = (metric.name, frozenset(left_out))
    name = f"counts of {task}"
    known = baseline.kept.get(name)
    if known is None or known[0] is not columns or known[1] != key:
        scored = columns.leave_out(left_out)
        n = len(metric.scored(scored))
        known = columns, key, (n, metric.outcomes(scored), metric.statistics(scored) if n else None)
        baseline.kept[name] = known
    found: tuple[int, int, Array | None] = known[2]
    return found


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
