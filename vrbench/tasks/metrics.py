"""Every metric, one decorated function each: samples -> one value, as a function of sums over clusters.

To add one, write its function. It gives what each sample, or unit of samples, adds to the numerator and the
denominator of named ratios, and `Metric.value` turns the ratios of any sum of clusters into the
value; so a bootstrap can recompute the official value on each draw instead of approximating it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vrbench.core.errors import VrbenchError
from vrbench.core.sample_columns import SampleColumns, Samples, to_columns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ScoredItems:
    """Scored samples, or units of them; all arrays are [items].

    Attributes:
        groups: names of the groups, sorted.
        cluster: number of each one's cluster.
        group: number of each one's group in `groups`.
        unit: number of each one's unit.
        score: of a unit the sum.
        weight: of a unit the sum.
        right: 1 where the score, of a unit each one's score, is at least 1; else 0.
        size: number of samples.
    """

    groups: Sequence[str]
    cluster: Numbers
    group: Numbers
    unit: Numbers
    score: Array
    weight: Array
    right: Array
    size: Array

    def units(self) -> ScoredItems:
        """Return the units: items of one group with the same `unit`, in the order of their first items."""
        import numpy as np

        _, first = np.unique(self.unit, return_index=True)
        score, weight, right, size = (
            np.bincount(self.unit, column).astype(float) for column in (self.score, self.weight, self.right, self.size)
        )
        return ScoredItems(
            self.groups, self.cluster[first], self.group[first], self.unit[first], score, weight,
            (right == size).astype(float), size,
        )  # fmt: skip


Ratio = tuple[str, ScoredItems, "Array", "Array | float"]
"""Name of a ratio, in which "{group}" stands for each item's group; and what each item adds to its numerator and to its
denominator."""


@dataclass(frozen=True)
class Metric:
    """One way of aggregating scores into a value.

    Attributes:
        name: what a task file calls it.
        contributions: scored samples -> what they add to each ratio.
        rule: what the value is, in a sentence; docs/tasks.md lists them.
        kind: "percent" (0 to 100) or "perplexity" (1 or more, compared as a ratio).
        whole_units: whether items of one unit count together, so that an unscored item takes its unit with it.
        needs: optional keys of a task file that it needs.
        examples: (samples as keywords of `Sample`, their value); tests compute them.
    """

    name: str
    contributions: Callable[[ScoredItems], Iterable[Ratio]]
    rule: str
    kind: Literal["percent", "perplexity"] = "percent"
    whole_units: bool = False
    needs: tuple[str, ...] = ()
    examples: tuple[tuple[Sequence[dict[str, Any]], float], ...] = ()

    @property
    def higher_is_better(self) -> bool:
        """Direction."""
        return self.kind == "percent"

    def statistics(self, samples: Samples) -> Array:
        """Return the counts of each cluster, [clusters, ratios, 2] (numerator, denominator), both sorted by name.

        Two runs over the same items give arrays whose rows and columns mean the same.

        Raises:
            VrbenchError: no sample was scored, or items of one unit are in different clusters.
        """
        import numpy as np

        columns = self.scored(samples)
        if not columns:
            why = next((f"; the first: {reason}" for reason in to_columns(samples).unscored if reason), "")
            raise VrbenchError(f"no sample was scored, so there is no {self.name} to compute{why}")
        items, clusters = _scored_items(columns, self.whole_units)
        ratios = list(self.contributions(items))
        names = [[name.replace("{group}", group) for group in items.groups] for name, *_ in ratios]
        place = {name: i for i, name in enumerate(sorted({name for of_groups in names for name in of_groups}))}
        cells = clusters * len(place)
        table = np.zeros((cells, 2))
        for of_groups, (_, of, numerator, denominator) in zip(names, ratios, strict=True):
            cell = of.cluster * len(place) + np.array([place[name] for name in of_groups])[of.group]
            used, cell = np.unique(cell, return_inverse=True)  # few of them where there are many ratios
            table[used, 0] += np.bincount(cell, numerator, len(used))
            table[used, 1] += np.bincount(cell, np.broadcast_to(denominator, cell.shape), len(used))
        return table.reshape(clusters, len(place), 2)

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

    def compute(self, samples: Samples) -> float:
        """Return the value of some samples; errors as those of `statistics`."""
        return float(self.value(self.statistics(samples).sum(0)))

    def scored(self, samples: Samples) -> SampleColumns:
        """Return the samples that count: those with a score, and for unit metrics those of wholly scored units."""
        columns = to_columns(samples)
        if not any(columns.unscored):
            return columns
        if not self.whole_units:
            return columns.take([i for i, reason in enumerate(columns.unscored) if not reason])
        units = _units(columns)
        broken = {unit for unit, reason in zip(units, columns.unscored, strict=True) if reason}
        return columns.take([i for i, unit in enumerate(units) if unit not in broken])

    def outcomes(self, samples: Samples) -> int:
        """Return how many right-or-wrong outcomes there are: scored items, or units where items count together."""
        scored = self.scored(samples)
        return len(set(_units(scored))) if self.whole_units else len(scored)


def _units(columns: SampleColumns) -> list[tuple[str, str]]:
    return [(group, unit or name) for group, unit, name in zip(columns.group, columns.unit, columns.id, strict=True)]


def _scored_items(columns: SampleColumns, whole_units: bool) -> tuple[ScoredItems, int]:
    """Return the items, and the number of clusters."""
    import numpy as np

    (cluster, clusters), (group, groups) = columns.numbered_clusters, columns.numbered_groups
    unit = np.arange(len(columns))
    if whole_units:
        units = _units(columns)
        number = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
        unit = np.fromiter(map(number.__getitem__, units), np.int64, len(units))
        _, first = np.unique(unit, return_index=True)
        for torn in np.flatnonzero(cluster != cluster[first[unit]])[:1]:
            home, other = columns.cluster[first[unit[torn]]], columns.cluster[torn]
            raise VrbenchError(f"unit {columns.unit[torn]!r} is in clusters {home!r} and {other!r}; it needs one")
    right, size = (columns.score >= 1).astype(float), np.ones(len(columns))
    return ScoredItems(groups, cluster, group, unit, columns.score, columns.weight, right, size), len(clusters)


METRICS: dict[str, Metric] = {}
"""Name -> metric; filled by the decorator."""


def metric(**fields: Any) -> Callable[[Callable[[ScoredItems], Iterable[Ratio]]], Metric]:
    """Register a function as a metric; its name is the metric's and its docstring the rule."""

    def register(function: Callable[[ScoredItems], Iterable[Ratio]]) -> Metric:
        name, rule = function.__name__, " ".join((function.__doc__ or "").split())
        METRICS[name] = Metric(name, function, rule, **fields)
        return METRICS[name]

    return register


_PAIRS = ({"score": 1, "unit": "a"}, {"score": 1, "unit": "a"}, {"score": 1, "unit": "b"}, {"score": 0, "unit": "b"})


@metric(examples=((({"score": 1}, {"score": 0.5}, {"score": 0}, {"score": 0}), 37.5),))
def mean(items: ScoredItems) -> Iterable[Ratio]:
    """100 x sum of scores / sum of weights."""
    yield "", items, items.score, items.weight


@metric(
    needs=("group",),
    examples=((({"score": 1, "group": "a"}, {"score": 1, "group": "a"}, {"score": 0, "group": "b"}), 50.0),),
)
def macro(items: ScoredItems) -> Iterable[Ratio]:
    """The mean over groups of each group's mean."""
    yield "{group}", items, items.score, items.weight


@metric(whole_units=True, needs=("unit", "group"), examples=((_PAIRS, 62.5),))
def mme(items: ScoredItems) -> Iterable[Ratio]:
    """The sum over groups of acc (items) + acc+ (units with all items right), as a share of its maximum (Fu et al.
    2023, arXiv:2306.13394)."""
    units = items.units()
    yield "{group}/acc", units, units.score, units.size
    yield "{group}/acc+", units, units.right, 1.0


@metric(whole_units=True, needs=("unit",), examples=((_PAIRS, 50.0),))
def circular(items: ScoredItems) -> Iterable[Ratio]:
    """Share of units whose items, the rotations of a question, are all right (Liu et al. 2023, arXiv:2307.06281)."""
    units = items.units()
    yield "", units, units.right, 1.0


@metric(examples=((_PAIRS, 75.0),))
def vanilla(items: ScoredItems) -> Iterable[Ratio]:
    """Like mean, with each rotation of an MMBench question scored by itself."""
    return mean.contributions(items)


@metric(kind="perplexity", examples=((({"score": -2.0, "weight": 1.0}, {"score": 0.0, "weight": 1.0}), 2.718281828),))
def perplexity(items: ScoredItems) -> Iterable[Ratio]:
    """exp(-sum of scores / sum of words)."""
    return mean.contributions(items)


def metric_named(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        VrbenchError: there is none.
    """
    if name not in METRICS:
        raise VrbenchError(f"metric {name!r} is unknown; there are {', '.join(METRICS)}")
    return METRICS[name]


def split_groups(columns: SampleColumns) -> dict[str, SampleColumns]:
    """Return each group's samples, sorted by group."""
    positions: dict[str, list[int]] = {}
    for position, group in enumerate(columns.group):
        positions.setdefault(group, []).append(position)
    return {group: columns.take(positions[group]) for group in sorted(positions)}


def mme_points(samples: Samples) -> dict[str, float]:
    """Return MME's own values: acc + acc+ of each subtask, 0 to 200; their sum is the official total."""
    return {group: 2 * mme.compute(of_group) for group, of_group in split_groups(mme.scored(samples)).items()}
