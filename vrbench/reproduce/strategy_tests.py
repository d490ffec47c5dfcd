"""Strategies compared with each other: pairwise tests with Holm's correction, and how similar their layers are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from vrbench.core.layers import LayerSet, sparse_uniform
from vrbench.reproduce.results import PlanResults, ResultRow
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.statistics import bootstrap


@dataclass(frozen=True)
class PairwiseTest:
    """Two rows of a table.

    Attributes:
        better: label of the one with the higher score.
        worse: label of the other.
        difference: in points of the mean over tasks, at least 0.
        p_holm: p adjusted over all tests of the table.
    """

    better: str
    worse: str
    difference: SeedEstimate
    p_holm: float

    @property
    def is_significant(self) -> bool:
        """Whether the two differ at the 5 % level."""
        return self.p_holm < 0.05


def pairwise_tests(
    results: PlanResults, pairs: Iterable[tuple[ResultRow, ResultRow]], tasks: tuple[str, ...]
) -> list[PairwiseTest]:
    """Test pairs of rows, seed by seed on the same items; Holm's correction is over these pairs."""
    found = []
    for one, other in pairs:
        both = {seed: (run, other.runs[seed]) for seed, run in one.runs.items() if seed in other.runs}
        difference = results.bootstrap.difference(both, tasks)
        if difference is not None and difference.value < 0:
            one, other = other, one
            difference = results.bootstrap.difference({seed: (b, a) for seed, (a, b) in both.items()}, tasks)
        if difference is not None and difference.p is not None:
            found.append((one.label, other.label, difference))
    adjusted = bootstrap.holm([float(d.p or 0.0) for _, _, d in found])
    return [PairwiseTest(*parts, p_holm=p) for parts, p in zip(found, adjusted, strict=True)]


StrategyLayers = Mapping[int, LayerSet]
"""Seed -> the layers that a strategy tuned."""


def strategy_layers(results: PlanResults) -> dict[str, StrategyLayers]:
    """Return strategy -> its layers from the runs' lineages; strategies that tune all layers are left out."""
    found = {row.label: results.tuned_layers(row) for row in results.rows.get("strategies", ())}
    return {name: layers for name, layers in found.items() if not all(one.is_all for one in layers.values())}


def similarity_between_seeds(layers: StrategyLayers) -> float | None:
    """Return the mean Jaccard index over pairs of seeds; None with one seed."""
    return fmean(found) if (found := [jaccard(a, b) for a, b in combinations(layers.values(), 2)]) else None


def similarity_to_region(layers: StrategyLayers) -> float:
    """Return the mean Jaccard index, over seeds, with as many layers spread evenly."""
    return fmean(jaccard(own, sparse_uniform(len(own), own.depth)) for own in layers.values())


def jaccard(a: LayerSet, b: LayerSet) -> float:
    """Return the layers in both sets as a share of those in either (Jaccard 1901)."""
    both, either = set(a) & set(b), set(a) | set(b)
    return len(both) / len(either) if either else 1.0
