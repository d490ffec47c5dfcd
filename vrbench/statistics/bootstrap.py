"""Intervals and tests on paired per-cluster counts; docs/statistics.md derives them.

Intervals come from a cluster bootstrap, with the same draw for baseline and candidate, that recomputes the official
value from the sums of each draw. Two things are added to the percentile interval, both measured in
`benchmarks/coverage.py`: wider tails for few clusters (Hesterberg 2015, The American Statistician 69:4, section 4.3;
for a mean over tasks with Welch and Satterthwaite's degrees of freedom), and `UNSEEN_ITEMS` of an average item lost and
gained, since a draw can only repeat what was seen (after Bonett and Price 2012, Journal of Educational and Behavioral
Statistics 37:4, who add one item each). The estimate itself is untouched.

The p value is McNemar's exact test where each cluster is one 0/1 outcome; else the sign of each cluster's whole
contribution is flipped at random, which tests the same null hypothesis at the level of clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vrbench.core.sample_columns import Samples, to_columns
from vrbench.core.schemas import Score
from vrbench.statistics.resampling import Array, Sides, number_rows, resample, resample_all
from vrbench.statistics.sign_flips import sign_flip
from vrbench.tasks.metrics import Metric, metric_named, split_groups

DRAWS = 4000
"""Bootstrap draws: the share of draws beyond an end is then known to about 0.25 % of all draws."""

UNSEEN_ITEMS = 0.75
"""Items of each kind (lost, gained) that are allowed for beyond those seen; chosen in `benchmarks/coverage.py`."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedCounts:
    """One task's counts for two runs over the same items.

    Attributes:
        metric: turns sums into the value.
        baseline: [clusters, ratios, 2], from `Metric.statistics`.
        candidate: the same rows and columns.
        outcomes: number of items (or units that count together) in all clusters, from `Metric.outcomes`.
    """

    metric: Metric
    baseline: Array
    candidate: Array
    outcomes: int

    @property
    def values(self) -> tuple[float, float]:
        """Values of baseline and candidate."""
        return float(self.metric.value(self.baseline.sum(0))), float(self.metric.value(self.candidate.sum(0)))


@dataclass(frozen=True)
class BootstrapDraws:
    """The values of one task on each bootstrap draw.

    Attributes:
        baseline: [draws].
        candidate: [draws].
        clusters: number of clusters drawn from.
    """

    baseline: Array
    candidate: Array
    clusters: int


def draw(pair: PairedCounts, seed: Sequence[int] | int, draws: int = DRAWS) -> BootstrapDraws:
    """Recompute both values on the same draws of clusters."""
    return draw_all([pair], seed, draws)[0]


def draw_all(pairs: Sequence[PairedCounts], seed: Sequence[int] | int, draws: int = DRAWS) -> list[BootstrapDraws]:
    """Return `draw` of each pair, such as one task of several candidates, from the same seed."""
    numbered: dict[int, tuple[Array, NDArray[np.int64]]] = {}
    tables = [_with_unseen(pair, numbered) for pair in pairs]
    drawn = []
    for pair, of in zip(pairs, resample_all(tables, draws, [np.random.default_rng(seed) for _ in pairs]), strict=True):
        sums = of.reshape(draws, 2, *pair.baseline.shape[1:])
        drawn.append(BootstrapDraws(pair.metric.value(sums[:, 0]), pair.metric.value(sums[:, 1]), len(pair.baseline)))
    return drawn


def _with_unseen(pair: PairedCounts, numbered: dict[int, tuple[Array, NDArray[np.int64]]]) -> Sides:
    """Return the rows of both runs that are drawn from, [rows, ratios x 2]: clusters, and two more for a percentage.

    Args:
        numbered: distinct rows of baselines, by the identity of their counts; those of this pair are added.
    """
    unseen = unseen_allowance(pair.baseline, pair.outcomes) if pair.metric.kind == "percent" else ()
    if id(pair.baseline) not in numbered:
        numbered[id(pair.baseline)] = number_rows(_flat(pair.baseline, unseen), only_if_few=True)
    base, base_number = numbered[id(pair.baseline)]
    candidate, number = number_rows(_flat(pair.candidate, unseen[::-1]), only_if_few=True)
    both, counts = np.unique(base_number * len(candidate) + number, return_counts=True)
    return [_rows_at(base, both // len(candidate)), _rows_at(candidate, both % len(candidate))], counts


def _rows_at(rows: Array, places: NDArray[np.int64]) -> Array:
    return rows if np.array_equal(places, np.arange(len(rows))) else rows[places]


def _flat(table: Array, more: Sequence[Array]) -> Array:
    return np.concatenate([table, *(row[None] for row in more)]).reshape(len(table) + len(more), -1)


def score_interval(metric: Metric, table: Array, outcomes: int, seed: Sequence[int] | int = 0) -> Interval:
    """Return the 95 % interval of one run's value.

    One cluster has no spread: the interval is then all of 0 to 100, and for a perplexity, which has no
    upper bound, only the value itself.
    """
    value = float(metric.value(table.sum(0)))
    if len(table) < 2:
        return (0.0, 100.0) if metric.kind == "percent" else (value, value)
    if metric.kind == "percent":
        table = np.concatenate([table, list(unseen_allowance(table, outcomes))])
    values = metric.value(resample(table, DRAWS, np.random.default_rng(seed)))
    low, high = _quantiles(values, tail_share([1.0], [len(table)]))
    return min(low, value), max(high, value)


def unseen_allowance(table: Array, outcomes: int) -> tuple[Array, Array]:
    """Return `UNSEEN_ITEMS` of an average outcome, right and wrong, each [ratios, 2]."""
    size = UNSEEN_ITEMS * table[..., 1].sum(0) / outcomes
    return np.stack([size, size], -1), np.stack([np.zeros_like(size), size], -1)


def tail_share(variances: Sequence[float], clusters: Sequence[int]) -> float:
    """Return the share of the draws to leave out at each end, for a 95 % interval of a mean over tasks.

    Args:
        variances: each task's share of the variance, in any unit.
        clusters: clusters of each task, at least 2.
    """
    from scipy.special import ndtr, stdtrit

    widen, freedom = spread_factor(variances, clusters)
    return float(ndtr(-widen * stdtrit(freedom, 0.975)))


def spread_factor(variances: Sequence[float], clusters: Sequence[int]) -> tuple[float, float]:
    """Return how much wider than its draws a mean over tasks spreads, and its degrees of freedom (Welch-Satterthwaite).

    Args:
        variances: each task's share of the variance, in any unit.
        clusters: clusters of each task, at least 2.
    """
    total = sum(variances)
    shares = [v / total for v in variances] if total > 0 else [1.0 / len(clusters)] * len(clusters)
    widen = sum(s * c / (c - 1) for s, c in zip(shares, clusters, strict=True)) ** 0.5
    return widen, 1.0 / sum(s * s / (c - 1) for s, c in zip(shares, clusters, strict=True))


def difference_interval(drawn: Sequence[BootstrapDraws]) -> Interval | None:
    """Return the 95 % interval of candidate minus baseline, each the mean over tasks; see `_interval_of_mean`."""
    return _interval_of_mean([d.candidate - d.baseline for d in drawn], drawn)


def mean_interval(drawn: Sequence[BootstrapDraws]) -> Interval | None:
    """Return the 95 % interval of the candidate's mean over tasks, by itself; see `_interval_of_mean`."""
    return _interval_of_mean([d.candidate for d in drawn], drawn)


def _interval_of_mean(parts: Sequence[Array], drawn: Sequence[BootstrapDraws]) -> Interval | None:
    """Return the 95 % interval of the mean of [draws] of each task; None with a single cluster in a task."""
    if min(d.clusters for d in drawn) < 2:
        return None
    share = tail_share([float(p.var()) for p in parts], [d.clusters for d in drawn])
    return _quantiles(sum(parts[1:], parts[0]) / len(parts), share)


def retention_interval(drawn: Sequence[BootstrapDraws], higher_is_better: bool = True) -> Interval | None:
    """Return the 95 % interval of retention in percent: candidate's mean over tasks as a share of the baseline's.

    Where lower is better (perplexity) retention is baseline over candidate, so that below 100 is a loss everywhere.

    Returns:
        None with a single cluster in a task, or where the baseline is so near zero that a ratio has no meaning.
    """
    if min(d.clusters for d in drawn) < 2:
        return None
    base = np.mean([d.baseline for d in drawn], axis=0)
    candidate = np.mean([d.candidate for d in drawn], axis=0)
    below, above = (base, candidate) if higher_is_better else (candidate, base)
    usable = below > 0
    if usable.mean() < 0.995:
        return None
    ratio = 100.0 * above[usable] / below[usable]
    centre = candidate.mean() / base.mean()
    parts = [float((d.candidate - centre * d.baseline).var()) for d in drawn]
    return _quantiles(ratio, tail_share(parts, [d.clusters for d in drawn]))


def _quantiles(values: Array, share: float) -> Interval:
    low, high = np.quantile(values, [share, 1.0 - share])
    return float(low), float(high)


def cluster_differences(pair: PairedCounts) -> Array:
    """Return each cluster's contribution to candidate minus baseline, [clusters]; in points, or nats for a perplexity.

    The two runs share their items and so their denominators, which makes the difference a plain sum over clusters.
    """
    gained = (pair.candidate[..., 0] - pair.baseline[..., 0]) / pair.baseline[..., 1].sum(0)
    scale = 100.0 if pair.metric.kind == "percent" else -1.0
    return np.asarray(scale * gained.mean(-1))


def p_value(pairs: Sequence[PairedCounts], seed: int = 0) -> tuple[float, str]:
    """Return the two-sided p that baseline and candidate are exchangeable, and the test's name.

    Several pairs are tested on the mean of their differences.
    """
    if len(pairs) == 1 and _is_binary(pairs[0]):
        return mcnemar(pairs[0]), "McNemar, exact"
    effects = np.concatenate([cluster_differences(p) for p in pairs])
    return sign_flip(effects, seed), "sign flips of clusters"


def _is_binary(pair: PairedCounts) -> bool:
    if pair.baseline.shape[1] > 1:
        return False
    both = np.concatenate([pair.baseline, pair.candidate])
    return bool((both[..., 1] == 1).all() and np.isin(both[..., 0], (0, 1)).all())


def mcnemar(pair: PairedCounts) -> float:
    """Return the exact two-sided p of McNemar's test; each cluster must be one 0/1 outcome."""
    from scipy.special import bdtr

    base, candidate = pair.baseline[:, 0, 0] == 1, pair.candidate[:, 0, 0] == 1
    lost, gained = int((base & ~candidate).sum()), int((~base & candidate).sum())
    return min(1.0, 2.0 * float(bdtr(min(lost, gained), lost + gained, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjustment, in the given order: family-wise error at most the level compared with."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def score(name: str, samples: Samples, seed: int = 0) -> Score:
    """Return the value of one run on one task, with a 95 % interval from a cluster bootstrap.

    Args:
        name: key of `METRICS`.

    Raises:
        VrbenchError: unknown metric, or no sample was scored.
    """
    metric, columns = metric_named(name), to_columns(samples)
    table = metric.statistics(columns)
    low, high = score_interval(metric, table, metric.outcomes(columns), seed)
    value = float(metric.value(table.sum(0)))
    return Score(value=value, low=low, high=high, n=len(metric.scored(columns)), clusters=len(table))


def score_groups(name: str, samples: Samples, seed: int = 0) -> dict[str, Score]:
    """Return `score` of each group's samples alone, sorted by group; groups with nothing scored are left out."""
    groups = split_groups(metric_named(name).scored(samples))
    return {group: score(name, of_group, seed) for group, of_group in groups.items()}
