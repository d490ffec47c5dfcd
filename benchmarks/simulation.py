"""Paired runs made of chance, whose true retention is known.

Each simulated item has a difficulty that baseline and candidate feel alike (correlation `AGREEMENT` between the two);
items of one cluster share a part of it (`SHARED`); an item is right where the difficulty stays under the threshold that
gives the wanted accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from vrbench.statistics import bootstrap
from vrbench.tasks.metrics import METRICS

AGREEMENT = 0.8
SHARED = 0.3
GROUP_SHIFTS = (-0.3, 0.0, 0.1, 0.2)
"""How much harder or easier each group of items is, in standard deviations, where a metric has groups."""
WORDS = 50.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """One row of the table: what is simulated, 1,000 times."""

    metric: str
    n: int
    size: int  # items a cluster
    accuracy: float  # of the baseline, 0 to 1
    retention: float  # ratio of the item accuracies; the metric's own retention follows from it
    tasks: int = 1
    only_loses: bool = False


def difficulties(rng: np.random.Generator, clusters: int, size: int) -> tuple[Array, Array]:
    """Standard normal difficulties for baseline and candidate, each [clusters, size]."""

    def pair(shape: tuple[int, int]) -> Array:
        first, second = rng.standard_normal((2, *shape))
        return np.stack([first, AGREEMENT * first + np.sqrt(1 - AGREEMENT**2) * second])

    shared = SHARED if size > 1 else 0.0
    both = np.sqrt(shared) * pair((clusters, 1)) + np.sqrt(1 - shared) * pair((clusters, size))
    return both[0], both[1]


def right(rng: np.random.Generator, setting: Setting) -> tuple[Array, Array]:
    """Right (1) or wrong (0) of both, each [clusters, size]."""
    clusters = setting.n // setting.size
    base, ours = difficulties(rng, clusters, setting.size)
    shift = np.resize(group_shifts(setting.metric), clusters)[:, None]
    first = base < ndtri(setting.accuracy) + shift
    if setting.only_loses:
        kept = difficulties(rng, clusters, setting.size)[0] < ndtri(setting.retention)
        return first.astype(float), (first & kept).astype(float)
    return first.astype(float), (ours < ndtri(setting.accuracy * setting.retention) + shift).astype(float)


def group_shifts(metric: str) -> Array:
    """Groups go round cluster by cluster; metrics without groups have one."""
    return np.array(GROUP_SHIFTS if metric in ("mme", "macro") else (0.0,))


def counts(metric: str, hits: Array) -> Array:
    """[clusters, size] of 0/1 -> what `Metric.statistics` makes of it, [clusters, ratios, 2]."""
    size, whole = hits.shape[1], hits.all(1).astype(float)
    one = np.ones(len(hits))
    if metric == "mean":
        return np.stack([hits.sum(1), size * one], -1)[:, None]
    if metric == "circular":
        return np.stack([whole, one], -1)[:, None]
    cells = [np.stack([hits.sum(1), size * one], -1)]
    if metric == "mme":
        cells.append(np.stack([whole, one], -1))
    groups = len(GROUP_SHIFTS)
    table = np.zeros((len(hits), groups, len(cells), 2))
    table[np.arange(len(hits)), np.arange(len(hits)) % groups] = np.stack(cells, 1)
    return table.reshape(len(hits), -1, 2)


def texts(rng: np.random.Generator, setting: Setting) -> tuple[Array, Array]:
    """Log-likelihoods of texts for both, as tables [texts, 1, 2]; the candidate loses -log(retention) nats a word."""
    base, ours = difficulties(rng, setting.n, 1)
    nats = 3.0 + 0.5 * base[:, 0], 3.0 - np.log(setting.retention) + 0.5 * ours[:, 0]
    words = WORDS * rng.integers(1, 4, setting.n)
    return tuple(np.stack([-x * words, words], -1)[:, None] for x in nats)  # type: ignore[return-value]


def truth(setting: Setting) -> float:
    """True retention in percent."""
    if setting.metric in ("mean", "perplexity"):
        return 100.0 * setting.retention
    first = figure(setting.metric, setting.size, setting.accuracy)
    return 100.0 * figure(setting.metric, setting.size, setting.accuracy * setting.retention) / first


def figure(metric: str, size: int, accuracy: float) -> float:
    """The metric's expected value on a scale of 1, by quadrature over what a cluster shares."""
    nodes, weights = hermegauss(60)
    shared = SHARED if size > 1 else 0.0
    values = []
    for shift in group_shifts(metric):
        each = ndtr((ndtri(accuracy) + shift - np.sqrt(shared) * nodes) / np.sqrt(1 - shared))
        item, whole = (weights @ each**k / weights.sum() for k in (1, size))
        values.append({"macro": item, "circular": whole, "mme": (item + whole) / 2}[metric])
    return float(np.mean(values))


def pair_of(rng: np.random.Generator, setting: Setting) -> bootstrap.PairedCounts:
    """One simulated task."""
    metric = METRICS[setting.metric]
    if metric.kind == "perplexity":
        return bootstrap.PairedCounts(metric, *texts(rng, setting), setting.n)
    base, ours = (counts(setting.metric, hits) for hits in right(rng, setting))
    return bootstrap.PairedCounts(metric, base, ours, setting.n // setting.size if metric.whole_units else setting.n)
