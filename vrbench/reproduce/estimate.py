"""How long a step takes, from what was measured of its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vrbench.core.errors import VrbenchError
from vrbench.core.layers import select_layers
from vrbench.reproduce.families import ReproductionFamily, StepCosts, Value
from vrbench.tasks.registry import TaskSpec

GRADIENTS = ("fisher",)
"""Scores that take a backward pass on each dev picture: three looks' worth."""

TRIED = ("loss", "divergence-lazy")
"""What tries layers one by one, the first in as many rounds as layers go."""


def minutes(kind: str, arguments: Mapping[str, Value], of: ReproductionFamily, items: int, n: int) -> float:
    """Minutes of one card that a step takes when it has the card to itself.

    Args:
        kind: of the step.
        arguments: of the step.
        of: its family.
        items: that are measured, for a step of kind "run".
        n: layers of a set that a step of kind "layers" chooses.
    """
    costs = of.costs
    if kind == "train":
        seconds = costs.start + _samples(arguments, of) / costs.batch * _step(arguments, of, n)
    elif kind == "run":
        seconds = costs.start / 4 + items * costs.item
    elif kind == "profile":
        seconds = costs.profile
    else:
        seconds = costs.start / 4 + costs.look * _looks(kind, arguments, of)
    return round(seconds / 60, 3)


def _samples(arguments: Mapping[str, Value], of: ReproductionFamily) -> float:
    steps = arguments.get("tune.steps")
    batch = int(arguments.get("tune.batch", of.batch))
    if steps is not None:
        return int(steps) * batch
    share = float(arguments.get("data.share", 1.0))
    return of.samples * share * float(arguments.get("tune.epochs", 1.0))


def _step(arguments: Mapping[str, Value], of: ReproductionFamily, n: int) -> float:
    text = str(arguments.get("tune.layers", "all"))
    tuned = int(arguments.get("tune.sampling", 0)) or _count(text, of.depth, n)
    return of.costs.step + of.costs.layer * tuned


def _count(layers: str, depth: int, n: int) -> int:
    try:
        return n if layers.startswith("{") else len(select_layers(layers, depth))
    except VrbenchError:
        return depth  # what is wrong with it is told where it is read


def _looks(kind: str, arguments: Mapping[str, Value], of: ReproductionFamily) -> float:
    """Looks at all dev pictures; one for each layer that is tried."""
    by = str(arguments.get("by", ""))
    if kind == "restore" or "order" in arguments:
        return 0.0
    if by in TRIED:
        rounds = int(arguments["most"]) if by == "loss" else 1
        return 1.0 + sum(of.depth - i for i in range(rounds)) / 2  # layers below the one left out are not run again
    return 3.0 if by in GRADIENTS else 1.0


def items_of(specs: Sequence[TaskSpec], limit: int | None) -> int:
    """Items that are measured of some tasks."""
    return sum(min(spec.n, limit or spec.n) for spec in specs)


def elapsed(total: float, costs: StepCosts, cards: int, jobs: int) -> float:
    """Minutes by the clock for some minutes of one card, with several steps sharing each card."""
    shared = costs.overlap if jobs > cards else 1.0
    return total / (max(1, min(cards, jobs)) * shared)
