"""Which decoder layers of a checkpoint may go (no torch)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vrbench.checkpoints.fixed_layers import fixed_layers
from vrbench.checkpoints.resolve import Checkpoint
from vrbench.core.io import read_text
from vrbench.core.layers import LayerSet


@dataclass(frozen=True)
class Candidates:
    """The layers that may go, and why others may not.

    Attributes:
        checkpoint: its id.
        depth: decoder layers that it has.
        fixed: layer -> why it may not be removed.
        region: the tuned layers, where they are to stay; else none.
    """

    checkpoint: str
    depth: int
    fixed: dict[int, str]
    region: tuple[int, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that may go."""
        return tuple(i for i in range(self.depth) if i not in self.fixed and i not in self.region)

    @property
    def most(self) -> int:
        """How many may go at once; one layer has to stay."""
        return min(len(self.layers), self.depth - 1)

    def number_faults(self, count: int) -> list[str]:
        """Why so many layers cannot go; empty when they can."""
        if count < 1:
            return [f"{count} layers are to go, which leaves {self.checkpoint} as it is; name 1 or more"]
        if count <= self.most:
            return []
        outside = self.depth - len(self.region)
        region = ""
        if self.region:
            tuned = LayerSet.of(self.region, self.depth)
            region = f"; {outside} lie outside the tuned layers ({tuned}), which stay without --all-layers"
        why = "".join(f"; layer {layer}: {reason}" for layer, reason in sorted(self.fixed.items())[:1])
        return [f"{count} layers are to go, but of {self.depth} only {self.most} may{region}{why}"]

    def layer_faults(self, layers: Iterable[int]) -> Iterator[str]:
        """Why these layers cannot go, one sentence for each reason."""
        named = LayerSet.of(layers, self.depth)
        both = [i for i in named if i in self.region]
        if both:
            overlap, region = LayerSet.of(both, self.depth), LayerSet.of(self.region, self.depth)
            yield f"what is to go includes {overlap} of the region {region}, which stays without --all-layers"
        yield from (f"layer {i} may not be removed: {self.fixed[i]}" for i in named if i in self.fixed)
        if named.is_all:
            yield f"all {self.depth} layers are to go; at least one must stay"


def candidates_of(base: Checkpoint, outside_region: bool) -> Candidates:
    """The layers of a checkpoint that may go.

    Args:
        base: the checkpoint.
        outside_region: whether the layers that were tuned stay. Layers that only healing trained may go.
    """
    return Candidates(base.id, base.depth, _fixed(base), base.origins.tuned if outside_region else ())


def _fixed(base: Checkpoint) -> dict[int, str]:
    """Layer as it is counted now -> why it may not go."""
    from vrbench.models.load import first_folder

    file = first_folder(base) / "config.json"
    fixed = fixed_layers(json.loads(read_text(file)))
    left = list(range(base.root.depth))
    for removed in _all_removed(base):
        left = [number for i, number in enumerate(left) if i not in removed]
    return {i: fixed[number] for i, number in enumerate(left) if number in fixed}


def _all_removed(checkpoint: Checkpoint) -> list[LayerSet]:
    below = _all_removed(checkpoint.base) if checkpoint.base else []
    return [*below, *checkpoint.removed]
