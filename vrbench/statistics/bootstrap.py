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

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vrbench.core.sample_columns import Samples, to_columns
from vrbench.core.schemas import Score
from vrbench.tasks.metrics import Metric, metric_named, split_groups

Array = NDArray[np.float64]

DRAWS = 4000
"""Bootstrap draws: the share of draws beyond an end is then known to about 0.25 % of all draws."""

UNSEEN_ITEMS = 0.75
"""Items of each kind (lost, gained) that are allowed for beyond those seen; chosen in `benchmarks/coverage.py`."""

SIGN_FLIPS = 9999
"""Random sign flips of a permutation test; with 13 clusters or fewer all flips are tried."""

MANY_ROWS = 5_000
"""Above this many rows or changed clusters, faster algorithms with other random draws are used: rows that are drawn one
by one stay in the order of the clusters, several tables are summed together, and a random byte gives eight signs."""

SHORT = 100
"""Up to this many rows, several draws are counted in one call of `numpy.bincount`."""

Interval = tuple[float, float]

DistinctRows = tuple[Array, NDArray[np.int64]]
"""The distinct rows of a table, and how often each is there."""

Sides = tuple[list[Array], NDArray[np.int64]]
"""The distinct rows of several tables side by side, [rows, ratios x 2] each, and how often each row is there."""


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


def resample(table: Array, draws: int, rng: np.random.Generator) -> Array:
    """Return sums over rows drawn with replacement: [rows, ...] -> [draws, ...]; equal rows are drawn together."""
    rows, counts = distinct_rows(table.reshape(len(table), -1))
    sums = _resample_all([([rows], counts)], draws, [rng])[0]
    return sums.reshape(draws, *table.shape[1:])


def _resample_all(tables: Sequence[Sides], draws: int, rngs: Sequence[np.random.Generator]) -> list[Array]:
    """Return `resample` of each table, [draws, columns], with its generator; all must be in the same state.

    Where rows are drawn one by one, which takes longer than everything else, they are drawn once for all tables of the
    same shape.
    """
    sums: dict[int, Array] = {}
    one_by_one: dict[tuple[int, int], list[int]] = {}
    for i, (sides, counts) in enumerate(tables):
        total = int(counts.sum())
        if _is_multinomial(counts):
            rows = np.concatenate(sides, axis=1)
            sums[i] = np.concatenate([draw_counts(counts, n, rngs[i]) @ rows for n in _blocks(total, draws)])
        else:
            one_by_one.setdefault((total, sides[0].shape[1]), []).append(i)
    for (total, _), of in one_by_one.items():
        sums_of = _sums_of([tables[i] for i in of], total)
        parts = [sums_of(drawn) for drawn in _draw_one_by_one(total, draws, rngs[of[0]])]
        sums |= {i: np.concatenate(blocks) for i, blocks in zip(of, zip(*parts, strict=True), strict=True)}
    return [sums[i] for i in range(len(tables))]


def _draw_one_by_one(total: int, draws: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield how often each row is drawn, [some draws, total], in an array that the next draws overwrite.

    The random numbers of the next draws are made in a thread meanwhile.
    """
    blocks = list(_blocks(total, draws, 250_000 if total > MANY_ROWS else 4_000_000))
    drawn = np.empty((blocks[0], total))
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(_picks, total, blocks[0], rng)
        for block, after in zip(blocks, [*blocks[1:], 0], strict=True):
            picks, following = following.result(), pool.submit(_picks, total, after, rng)
            _count(picks, total, drawn)
            yield drawn[:block]


def _count(picks: NDArray[np.uint32], total: int, drawn: Array) -> None:
    """Write how often each row is picked in each draw, [draws, total]; many short draws are counted in one call."""
    if total <= SHORT:
        first = total * np.arange(len(picks))[:, None]
        drawn[: len(picks)] = np.bincount((picks + first).ravel(), minlength=picks.size).reshape(picks.shape)
        return
    for row, of in zip(drawn, picks, strict=False):
        row[:] = np.bincount(of, minlength=total)


def _picks(total: int, draws: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    return rng.integers(total, size=(draws, total), dtype=np.uint32)


def _sums_of(tables: Sequence[Sides], total: int) -> Callable[[Array], list[Array]]:
    """Return what sums the rows of each table: how often each is drawn, [draws, total] -> [draws, columns] each."""
    if total > MANY_ROWS:
        return _sums_by_ratio(tables)
    firsts = [np.cumsum(counts) - counts for _, counts in tables]
    rows = [np.concatenate(sides, axis=1) for sides, _ in tables]
    return lambda drawn: [
        (drawn if len(of) == total else np.add.reduceat(drawn, first, axis=1)) @ of
        for first, of in zip(firsts, rows, strict=True)
    ]


def _sums_by_ratio(tables: Sequence[Sides]) -> Callable[[Array], list[Array]]:
    whole = [_one_by_one(sides, counts) for sides, counts in tables]
    distinct = {id(side): side for sides in whole for side in sides}  # the baseline is a side of every table
    place_of, width = {name: i for i, name in enumerate(distinct)}, whole[0][0].shape[1]
    parts = list(_parts_of(list(distinct.values())))

    def sums_of(drawn: Array) -> list[Array]:
        sums = np.empty((len(drawn), len(distinct), width))
        for first, used, values, place in parts:
            of_rows = drawn if len(used) == drawn.shape[1] else drawn.take(used, axis=1)
            of_sides = (of_rows @ values)[:, place].reshape(len(drawn), len(distinct), -1)
            sums[:, :, first : first + 2] = of_sides
        return [sums[:, [place_of[id(side)] for side in sides]].reshape(len(drawn), -1) for sides in whole]

    return sums_of


def _one_by_one(sides: list[Array], counts: NDArray[np.int64]) -> list[Array]:
    return sides if (counts == 1).all() else [np.repeat(side, counts, axis=0) for side in sides]


def _parts_of(sides: Sequence[Array]) -> Iterator[tuple[int, NDArray[np.int64], Array, list[int]]]:
    """Yield, for each ratio of tables [rows, ratios x 2], what its sums are computed from.

    That is its first column; the rows where it is not zero, [used]; the distinct columns of all tables in these rows,
    [used, distinct], since tables share weights; and the index of each column among the distinct ones.
    """
    for first in range(0, sides[0].shape[1], 2):
        values = np.concatenate([side[:, first : first + 2] for side in sides], axis=1)
        used = np.flatnonzero(values.any(1))
        values, index = values[used], dict[bytes, int]()
        place = [index.setdefault(column.tobytes(), len(index)) for column in values.T]
        yield first, used, values[:, [place.index(i) for i in range(len(index))]], place


def _blocks(total: int, draws: int, numbers: int = 4_000_000) -> Iterator[int]:
    """Yield the number of draws of each block: about `numbers` random numbers, and at least 8 draws."""
    block = max(8, numbers // total)
    for first in range(0, draws, block):
        yield min(block, draws - first)


def distinct_rows(table: Array) -> DistinctRows:
    """Return the distinct rows of a table in ascending order, and how often each is there, as `numpy.unique` does."""
    rows, number = _number_rows(table)
    return rows, np.bincount(number)


def _number_rows(table: Array, only_if_few: bool = False) -> tuple[Array, NDArray[np.int64]]:
    """Return the distinct rows of a table in ascending order, and each row's number among them.

    It sorts a hash of each row instead of the rows, in a tenth of the time.

    Args:
        only_if_few: return the table itself if it is long and many of its rows are distinct.
    """
    odd, mixed = _odd_numbers(table.shape[1]), np.empty(len(table), np.uint64)
    parts = [slice(first, first + 1000) for first in range(0, len(table), 1000)]  # small enough for the CPU's cache
    for part in parts:
        bits = (table[part] + 0.0).view(np.uint64) * odd  # -0.0 becomes 0.0, whose bits differ
        bits ^= bits >> np.uint64(32)
        mixed[part] = (bits * odd).sum(1)
    _, first, number = np.unique(mixed, return_index=True, return_inverse=True)
    if only_if_few and len(table) > MANY_ROWS and 20 * len(first) >= len(table):
        return table, np.arange(len(table))
    rows = table[first] + 0.0
    if not all(np.array_equal(rows[number[part]], table[part]) for part in parts):  # two rows with one hash
        rows, number = np.unique(table, axis=0, return_inverse=True)
        return rows, number.ravel()
    order = np.lexsort(rows.T[::-1])
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return rows[order], place[number]


def _odd_numbers(count: int) -> NDArray[np.uint64]:
    return np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64) | np.uint64(1)


def draw_counts(counts: NDArray[np.int64], draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how often each distinct row is drawn, [draws, distinct rows], when row i is there counts[i] times.

    Both branches give the same multinomial distribution; which is faster depends on how many rows are distinct.
    """
    total, distinct = int(counts.sum()), len(counts)
    if _is_multinomial(counts):
        return np.asarray(rng.multinomial(total, counts / total, size=draws))
    row_of = np.repeat(np.arange(distinct), counts)
    drawn = np.empty((draws, distinct), np.int64)
    for row, picks in enumerate(rng.integers(total, size=(draws, total), dtype=np.uint32)):
        drawn[row] = np.bincount(picks if distinct == total else row_of[picks], minlength=distinct)
    return drawn


def _is_multinomial(counts: NDArray[np.int64]) -> bool:
    return bool(20 * len(counts) < counts.sum())


def draw(pair: PairedCounts, seed: Sequence[int] | int, draws: int = DRAWS) -> BootstrapDraws:
    """Recompute both values on the same draws of clusters."""
    return draw_all([pair], seed, draws)[0]


def draw_all(pairs: Sequence[PairedCounts], seed: Sequence[int] | int, draws: int = DRAWS) -> list[BootstrapDraws]:
    """Return `draw` of each pair, such as one task of several candidates, from the same seed."""
    numbered: dict[int, tuple[Array, NDArray[np.int64]]] = {}
    tables = [_with_unseen(pair, numbered) for pair in pairs]
    drawn = []
    for pair, of in zip(pairs, _resample_all(tables, draws, [np.random.default_rng(seed) for _ in pairs]), strict=True):
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
        numbered[id(pair.baseline)] = _number_rows(_flat(pair.baseline, unseen), only_if_few=True)
    base, base_number = numbered[id(pair.baseline)]
    candidate, number = _number_rows(_flat(pair.candidate, unseen[::-1]), only_if_few=True)
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


def sign_flip(effects: Array, seed: int = 0) -> float:
    """Return the two-sided p of the sum of [clusters] effects under random signs; 1 when no cluster changed.

    It is `scipy.stats.permutation_test` of one sample, up to `MANY_ROWS` changed clusters from the same draws, without
    its arrays of indices, which make it ten times slower.
    """
    changed = effects[effects != 0]
    if len(changed) < 2:
        return 1.0
    is_exact = 2 ** len(changed) <= SIGN_FLIPS
    total = changed.sum()
    if len(changed) > MANY_ROWS:
        sums = total - 2.0 * _random_subset_sums(changed, seed)
    else:
        blocks = _all_sign_flips(len(changed)) if is_exact else _random_sign_flips(seed).blocks(len(changed))
        sums = np.concatenate([total - 2.0 * (flipped @ changed) for flipped in blocks])
    slack = 1e-14 * abs(total)
    ends = (np.count_nonzero(sums <= total + slack), np.count_nonzero(sums >= total - slack))
    seen = 0 if is_exact else 1  # the observed sum counts as one of the random ones
    return min(1.0, 2.0 * (min(ends) + seen) / (len(sums) + seen))


def _random_subset_sums(effects: Array, seed: int) -> Array:
    """Return the sums of `SIGN_FLIPS` random halves of [clusters] effects; eight clusters at a time share a byte."""
    rng, sums = np.random.default_rng(seed), np.zeros(SIGN_FLIPS)
    bits = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(float)
    for of_eight in np.pad(effects, (0, -len(effects) % 8)).reshape(-1, 8):
        halves = rng.bit_generator.random_raw(-(-SIGN_FLIPS // 8)).view(np.uint8)[:SIGN_FLIPS]
        sums += (bits @ of_eight).take(halves.astype(np.intp), mode="clip")
    return sums


def _all_sign_flips(clusters: int) -> Iterator[NDArray[np.bool_]]:
    yield (np.arange(2**clusters)[:, None] >> np.arange(clusters)) % 2 == 1


class _RandomSignFlips:
    """Which clusters change sign in `SIGN_FLIPS` random flips; drawn once for all tests with a seed, 8 in a byte.

    The flips of n clusters are the first n of the drawn signs, then the next n, and so on.
    """

    CHUNK = 1 << 16
    """Signs drawn at a time: their random numbers stay in the processor's cache."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.RandomState(seed)
        self._drawn: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def blocks(self, clusters: int) -> Iterator[NDArray[np.bool_]]:
        """Yield the flips in blocks [flips, clusters], which bound memory to some 10 MB."""
        block = max(4, self.CHUNK // clusters)
        for first in range(0, SIGN_FLIPS, block):
            flips = min(block, SIGN_FLIPS - first)
            yield self._signs(first * clusters, (first + flips) * clusters).reshape(flips, clusters)

    def _signs(self, start: int, stop: int) -> NDArray[np.bool_]:
        first, last = start // self.CHUNK, -(-stop // self.CHUNK)
        with self._lock:
            while len(self._drawn) < last:
                keys = self._rng.random_sample((self.CHUNK, 2))
                self._drawn.append(np.packbits(keys[:, 0] > keys[:, 1]))
        signs = np.concatenate([np.unpackbits(chunk) for chunk in self._drawn[first:last]]).view(np.bool_)
        return signs[start - first * self.CHUNK : stop - first * self.CHUNK]


@lru_cache(maxsize=1)
def _random_sign_flips(seed: int) -> _RandomSignFlips:
    return _RandomSignFlips(seed)


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
