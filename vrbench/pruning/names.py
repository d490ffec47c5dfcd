"""What `vrbench prune --by` takes: names of ways to choose the layers that go (no torch)."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from vrbench.pruning.importance import SCORES

BLOCK = "angular-block"
"""Consecutive layers, as many as go: those over which hidden states turn least (`angular.block_distances`)."""


class Choice(NamedTuple):
    """A way to choose that tries layers.

    Attributes:
        measure: key of `vrbench.pruning.predict.MEASURES`.
        way: key of `vrbench.pruning.removal_methods.WAYS`.
        what: one line for a list.
    """

    measure: str
    way: str
    what: str


MEASURED: dict[str, Choice] = {
    "loss": Choice("loss", "greedily", "the answers' loss without it, layer after layer: the ceiling"),
    "loss-lazy": Choice("loss", "lazily", "as loss, trying again only what may be best"),
    "loss-once": Choice("loss", "once", "the answers' loss without it alone"),
    "divergence": Choice("divergence", "once", "how far the answers move without it alone"),
    "divergence-lazy": Choice(
        "divergence", "lazily", "as divergence, layer after layer, trying again what may be best"
    ),
    "gate-fisher": Choice("gate-fisher", "once", "Fisher information of a gate on it, one backward pass"),
    "gate-fisher-again": Choice("gate-fisher", "greedily", "as gate-fisher, again after each removal"),
}

BY: dict[str, str] = {
    **{name: choice.what for name, choice in MEASURED.items()},
    BLOCK: "consecutive layers over which states turn least",
    **{name: score.what for name, score in SCORES.items()},
}
"""Name -> one line for a list."""


def by_faults(by: str) -> list[str]:
    """Why layers cannot be chosen by a name, with the nearest that there is; empty when they can."""
    if by in BY:
        return []
    near = difflib.get_close_matches(by, BY, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(BY)}"
    return [f"by is {by!r}: {hint}"]
