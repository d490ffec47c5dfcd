"""Which strategies are told apart: every pair's difference, seed by seed on the same items, with Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from vrbench.reproduce.results import Results, Row
from vrbench.reproduce.seeds import Estimate
from vrbench.statistics import bootstrap


@dataclass(frozen=True)
class Ordering:
    """Two rows of a table.

    Attributes:
        better: label of the one with the higher score.
        worse: label of the other.
        difference: in points of the mean over tasks, at least 0.
        p_holm: p adjusted over all that it was compared with.
    """

    better: str
    worse: str
    difference: Estimate
    p_holm: float

    @property
    def is_clear(self) -> bool:
        """Whether the two are told apart at 5 %."""
        return self.p_holm < 0.05


def against(results: Results, first: Row, others: Sequence[Row], tasks: Sequence[str]) -> list[Ordering]:
    """One row against each of some others; Holm's correction over these."""
    return _adjusted(results, [(first, other) for other in others], tasks)


def every_pair(results: Results, rows: Sequence[Row], tasks: Sequence[str]) -> list[Ordering]:
    """Every row against every other; Holm's correction over all pairs."""
    return _adjusted(results, list(combinations(rows, 2)), tasks)


def _adjusted(results: Results, pairs: Sequence[tuple[Row, Row]], tasks: Sequence[str]) -> list[Ordering]:
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
    return [Ordering(*parts, p_holm=p) for parts, p in zip(found, adjusted, strict=True)]
