"""One cluster bootstrap for all runs: each task's clusters are drawn once, and every run's score recomputed on them.

So any two runs, and any mean over seeds, are paired on every draw. The draws and the allowance for items not seen are
those of `vrbench.statistics.bootstrap`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vrbench.reproduce.run_counts import RunCounts, TaskCounts, leave_out
from vrbench.reproduce.seed_estimate import SeedEstimate, estimate
from vrbench.statistics import bootstrap
from vrbench.statistics.resampling import draw_counts
from vrbench.tasks import metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Pairs = Mapping[int, tuple[str, str]]
"""Seed -> names of the candidate's and the baseline's run."""

_BLOCK = 8_000_000
"""Weights in memory at a time: about 100 MB."""


@dataclass(frozen=True)
class TaskDraws:
    """One run on one task.

    Attributes:
        value: the score.
        baseline: the score on each draw, as that of the better run of a pair, [draws].
        candidate: the same as that of the other run; they differ in the items not seen.
        clusters: number of clusters.
        n: scored items.
    """

    value: float
    baseline: Array
    candidate: Array
    clusters: int
    n: int


@dataclass(frozen=True)
class _PairSide:
    """The candidates or the baselines of several seeds.

    Attributes:
        values: [seeds, tasks].
        draws: [seeds, tasks, draws].
        clusters: of each task.
        n: items.
        higher_is_better: of all tasks.
    """

    values: Array
    draws: Array
    clusters: list[int]
    n: int
    higher_is_better: bool

    def estimate(self, pairs: Pairs, values: Array, draws: Array, parts: Array) -> SeedEstimate:
        """Return the mean over seeds of values [seeds] and draws [seeds, draws].

        Args:
            parts: what each task adds to the mean, [tasks, draws]; only the ratios of their variances matter.
        """
        each = dict(zip(pairs, map(float, values), strict=True))
        return estimate(each, draws.mean(0), [float(part.var()) for part in parts], self.clusters, self.n)


@dataclass(frozen=True)
class _Retention:
    """Retentions: values [seeds], draws [seeds, draws], each task's part [tasks, draws]; which draws are usable."""

    pairs: Pairs
    values: Array
    draws: Array
    parts: Array
    usable: NDArray[np.bool_]
    side: _PairSide


class JointBootstrap:
    """Scores of many runs over the same items, on the same draws."""

    def __init__(self, runs: Mapping[str, RunCounts], seed: int = 0) -> None:
        """Draw every task once for all runs, which must be comparable by `run_counts.pairing_errors`."""
        self.runs = runs
        self.seed = seed
        self._whole: dict[str, dict[str, TaskDraws]] = {}
        for task in dict.fromkeys(task for run in runs.values() for task in run.tasks):
            known = {name: run.tasks[task] for name, run in runs.items() if task in run.tasks}
            complete = {name: counts for name, counts in known.items() if not counts.unscored}
            self._whole[task] = _draw(complete, task, seed) if complete else {}

    def draws(self, task: str, names: Sequence[str]) -> dict[str, TaskDraws]:
        """Return some runs' draws of a task, over the items that all of them could score."""
        unscored = frozenset().union(*(self.runs[name].tasks[task].unscored for name in names))
        if not unscored:
            return {name: self._whole[task][name] for name in names}
        return _draw({name: leave_out(self.runs[name], task, unscored) for name in names}, task, self.seed)

    def usable(self, pairs: Pairs, tasks: Sequence[str]) -> Pairs:
        """Return the seeds for which both runs have all the tasks; none without tasks."""

        def has_all(pair: tuple[str, str]) -> bool:
            return bool(tasks) and all(task in self.runs[name].tasks for task in tasks for name in pair)

        return {seed: pair for seed, pair in pairs.items() if has_all(pair)}

    def retention(self, pairs: Pairs, tasks: Sequence[str]) -> SeedEstimate | None:
        """Return candidate / baseline in % of the mean over tasks, over seeds; of a perplexity baseline / candidate.

        None without a seed that has all tasks, or where a baseline is so near zero that a ratio has no meaning.
        """
        found = self._retention(pairs, tasks)
        if found is None:
            return None
        return found.side.estimate(found.pairs, found.values, found.draws[:, found.usable], found.parts)

    def retention_difference(self, candidate: Pairs, others: Pairs, tasks: Sequence[str]) -> SeedEstimate | None:
        """Return the difference of two retentions in %, over the seeds that have both; None where either is None."""
        both = self.usable(candidate, tasks).keys() & self.usable(others, tasks).keys()
        a, b = (self._retention({s: p for s, p in pairs.items() if s in both}, tasks) for pairs in (candidate, others))
        if a is None or b is None:
            return None
        draws = (a.draws - b.draws)[:, a.usable & b.usable]
        return a.side.estimate(a.pairs, a.values - b.values, draws, a.parts - b.parts)

    def _retention(self, pairs: Pairs, tasks: Sequence[str]) -> _Retention | None:
        pairs = self.usable(pairs, tasks)
        if not pairs:
            return None
        candidate, baseline = self._sides(pairs, tasks)
        above, below = (candidate, baseline) if candidate.higher_is_better else (baseline, candidate)
        bases = below.draws.mean(1)
        usable = (bases > 0).all(0)
        if (below.values.mean(1) <= 0).any() or usable.mean() < 0.995:
            return None
        values = 100.0 * above.values.mean(1) / below.values.mean(1)
        draws = 100.0 * above.draws.mean(1) / abs(bases).clip(1e-9)  # unusable draws are left out later
        base = baseline.values.mean(1)[:, None, None]
        change = (candidate.draws - candidate.values.mean(1)[:, None, None] / base * baseline.draws) / base
        return _Retention(pairs, values, draws, change.mean(0), usable, candidate)

    def difference(self, pairs: Pairs, tasks: Sequence[str]) -> SeedEstimate | None:
        """Return candidate minus baseline in points of the mean over tasks; None without a seed that has all tasks."""
        pairs = self.usable(pairs, tasks)
        if not pairs:
            return None
        candidate, baseline = self._sides(pairs, tasks)
        change = candidate.draws - baseline.draws
        return candidate.estimate(pairs, (candidate.values - baseline.values).mean(1), change.mean(1), change.mean(0))

    def score(self, runs: Mapping[int, str], tasks: Sequence[str]) -> SeedEstimate | None:
        """Return the mean over tasks itself, 0 to 100, or one perplexity; None without a seed that has all tasks."""
        pairs = self.usable({seed: (name, name) for seed, name in runs.items()}, tasks)
        if not pairs:
            return None
        candidate, _ = self._sides(pairs, tasks)
        return candidate.estimate(pairs, candidate.values.mean(1), candidate.draws.mean(1), candidate.draws.mean(0))

    def _sides(self, pairs: Pairs, tasks: Sequence[str]) -> tuple[_PairSide, _PairSide]:
        """Return candidates and baselines, over the items that all of these runs could score."""
        import numpy as np

        names = list(dict.fromkeys(name for pair in pairs.values() for name in pair))
        found = [self.draws(task, names) for task in tasks]
        higher = all(self.runs[names[0]].tasks[task].result.higher_is_better for task in tasks)

        def side(index: int) -> _PairSide:
            rows = [[f[pair[index]] for f in found] for pair in pairs.values()]
            values = np.array([[d.value for d in row] for row in rows])
            draws = np.array([[d.baseline if index else d.candidate for d in row] for row in rows])
            return _PairSide(values, draws, [d.clusters for d in rows[0]], sum(d.n for d in rows[0]), higher)

        return side(0), side(1)


def _draw(known: Mapping[str, TaskCounts], task: str, seed: int) -> dict[str, TaskDraws]:
    """Return some runs on one task, over the same items, each recomputed on the same draws of clusters."""
    import numpy as np

    first = next(iter(known.values()))
    metric = metrics.metric_named(first.result.metric)
    tables = np.stack([counts.table for counts in known.values()], axis=1)  # [clusters, runs, ratios, 2]
    sides = np.zeros((2, 0, *tables.shape[2:]))  # clusters for items not seen, the baseline's and the candidate's
    if metric.kind == "percent":
        best, worst = bootstrap.unseen_allowance(first.table, first.outcomes)
        sides = np.stack([np.stack([best, worst]), np.stack([worst, best])])
    values: list[list[Array]] = [[], []]
    for weights in _weights(len(tables) + sides.shape[1], [seed, zlib.crc32(task.encode())]):
        for part in np.array_split(weights, 1 + len(weights) * tables[0].size // _BLOCK):
            sums = np.tensordot(part[:, : len(tables)], tables, 1)  # [draws, runs, ratios, 2]
            for found, side in zip(values, sides, strict=True):
                found.append(metric.value(sums + np.tensordot(part[:, len(tables) :], side, 1)[:, None]))
    baseline, candidate = (np.concatenate(found) for found in values)
    whole = metric.value(tables.sum(0))
    return {
        name: TaskDraws(float(whole[i]), baseline[:, i], candidate[:, i], len(tables), counts.n)
        for i, (name, counts) in enumerate(known.items())
    }


def _weights(clusters: int, seed: Sequence[int]) -> Iterator[Array]:
    """Yield how often each cluster is drawn, [draws, clusters], some draws at a time."""
    import numpy as np

    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // clusters)
    for first in range(0, bootstrap.DRAWS, block):
        draws = min(block, bootstrap.DRAWS - first)
        yield draw_counts(clusters, draws, rng)
