"""Which layers each strategy took: how alike the seeds' sets are, and how like evenly spread ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from vrbench.core.layers import LayerSet, sparse_uniform
from vrbench.reproduce.results import PlanResults


@dataclass(frozen=True)
class LayerChoice:
    """The layers that a strategy tuned.

    Attributes:
        strategy: label of its row.
        layers: seed -> the layers.
    """

    strategy: str
    layers: Mapping[int, LayerSet]

    @property
    def between_seeds(self) -> float | None:
        """Mean Jaccard index over pairs of seeds; None with one seed."""
        pairs = list(combinations(self.layers.values(), 2))
        return sum(jaccard(a, b) for a, b in pairs) / len(pairs) if pairs else None

    @property
    def with_region(self) -> float | None:
        """Mean Jaccard index, over seeds, with as many layers spread evenly."""
        found = [jaccard(chosen, sparse_uniform(len(chosen), chosen.depth)) for chosen in self.layers.values()]
        return sum(found) / len(found) if found else None


def jaccard(a: LayerSet, b: LayerSet) -> float:
    """Layers in both sets as a share of those in either (Jaccard 1901)."""
    both, either = set(a) & set(b), set(a) | set(b)
    return len(both) / len(either) if either else 1.0


def choices(results: PlanResults) -> list[LayerChoice]:
    """The strategies' sets, as the runs' lineages have them; those that tune all layers are left out."""
    found = [LayerChoice(row.label, results.tuned(row)) for row in results.rows.get("strategies", ())]
    return [c for c in found if c.layers and not all(layers.is_all for layers in c.layers.values())]
