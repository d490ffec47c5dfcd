"""Every metric, one decorated function each: samples -> one value, as a function of sums over clusters.

To add one, write its function. It gives what the samples of one cluster add to the
numerator and the denominator of named ratios, and `Metric.value` turns the ratios of any sum of clusters into the
value; so a bootstrap can recompute the official value on each draw instead of approximating it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Key = TypeVar("Key", str, tuple[str, str])

Ratio = tuple[str, float, float]
"""Name of a ratio, and what is added to its numerator and to its denominator."""


@dataclass(frozen=True)
class Metric:
    """One way of aggregating scores into a value.

    Attributes:
        name: what a task file calls it.
        contributions: samples of one cluster -> what they add to each ratio.
        rule: what the value is, in a sentence; docs/tasks.md lists them.
        kind: "percent" (0 to 100) or "perplexity" (1 or more, compared as a ratio).
        whole_units: whether items of one unit count together, so that an unscored item takes its unit with it.
        needs: optional keys of a task file that it needs.
        examples: (samples as keywords of `Sample`, their value); tests compute them.
    """

    name: str
    contributions: Callable[[Sequence[Sample]], Iterable[Ratio]]
    rule: str
    kind: Literal["percent", "perplexity"] = "percent"
    whole_units: bool = False
    needs: tuple[str, ...] = ()
    examples: tuple[tuple[Sequence[dict[str, Any]], float], ...] = ()

    @property
    def higher_is_better(self) -> bool:
        """Direction."""
        return self.kind == "percent"

    def statistics(self, samples: Sequence[Sample]) -> Array:
        """Return the counts of each cluster, [clusters, ratios, 2] (numerator, denominator), both sorted by name.

        Two runs over the same items give arrays whose rows and columns mean the same.

        Raises:
            VrbenchError: no sample was scored, or items of one unit are in different clusters.
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
        """Return the value of each sum of rows, [..., ratios, 2] -> [...].

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

    def compute(self, samples: Sequence[Sample]) -> float:
        """Return the value of some samples; errors as those of `statistics`."""
        return float(self.value(self.statistics(samples).sum(0)))

    def scored(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples that count: those with a score, and for unit metrics those of wholly scored units."""
        if not self.whole_units:
            return [s for s in samples if not s.unscored]
        broken = {_unit(s) for s in samples if s.unscored}
        return [s for s in samples if _unit(s) not in broken]

    def outcomes(self, samples: Sequence[Sample]) -> int:
        """Return how many right-or-wrong outcomes there are: scored items, or units where items count together."""
        scored = self.scored(samples)
        return len({_unit(s) for s in scored}) if self.whole_units else len(scored)


def _unit(sample: Sample) -> tuple[str, str]:
    return sample.group, sample.unit or sample.id


def group_samples(samples: Iterable[Sample], key: Callable[[Sample], Key]) -> dict[Key, list[Sample]]:
    """Return the samples by a key, in the order in which the keys first occur."""
    groups: dict[Key, list[Sample]] = {}
    for s in samples:
        groups.setdefault(key(s), []).append(s)
    return groups


def _by_cluster(samples: Sequence[Sample], whole_units: bool) -> dict[str, list[Sample]]:
    home: dict[tuple[str, str], str] = {}
    for s in samples if whole_units else ():
        if home.setdefault(_unit(s), s.cluster) != s.cluster:
            raise VrbenchError(f"unit {s.unit!r} is in clusters {home[_unit(s)]!r} and {s.cluster!r}; it needs one")
    return group_samples(samples, lambda s: s.cluster)


METRICS: dict[str, Metric] = {}
"""Name -> metric; filled by the decorator."""


def metric(**fields: Any) -> Callable[[Callable[[Sequence[Sample]], Iterable[Ratio]]], Metric]:
    """Register a function as a metric; its name is the metric's and its docstring the rule."""

    def register(function: Callable[[Sequence[Sample]], Iterable[Ratio]]) -> Metric:
        name, rule = function.__name__, " ".join((function.__doc__ or "").split())
        METRICS[name] = Metric(name, function, rule, **fields)
        return METRICS[name]

    return register


_PAIRS = ({"score": 1, "unit": "a"}, {"score": 1, "unit": "a"}, {"score": 1, "unit": "b"}, {"score": 0, "unit": "b"})


@metric(examples=((({"score": 1}, {"score": 0.5}, {"score": 0}, {"score": 0}), 37.5),))
def mean(samples: Sequence[Sample]) -> Iterable[Ratio]:
    """100 x sum of scores / sum of weights."""
    yield "", sum(s.score for s in samples), sum(s.weight for s in samples)


@metric(
    needs=("group",),
    examples=((({"score": 1, "group": "a"}, {"score": 1, "group": "a"}, {"score": 0, "group": "b"}), 50.0),),
)
def macro(samples: Sequence[Sample]) -> Iterable[Ratio]:
    """The mean over groups of each group's mean."""
    for s in samples:
        yield s.group, s.score, s.weight


@metric(whole_units=True, needs=("unit", "group"), examples=((_PAIRS, 62.5),))
def mme(samples: Sequence[Sample]) -> Iterable[Ratio]:
    """The sum over groups of acc (items) + acc+ (units with all items right), as a share of its maximum (Fu et al.
    2023, arXiv:2306.13394)."""
    for (group, _), items in group_samples(samples, _unit).items():
        yield f"{group}/acc", sum(s.score for s in items), float(len(items))
        yield f"{group}/acc+", float(all(s.score >= 1 for s in items)), 1.0


@metric(whole_units=True, needs=("unit",), examples=((_PAIRS, 50.0),))
def circular(samples: Sequence[Sample]) -> Iterable[Ratio]:
    """Share of units whose items, the rotations of a question, are all right (Liu et al. 2023, arXiv:2307.06281)."""
    for items in group_samples(samples, _unit).values():
        yield "", float(all(s.score >= 1 for s in items)), 1.0


@metric(examples=((_PAIRS, 75.0),))
def vanilla(samples: Sequence[Sample]) -> Iterable[Ratio]:
    """Like mean, with each rotation of an MMBench question scored by itself."""
    return mean.contributions(samples)


@metric(kind="perplexity", examples=((({"score": -2.0, "weight": 1.0}, {"score": 0.0, "weight": 1.0}), 2.718281828),))
def perplexity(samples: Sequence[Sample]) -> Iterable[Ratio]:
    """exp(-sum of scores / sum of words)."""
    return mean.contributions(samples)


def metric_named(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        VrbenchError: there is none.
    """
    if name not in METRICS:
        raise VrbenchError(f"metric {name!r} is unknown; there are {', '.join(METRICS)}")
    return METRICS[name]


def mme_points(samples: Sequence[Sample]) -> dict[str, float]:
    """Return MME's own values: acc + acc+ of each subtask, 0 to 200; their sum is the official total."""
    groups = group_samples(mme.scored(samples), lambda s: s.group)
    return {group: 2 * mme.compute(groups[group]) for group in sorted(groups)}
