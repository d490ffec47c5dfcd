"""Which strategies are told apart: every pair's difference, seed by seed on the same items, with Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

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
        p_holm: p adjusted over all that it was compared with.
    """

    better: str
    worse: str
    difference: SeedEstimate
    p_holm: float

    @property
    def is_clear(self) -> bool:
        """Whether the two are told apart at 5 %."""
        return self.p_holm < 0.05


def against(
    results: PlanResults, first: ResultRow, others: Sequence[ResultRow], tasks: Sequence[str]
) -> list[PairwiseTest]:
    """One row against each of some others; Holm's correction over these."""
    return _adjusted(results, [(first, other) for other in others], tasks)


def every_pair(results: PlanResults, rows: Sequence[ResultRow], tasks: Sequence[str]) -> list[PairwiseTest]:
    """Every row against every other; Holm's correction over all pairs."""
    return _adjusted(results, list(combinations(rows, 2)), tasks)


def _adjusted(
    results: PlanResults, pairs: Sequence[tuple[ResultRow, ResultRow]], tasks: Sequence[str]
) -> list[PairwiseTest]:
    found = []
    for one, other in pairs:
        both = {seed: (run, other.runs[seed]) for seed, run in one.runs.items() if seed in other.runs}
        difference = results.bootstrap.gained(both, tasks)
        if difference is not None and difference.value < 0:
            one, other = other, one
            difference = results.bootstrap.gained({seed: (b, a) for seed, (a, b) in both.items()}, tasks)
        if difference is not None and difference.p is not None:
            found.append((one.label, other.label, difference))
    adjusted = bootstrap.holm([float(d.p or 0.0) for _, _, d in found])
    return [PairwiseTest(*parts, p_holm=p) for parts, p in zip(found, adjusted, strict=True)]
