"""Which layers of a checkpoint were tuned or removed, against a base: weights compared where both are at hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from vrbench.checkpoints.resolve import Checkpoint
from vrbench.checkpoints.tensor_index import Stored, in_layer, layer_of
from vrbench.checkpoints.tensor_location import beginning, same
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet

OUTSIDE = {"embed_tokens": "embeddings", "lm_head": "head", "norm": "final norm"}


@dataclass
class Difference:
    """What differs from a base; layers are numbered as in the base.

    Attributes:
        depth: decoder layers of the base.
        tuned: layers with other weights, or under an adapter that changes something.
        removed: layers that are gone.
        others: what else differs: "projector", "vision tower", "embeddings", "head", "final norm".
        added: parts that the base has not.
        uncompared: layers that could not be compared, since the base's adapter is merged here.
    """

    depth: int
    tuned: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    uncompared: set[int] = field(default_factory=set)


def difference(ckpt: Checkpoint, own: Stored, base: Checkpoint, theirs: Stored) -> Difference:
    """Compare layer by layer, each until a tensor differs.

    Raises:
        VrbenchError: it is neither stored nor recorded which layers of the base these are, or weights that are made
            when they are loaded would have to be compared with files.
    """
    pairs = _pairs(ckpt, own, base, theirs)
    found = Difference(base.depth, removed=set(range(base.depth)) - set(pairs))
    theirs_by_part = {place.part for place in theirs.tensors.values()}
    for name, place in own.tensors.items():
        layer = layer_of(name) if place.part == "LLM" else None
        if layer is not None and pairs[layer] in found.tuned:
            continue
        what = place.part if place.part != "LLM" else _outside(name)
        if layer is None and what in found.others | found.added:
            continue
        if place.part not in theirs_by_part:
            found.added.add(what)
            continue
        twin = name if layer is None else in_layer(name, pairs[layer])
        equal = _is_same(own, name, theirs, twin)
        if layer is None:
            if not equal:
                found.others.add(what)
        elif equal is None:
            found.uncompared.add(pairs[layer])
        elif not equal:
            found.tuned.add(pairs[layer])
    found.uncompared -= found.tuned
    return found


def _outside(name: str) -> str:
    return next((told for word, told in OUTSIDE.items() if word in name.split(".")), "rest of the LLM")


def _is_same(own: Stored, name: str, theirs: Stored, twin: str) -> bool | None:
    """Whether two tensors are the same as they are loaded; none when one may be the other with its adapter merged."""
    if twin not in theirs.tensors:
        return False
    place, other = own.tensors[name], theirs.tensors[twin]
    ours, bases = own.adapted.get(name, ()), theirs.adapted.get(twin, ())
    if ours == bases:
        return same(place, other)
    return None if bases and not place.is_at(other) else False


def _pairs(ckpt: Checkpoint, own: Stored, base: Checkpoint, theirs: Stored) -> list[int]:
    """For each layer of the checkpoint, its number in the base."""
    numbers = {origin: number for number, origin in enumerate(theirs.origins)}
    if all(origin in numbers for origin in own.origins):
        return [numbers[origin] for origin in own.origins]
    if ckpt.depth == base.depth:
        return list(range(ckpt.depth))
    return _by_lineage(ckpt, base) or _by_content(ckpt, own, base, theirs)


def _by_lineage(ckpt: Checkpoint, base: Checkpoint) -> list[int] | None:
    """As the pruning steps of the checkpoint and of all that it was made from say, if they lead from the base's depth.

    Where the base was pruned from as many layers too, both are counted in the layers before any was removed.
    """
    mine, bases = ckpt.origins, base.origins
    if mine.first_depth == bases.first_depth and bases.numbers != tuple(range(base.depth)):
        inside = set(mine.numbers) <= set(bases.numbers)
        return [bases.numbers.index(number) for number in mine.numbers] if inside else None
    rest = list(range(base.depth))
    for step in (step for line in reversed(ckpt.lineage) for step in line.steps):
        if step.kind == "pruned" and step.depth == len(rest):
            gone = LayerSet.parse(step.layers, step.depth)
            rest = [number for place, number in enumerate(rest) if place not in gone]
    return rest if len(rest) == ckpt.depth else None


def _by_content(ckpt: Checkpoint, own: Stored, base: Checkpoint, theirs: Stored) -> list[int]:
    """The one order-keeping choice of the base's layers in which the most tensors begin alike.

    A layer that was tuned still has something in common with what it was, such as its norms; where it has not, or where
    two choices are as good, nothing is guessed.
    """
    ours, bases = _beginnings(own), _beginnings(theirs)
    alike = [[len(ours.get(i, frozenset()) & bases.get(j, frozenset())) for j in range(base.depth)]
             for i in range(ckpt.depth)]  # fmt: skip

    @cache
    def best(i: int, j: int) -> tuple[int, int]:
        """The most in common of layers i and later with the base's j and later, and in how many ways."""
        if i == ckpt.depth:
            return 0, 1
        if j == base.depth:
            return -1, 0
        take, skip = best(i + 1, j + 1), best(i, j + 1)
        taken = take[0] + alike[i][j] if take[1] and alike[i][j] else -1
        top = max(taken, skip[0])
        ways = (take[1] if taken == top and taken >= 0 else 0) + (skip[1] if skip[0] == top and top >= 0 else 0)
        return top, ways

    if best(0, 0)[1] != 1:
        raise VrbenchError(
            f"{ckpt.id} has {ckpt.depth} decoder layers and {base.id} {base.depth}; which ones were removed is neither "
            "recorded nor to be seen from the weights"
        )
    chosen: list[int] = []
    j = 0
    while len(chosen) < ckpt.depth:
        i = len(chosen)
        if alike[i][j] and best(i + 1, j + 1)[1] and best(i + 1, j + 1)[0] + alike[i][j] == best(i, j)[0]:
            chosen.append(j)
        j += 1
    return chosen


def _beginnings(found: Stored) -> dict[int, frozenset[tuple[str, bytes]]]:
    """Layer -> its tensors' names within it and first values, those left out that are alike in all layers."""
    seen: dict[int, set[tuple[str, bytes]]] = {}
    for name, place in found.tensors.items():
        layer = layer_of(name) if place.part == "LLM" else None
        if layer is not None and not place.is_made:
            seen.setdefault(layer, set()).add((in_layer(name, 0), beginning(place)))
    common = frozenset.intersection(*map(frozenset, seen.values())) if len(seen) > 1 else frozenset()
    return {layer: frozenset(values - common) for layer, values in seen.items()}
