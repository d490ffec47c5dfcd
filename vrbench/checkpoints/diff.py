"""Which layers of a checkpoint were tuned or removed, against a base: weights compared where both are available."""

from __future__ import annotations

from functools import cache

from pydantic import Field

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.parameter_names import OUTSIDE_LAYERS, format_layers, rename_layer
from vrbench.checkpoints.tensor_index import TensorIndex, same_values
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import Record


class BaseDiff(Record):
    """The differences from a base."""

    base: str = Field(description="Checkpoint that it is compared with.")
    digest: str = Field(default="", description="The base's digest, if it is available or recorded.")
    known_by: str = Field(description="'weights' when they were compared, 'lineage' when the base is not available.")
    depth: int = Field(description="Decoder layers of the base; the layers below are counted in it.")
    tuned: str = Field(default="", description="Layers with other weights, as `LayerSet` text; empty when unknown.")
    removed: str = Field(default="", description="Removed layers, as `LayerSet` text; empty when unknown.")
    others: tuple[str, ...] = Field(default=(), description="What else has other weights, such as 'projector'.")
    added: tuple[str, ...] = Field(default=(), description="Parts that the base has not.")
    note: str = Field(default="", description="What could not be compared, and why.")


def diff_checkpoints(ckpt: Checkpoint, own: TensorIndex, base: Checkpoint, base_index: TensorIndex) -> BaseDiff:
    """Compare layer by layer, each until a tensor differs; an adapter that changes something tunes its layers.

    Raises:
        VrbenchError: it is neither stored nor recorded which layers of the base these are, or random weights, which
            are not stored, would have to be compared with files.
    """
    numbers = _match_layers(ckpt, own, base, base_index)
    tuned, uncompared, others, added = set[int](), set[int](), set[str](), set[str]()
    base_parts = {location.part for location in base_index.tensors.values()}
    for name, location in own.tensors.items():
        layer = own.llm_layer(name)
        if layer is None:
            part = location.part if location.part != "LLM" else _outside_layers(name)
            if location.part not in base_parts:
                added.add(part)
            elif part not in others and not _is_same(own, name, base_index, name):
                others.add(part)
        elif numbers[layer] not in tuned:
            same = _is_same(own, name, base_index, rename_layer(name, numbers[layer]))
            if same is None:
                uncompared.add(numbers[layer])
            elif not same:
                tuned.add(numbers[layer])
    merged = format_layers(uncompared - tuned, base.depth)
    return BaseDiff(
        base=base.id, digest=base.digest, known_by="weights", depth=base.depth, tuned=format_layers(tuned, base.depth),
        removed=format_layers(set(range(base.depth)) - set(numbers), base.depth),
        others=tuple(sorted(others)), added=tuple(sorted(added)),
        note=f"layers {merged} have an adapter in the base, so that their weights cannot be compared"
        if uncompared - tuned else "",
    )  # fmt: skip


def _outside_layers(name: str) -> str:
    return next((part for word, part in OUTSIDE_LAYERS.items() if word in name.split(".")), "rest of the LLM")


def _is_same(own: TensorIndex, name: str, base_index: TensorIndex, base_name: str) -> bool | None:
    """Return whether two tensors are the same once loaded; None when one may be the other with its adapter merged."""
    if base_name not in base_index.tensors:
        return False
    location, other = own.tensors[name], base_index.tensors[base_name]
    if location.adapters == other.adapters:
        return same_values(location, other)
    return None if other.adapters and not location.is_at(other) else False


def _match_layers(ckpt: Checkpoint, own: TensorIndex, base: Checkpoint, base_index: TensorIndex) -> list[int]:
    """Return the index in the base of each layer of the checkpoint."""
    numbers = {origin: number for number, origin in enumerate(base_index.origins)}
    if all(origin in numbers for origin in own.origins):
        return [numbers[origin] for origin in own.origins]
    if ckpt.depth == base.depth:
        return list(range(ckpt.depth))
    return _match_by_lineage(ckpt, base) or _match_by_content(ckpt, own, base, base_index)


def _match_by_lineage(ckpt: Checkpoint, base: Checkpoint) -> list[int] | None:
    """Follow the pruning steps of the checkpoint and of its bases, if they lead from the base's depth.

    Where the base was pruned from as many layers too, both are counted in the layers before any was removed.
    """
    origins, bases = ckpt.origins, base.origins
    if origins.first_depth == bases.first_depth and bases.numbers != tuple(range(base.depth)):
        inside = set(origins.numbers) <= set(bases.numbers)
        return [bases.numbers.index(number) for number in origins.numbers] if inside else None
    rest = list(range(base.depth))
    for step in (step for line in reversed(ckpt.lineage) for step in line.steps):
        if step.kind == "pruned" and step.depth == len(rest):
            removed = LayerSet.parse(step.layers, step.depth)
            rest = [number for i, number in enumerate(rest) if i not in removed]
    return rest if len(rest) == ckpt.depth else None


def _match_by_content(ckpt: Checkpoint, own: TensorIndex, base: Checkpoint, base_index: TensorIndex) -> list[int]:
    """Find the one order-preserving choice of the base's layers in which the most tensors begin with the same bytes.

    A layer that was tuned still shares something with what it was, such as its norms; where it does not, or where two
    choices are equally good, nothing is guessed.
    """
    own_bytes, base_bytes = _first_bytes(own), _first_bytes(base_index)
    alike = [
        [len(own_bytes.get(i, frozenset()) & base_bytes.get(j, frozenset())) for j in range(base.depth)]
        for i in range(ckpt.depth)
    ]

    @cache
    def best(i: int, j: int) -> tuple[int, int, tuple[int, ...]]:
        """Return the most matches of layers i and later with the base's j and later, the number of choices, and one."""
        if i == ckpt.depth:
            return 0, 1, ()
        if j == base.depth:
            return -1, 0, ()
        skip, (matches, ways, rest) = best(i, j + 1), best(i + 1, j + 1)
        if not (ways and alike[i][j]):
            return skip
        take = (matches + alike[i][j], ways, (j, *rest))
        return (take[0], ways + skip[1], take[2]) if take[0] == skip[0] else max(take, skip)

    _, ways, chosen = best(0, 0)
    if ways != 1:
        raise VrbenchError(
            f"{ckpt.id} has {ckpt.depth} decoder layers and {base.id} {base.depth}; which ones were removed is neither "
            "recorded nor visible in the weights"
        )
    return list(chosen)


def _first_bytes(index: TensorIndex) -> dict[int, frozenset[tuple[str, bytes]]]:
    """Return layer -> its tensors' names within it and first values, without those that are alike in all layers."""
    seen: dict[int, set[tuple[str, bytes]]] = {}
    for name, location in index.tensors.items():
        layer = index.llm_layer(name)
        if layer is not None and not location.is_random:
            seen.setdefault(layer, set()).add((rename_layer(name, 0), location.first_bytes()))
    common = frozenset.intersection(*map(frozenset, seen.values())) if len(seen) > 1 else frozenset()
    return {layer: frozenset(values - common) for layer, values in seen.items()}
