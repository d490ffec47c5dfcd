"""Ways from what single layers cost to an order in which many go: all at once, one after the other, or lazily so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from tqdm import tqdm

Tried = Callable[[Sequence[int], Iterable[int]], Mapping[int, float]]
"""(removed layers, layers to try) -> layer -> what is reached without the removed ones and this one; less is better."""


class Removal(NamedTuple):
    """Layers in the order in which they go, and what is reached on the way.

    Attributes:
        order: the least missed first.
        values: with none, one, two, ... of them removed; empty where it was not measured.
        singles: what is reached without each candidate alone, layer -> value.
        trials: how often a layer was tried.
    """

    order: tuple[int, ...]
    values: tuple[float, ...]
    singles: dict[int, float]
    trials: int


def once(tried: Tried, whole: float, candidates: Sequence[int], count: int) -> Removal:
    """The layers that are missed least each by itself; what they do together is not looked at."""
    singles = dict(tried([], candidates))
    return Removal(tuple(sorted(singles, key=singles.__getitem__)[:count]), (), singles, len(singles))


def greedily(tried: Tried, whole: float, candidates: Sequence[int], count: int) -> Removal:
    """One layer after the other, each time the one that is missed least without those that are gone.

    Args:
        tried: measures removals.
        whole: what is reached with none removed.
        candidates: layers that may go.
        count: how many go.
    """
    removed: list[int] = []
    values, trials = [whole], 0
    singles: dict[int, float] = {}
    for _ in tqdm(range(count), desc="layers removed", unit="layer", disable=None):
        found = tried(removed, [layer for layer in candidates if layer not in removed])
        best = min(found, key=found.__getitem__)
        singles = singles or dict(found)
        removed.append(best)
        values.append(found[best])
        trials += len(found)
    return Removal(tuple(removed), tuple(values), singles, trials)


def lazily(tried: Tried, whole: float, candidates: Sequence[int], count: int) -> Removal:
    """As `greedily`, trying a layer again only when what it cost when last tried makes it the best of all.

    A layer mostly costs more the more others are gone; as far as that holds, a figure from an earlier round is a lower
    bound, and the choice is the greedy one (the accelerated greedy algorithm, Minoux 1978, "Accelerated greedy
    algorithms for maximizing submodular set functions").
    """
    singles = dict(tried([], candidates))
    rises = {layer: value - whole for layer, value in singles.items()}
    removed: list[int] = []
    values, trials = [whole], len(singles)
    for _ in tqdm(range(count), desc="layers removed", unit="layer", disable=None):
        fresh = set() if removed else set(rises)
        while (best := min(rises, key=rises.__getitem__)) not in fresh:
            rises[best] = tried(removed, [best])[best] - values[-1]
            fresh.add(best)
            trials += 1
        removed.append(best)
        values.append(values[-1] + rises.pop(best))
    return Removal(tuple(removed), tuple(values), singles, trials)


WAYS: dict[str, Callable[[Tried, float, Sequence[int], int], Removal]] = {
    "once": once,
    "greedily": greedily,
    "lazily": lazily,
}
