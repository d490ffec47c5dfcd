"""Samples -> one figure: every metric a task may have, as a function of sums over clusters.

A metric is split in two, so that a bootstrap can recompute the official figure on each draw instead of approximating
it: `tally` turns samples into one row of counts a cluster, and `value` turns any sum of such rows into the figure.
Every figure here is a function of a few ratios, so a row holds a numerator and a denominator for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Ratio = tuple[str, float, float]
"""Name of a ratio, and what is added to its numerator and to its denominator."""


@dataclass(frozen=True)
class Metric:
    """One way of turning scores into a figure.

    Attributes:
        name: key in `METRICS`.
        kind: "percent" (0 to 100) or "perplexity" (1 or more, compared as a ratio).
        higher_is_better: direction.
        whole_units: whether items of one unit count together, so that an unscored item takes its unit with it.
        contributions: samples of one cluster -> what they add to each ratio.
        rule: what the figure is, in a sentence; docs/tasks.md lists them.
    """

    name: str
    kind: Literal["percent", "perplexity"]
    higher_is_better: bool
    whole_units: bool
    contributions: Callable[[Sequence[Sample]], Iterable[Ratio]]
    rule: str

    def statistics(self, samples: Sequence[Sample]) -> Array:
        """Counts of each cluster, [clusters, ratios, 2] (numerator, denominator); clusters and ratios sorted by name.

        Two runs over the same items give arrays whose rows and columns mean the same.

        Raises:
            VrbenchError: no sample was scored, or items of one unit lie in different clusters.
        """
        import numpy as np

        clusters = _by_cluster(self.scored(samples), self.whole_units)
        if not clusters:
            why = next((f"; the first: {s.unscored}" for s in samples if s.unscored), "")
            raise VrbenchError(f"no sample was scored, so there is no {self.name} to compute{why}")
        rows = [list(self.contributions(clusters[c])) for c in sorted(clusters)]
        column = {name: i for i, name in enumerate(sorted({r[0] for row in rows for r in row}))}
        table = np.zeros((len(rows), len(column), 2))
        for i, row in enumerate(rows):
            for name, numerator, denominator in row:
                table[i, column[name]] += (numerator, denominator)
        return table

    def value(self, sums: Array) -> Array:
        """The figure of each sum of rows: [..., ratios, 2] -> [...].

        A percentage is the mean of the ratios (a ratio that a draw left empty is left out), times 100. A perplexity
        is exp(-ratio).
        """
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = sums[..., 0] / sums[..., 1]
        if self.kind == "perplexity":
            return np.asarray(np.exp(-ratios[..., 0]))
        present = sums[..., 1] > 0
        return np.asarray(100.0 * np.where(present, ratios, 0.0).sum(-1) / present.sum(-1))

    def scored(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples that count: those with a score, and for unit metrics those of wholly scored units."""
        if not self.whole_units:
            return [s for s in samples if not s.unscored]
        broken = {_unit(s) for s in samples if s.unscored}
        return [s for s in samples if _unit(s) not in broken]

    def outcomes(self, samples: Sequence[Sample]) -> int:
        """How many right-or-wrong outcomes there are: scored items, or units where items count together."""
        scored = self.scored(samples)
        return len({_unit(s) for s in scored}) if self.whole_units else len(scored)


def _unit(sample: Sample) -> tuple[str, str]:
    return sample.group, sample.unit or sample.id


def _by_cluster(samples: Iterable[Sample], whole_units: bool) -> dict[str, list[Sample]]:
    clusters: dict[str, list[Sample]] = {}
    home: dict[tuple[str, str], str] = {}
    for s in samples:
        clusters.setdefault(s.cluster, []).append(s)
        if whole_units and home.setdefault(_unit(s), s.cluster) != s.cluster:
            raise VrbenchError(f"unit {s.unit!r} lies in clusters {home[_unit(s)]!r} and {s.cluster!r}; it needs one")
    return clusters


def _plain(samples: Sequence[Sample]) -> Iterable[Ratio]:
    yield "", sum(s.score for s in samples), sum(s.weight for s in samples)


def _per_group(samples: Sequence[Sample]) -> Iterable[Ratio]:
    for s in samples:
        yield s.group, s.score, s.weight


def _units(samples: Sequence[Sample]) -> dict[tuple[str, str], list[Sample]]:
    units: dict[tuple[str, str], list[Sample]] = {}
    for s in samples:
        units.setdefault(_unit(s), []).append(s)
    return units


def _circular(samples: Sequence[Sample]) -> Iterable[Ratio]:
    for items in _units(samples).values():
        yield "", float(all(s.score >= 1 for s in items)), 1.0


def _mme(samples: Sequence[Sample]) -> Iterable[Ratio]:
    for (group, _), items in _units(samples).items():
        yield f"{group}/acc", sum(s.score for s in items), float(len(items))
        yield f"{group}/acc+", float(all(s.score >= 1 for s in items)), 1.0


METRICS: dict[str, Metric] = {
    "mean": Metric("mean", "percent", True, False, _plain, "100 x sum of scores / sum of weights."),
    "macro": Metric("macro", "percent", True, False, _per_group, "The mean over groups of each group's mean."),
    "mme": Metric(
        "mme", "percent", True, True, _mme,
        "The sum over groups of acc (items) + acc+ (units with all items right), as a share of its maximum (Fu et al. "
        "2023, arXiv:2306.13394).",
    ),
    "circular": Metric(
        "circular", "percent", True, True, _circular,
        "Share of units whose items, the rotations of a question, are all right (Liu et al. 2023, arXiv:2307.06281).",
    ),
    "vanilla": Metric("vanilla", "percent", True, False, _plain, "As mean: of MMBench, each rotation by itself."),
    "perplexity": Metric("perplexity", "perplexity", False, False, _plain, "exp(-sum of scores / sum of words)."),
}  # fmt: skip


def named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        VrbenchError: there is none.
    """
    if name not in METRICS:
        raise VrbenchError(f"metric {name!r} is unknown; there are {', '.join(METRICS)}")
    return METRICS[name]


def score(name: str, samples: Sequence[Sample], seed: int = 0) -> Score:
    """The figure of one run on one task, with a 95 % interval from a cluster bootstrap.

    Raises:
        VrbenchError: unknown metric, or no sample was scored.
    """
    from vrbench.statistics import bootstrap

    metric = named(name)
    table = metric.statistics(samples)
    low, high = bootstrap.interval_of_one(metric, table, metric.outcomes(samples), seed)
    value = float(metric.value(table.sum(0)))
    return Score(value=value, low=low, high=high, n=len(metric.scored(samples)), clusters=len(table))


def score_groups(name: str, samples: Sequence[Sample], seed: int = 0) -> dict[str, Score]:
    """`score` of each group's samples alone, by group name, sorted; groups with nothing scored are left out.

    Raises:
        VrbenchError: unknown metric.
    """
    groups: dict[str, list[Sample]] = {}
    for s in named(name).scored(samples):
        groups.setdefault(s.group, []).append(s)
    return {group: score(name, groups[group], seed) for group in sorted(groups)}


def mme_points(samples: Sequence[Sample]) -> dict[str, float]:
    """MME's own figures: acc + acc+ of each subtask, 0 to 200; their sum is the official total."""
    groups: dict[str, list[Sample]] = {}
    for s in METRICS["mme"].scored(samples):
        groups.setdefault(s.group, []).append(s)
    metric = METRICS["mme"]
    return {g: 2 * float(metric.value(metric.statistics(groups[g]).sum(0))) for g in sorted(groups)}
