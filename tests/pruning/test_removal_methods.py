"""Greedy choice, and the lazy one that tries less and finds the same where a layer costs more the more are gone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import pytest

from vrbench.pruning.removal_methods import greedy, lazy_greedy, one_shot


class Table:
    """Losses by the set of layers that are removed, such that greedy choice and the best pair differ."""

    def __init__(self) -> None:
        self.losses = {frozenset(pair): 5.0 + sum(pair) for pair in itertools.combinations(range(4), 2)}
        self.losses |= {frozenset([layer]): 3.0 + layer for layer in range(4)}
        self.losses |= {frozenset(): 1.0, frozenset([2, 3]): 0.1}

    def tried(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
        return {layer: self.losses[frozenset([*removed, layer])] for layer in layers}


class Growing:
    """Each layer costs its own weight, and more with every other that is gone: as lazy choice expects it."""

    def __init__(self, seed: int, count: int = 12) -> None:
        draw = random.Random(seed)
        self.own = [draw.random() for _ in range(count)]
        self.both = [[draw.random() * 0.3 for _ in range(count)] for _ in range(count)]
        self.trials: list[int] = []

    def loss(self, removed: Iterable[int]) -> float:
        gone = sorted(removed)
        return sum(self.own[i] for i in gone) + sum(self.both[i][j] for i, j in itertools.combinations(gone, 2))

    def tried(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
        found = {layer: self.loss([*removed, layer]) for layer in layers}
        self.trials += found
        return found


@pytest.mark.parametrize("way", [greedy, lazy_greedy])
def test_one_layer_after_the_other_and_only_candidates(way) -> None:  # type: ignore[no-untyped-def]
    table = Table()
    assert way(table.tried, 1.0, range(4), 2)[:2] == ((0, 1), (1.0, 3.0, 6.0))
    assert greedy(table.tried, 1.0, [3, 2], 2)[:2] == ((2, 3), (1.0, 5.0, 0.1))


def test_once_looks_at_no_layers_together() -> None:
    found = one_shot(Table().tried, 1.0, [3, 1, 2], 2)
    assert found == ((1, 2), (), {1: 4.0, 2: 5.0, 3: 6.0})


@pytest.mark.parametrize("seed", range(8))
def test_the_lazy_choice_is_the_greedy_one_with_fewer_trials(seed: int) -> None:
    world = Growing(seed)
    slow = greedy(world.tried, 0.0, range(12), 6)
    tried = len(world.trials)
    world.trials.clear()
    fast = lazy_greedy(world.tried, 0.0, range(12), 6)
    assert fast.order == slow.order
    assert fast.values == pytest.approx(slow.values)
    assert len(world.trials) < 0.75 * tried


def test_the_lazy_choice_tries_a_layer_again_that_has_become_dearer() -> None:
    losses = {(): 0.0, (0,): 1.0, (1,): 2.0, (2,): 3.0, (0, 1): 9.0, (0, 2): 4.0}

    def tried(removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
        return {layer: losses[tuple(sorted([*removed, layer]))] for layer in layers}

    assert lazy_greedy(tried, 0.0, range(3), 2)[:2] == ((0, 2), (0.0, 1.0, 4.0))
    assert one_shot(tried, 0.0, range(3), 2).order == (0, 1)
