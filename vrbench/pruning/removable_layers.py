"""Which decoder layers of a checkpoint may be removed (no torch)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.families import fixed_layers
from vrbench.core.io import read_text
from vrbench.core.layers import LayerSet
from vrbench.pruning.scoring_context import paired_layers


@dataclass(frozen=True)
class RemovableLayers:
    """The layers that may be removed, and why others may not.

    Attributes:
        checkpoint: its id.
        depth: decoder layers that it has.
        fixed: layer -> why it may not be removed.
        region: the tuned layers, where they are kept; else none.
    """

    checkpoint: str
    depth: int
    fixed: dict[int, str]
    region: tuple[int, ...]

    @classmethod
    def for_checkpoint(cls, base: Checkpoint, outside_region: bool) -> RemovableLayers:
        """Find them for a checkpoint.

        Args:
            base: the checkpoint.
            outside_region: whether the layers that were tuned are kept; layers that only healing trained are not.
        """
        return cls(base.id, base.depth, _fixed_layers(base), base.origins.tuned if outside_region else ())

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that may be removed."""
        return tuple(i for i in range(self.depth) if i not in self.fixed and i not in self.region)

    @property
    def most(self) -> int:
        """How many may be removed together; one layer is always kept."""
        return min(len(self.layers), self.depth - 1)

    def blocks(self, length: int, with_first: bool = True) -> list[int]:
        """Return the first layers of all blocks of consecutive layers that may be removed; ascending.

        Args:
            length: layers of a block.
            with_first: whether the first layer may be among them.
        """
        may_go = {i for i in self.layers if i or with_first}
        return [i for i in range(self.depth - length + 1) if {*range(i, i + length)} <= may_go]

    def validate_count(self, count: int) -> list[str]:
        """Return why so many layers cannot be removed; empty when they can."""
        if count < 1:
            return [f"removing {count} layers leaves {self.checkpoint} as it is; name 1 or more"]
        if count <= self.most:
            return []
        outside = self.depth - len(self.region)
        region = ""
        if self.region:
            tuned = LayerSet.of(self.region, self.depth)
            region = f"; {outside} are outside the tuned layers ({tuned}), which are kept without --all-layers"
        why = "".join(f"; layer {layer}: {reason}" for layer, reason in sorted(self.fixed.items())[:1])
        return [f"{count} layers cannot be removed: of {self.depth} only {self.most} may be{region}{why}"]

    def validate_layers(self, layers: Iterable[int]) -> Iterator[str]:
        """Yield why these layers cannot be removed, one message for each reason."""
        named = LayerSet.of(layers, self.depth)
        both = [i for i in named if i in self.region]
        if both:
            overlap, region = LayerSet.of(both, self.depth), LayerSet.of(self.region, self.depth)
            yield f"layers {overlap} belong to the tuned layers {region}, which are kept without --all-layers"
        yield from (f"layer {i} may not be removed: {self.fixed[i]}" for i in named if i in self.fixed)
        if named.is_all:
            yield f"all {self.depth} layers would be removed; at least one must be kept"


def _fixed_layers(base: Checkpoint) -> dict[int, str]:
    """Return layer, in the current depth -> why it may not be removed."""
    from vrbench.models.load import first_folder

    fixed = fixed_layers(json.loads(read_text(first_folder(base) / "config.json")))
    return {layer: fixed[number] for layer, number in enumerate(paired_layers(base, base.root)) if number in fixed}
