"""Methods that choose layers to remove by trying removals: each is one function with `@removal_method` (no torch).

A method's names, searches and the first line of its docstring are all that lists, help, errors, digests and tests
use. Costs are counted in passes over the dev images: a forward pass through all layers is 1, a backward pass about 1
more. Trying each of D layers costs D / 2, since everything below a layer is computed once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vrbench.core.errors import suggest_names
from vrbench.pruning.importance_methods import IMPORTANCE_METHODS

if TYPE_CHECKING:
    from vrbench.pruning.loss_evaluator import LossEvaluator

Trial = Callable[[Sequence[int], Iterable[int]], Mapping[int, float]]
"""(removed layers, layers to try) -> layer -> value without the removed ones and this one; less is better."""

Measure = Callable[["LossEvaluator", Sequence[int], Iterable[int]], Mapping[int, float]]
"""A `Trial` on the dev images of an evaluator."""

BLOCK, PRUNEME_BLOCK = "angular-block", "angular-block-pruneme"
BLOCKS = {
    BLOCK: "Consecutive layers over which hidden states turn least.",
    PRUNEME_BLOCK: "The same as in PruneMe's code: none with the first layer, final norm included.",
}
"""Criterion -> summary: consecutive layers, without an order (`hidden_states.block_distances`).

PruneMe (arcee-ai/PruneMe, compute_block_similarity/layer_similarity.py) leaves out what enters the first layer, so that
no block begins there, and reads what leaves the last layer after the final norm.
"""


class RemovalTrace(NamedTuple):
    """Layers in the order of their removal, with the values on the way.

    Attributes:
        order: the least important first.
        values: with none, one, two, ... of them removed; empty where it was not measured.
        singles: layer -> value without it alone.
    """

    order: tuple[int, ...]
    values: tuple[float, ...]
    singles: dict[int, float]


def one_shot(trial: Trial, start: float, candidates: Sequence[int], count: int) -> RemovalTrace:
    """Order layers by their values alone, without interactions."""
    singles = dict(trial([], candidates))
    return RemovalTrace(tuple(sorted(singles, key=singles.__getitem__)[:count]), (), singles)


def greedy(trial: Trial, start: float, candidates: Sequence[int], count: int) -> RemovalTrace:
    """Remove one layer after the other, trying all again after each.

    Args:
        trial: measures removals.
        start: value with none removed.
        candidates: layers that may be removed.
        count: number of layers to remove.
    """
    removed: list[int] = []
    values = [start]
    singles: dict[int, float] = {}
    for _ in _progress(count):
        found = trial(removed, [layer for layer in candidates if layer not in removed])
        best = min(found, key=found.__getitem__)
        singles = singles or dict(found)
        removed.append(best)
        values.append(found[best])
    return RemovalTrace(tuple(removed), tuple(values), singles)


def lazy_greedy(trial: Trial, start: float, candidates: Sequence[int], count: int) -> RemovalTrace:
    """Remove one layer after the other, trying again only those that may be the best.

    A layer mostly costs more the more others are removed; as far as that holds, a value from an earlier round is a
    lower bound, and the choice is the greedy one (the accelerated greedy algorithm, Minoux 1978, "Accelerated greedy
    algorithms for maximizing submodular set functions").
    """
    singles = dict(trial([], candidates))
    rises = {layer: value - start for layer, value in singles.items()}
    removed: list[int] = []
    values = [start]
    for _ in _progress(count):
        fresh = set() if removed else set(rises)
        while (best := min(rises, key=rises.__getitem__)) not in fresh:
            rises[best] = trial(removed, [best])[best] - values[-1]
            fresh.add(best)
        removed.append(best)
        values.append(values[-1] + rises.pop(best))
    return RemovalTrace(tuple(removed), tuple(values), singles)


def _progress(count: int) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(range(count), desc="layers removed", unit="layer", disable=None)


Search = Callable[[Trial, float, Sequence[int], int], RemovalTrace]


@dataclass(frozen=True)
class RemovalMethod:
    """A way to choose the layers to remove.

    Attributes:
        name: for commands and records.
        measure: values of removals.
        search: how an order is made of them.
        unit: of the values.
        start: value with no layer removed.
        version: enters the digest of recipes that use it, from 2 on.
    """

    name: str
    measure: Measure
    search: Search
    unit: str
    start: Callable[[LossEvaluator], float]
    version: int = 1

    @property
    def summary(self) -> str:
        """The first line of the measure's docstring, and the search."""
        measure = str(self.measure.__doc__).partition("\n")[0].rstrip(".")
        return f"{measure} ({self.search.__name__.replace('_', '-')} search)."

    @property
    def quantity(self) -> str:
        """What the values are, for records."""
        return f"dev {self.measure.__name__.replace('_', '-')} ({self.unit})"


REMOVAL_METHODS: dict[str, RemovalMethod] = {}
"""Name -> method; filled by the decorator."""


def removal_method(
    searches: Mapping[str, Search], unit: str, start: Callable[[LossEvaluator], float] = lambda _: 0.0, version: int = 1
) -> Callable[[Measure], Measure]:
    """Register a measure as one removal method for each search (name -> search); the rest as in `RemovalMethod`."""

    def register(measure: Measure) -> Measure:
        for name, search in searches.items():
            REMOVAL_METHODS[name] = RemovalMethod(name, measure, search, unit, start, version)
        return measure

    return register


@removal_method(
    {"loss": greedy, "loss-lazy": lazy_greedy}, "nats an answer", start=lambda evaluator: evaluator.answers().mean
)
def loss(evaluator: LossEvaluator, removed: Sequence[int], layers: Iterable[int]) -> Mapping[int, float]:
    """Loss of the right answers on dev images without the layer.

    (1 / S) * sum over samples s of -log p(right answer of s | its prompt, without the removed layers and this one)

    D / 2 passes.
    """
    return {layer: answers.mean for layer, answers in evaluator.without_each(removed, layers).items()}


@removal_method({"divergence": one_shot, "divergence-lazy": lazy_greedy}, "nats an answer")
def divergence(evaluator: LossEvaluator, removed: Sequence[int], layers: Iterable[int]) -> Mapping[int, float]:
    """Kullback-Leibler divergence of the answers without the layer from the whole model's.

    (1 / S) * sum over samples s, tokens t of the answer, words w of p(w) * (log p(w) - log q(w))

    with p the whole model's distribution at t and q that without the removed layers and this one. Unlike a difference
    of losses it contains no noise from answers that the whole model does not know, so that it needs fewer images for
    the same order. 1 + D / 2 passes.
    """
    return evaluator.divergence_each(removed, layers)


@removal_method({"gate-fisher": one_shot}, "squared nats")
def gate_fisher(evaluator: LossEvaluator, removed: Sequence[int], layers: Iterable[int]) -> Mapping[int, float]:
    """Empirical Fisher information of a gate on the layer, from one backward pass.

    (1 / R) * sum over rows r of (dL_r / dg_l)^2  at g = 1, where layer l returns x + g_l * (f_l(x) - x)

    where a row is a row of a pass: an image with its questions, or one question. Half of it stands for the second-order
    term of the loss's growth (Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning",
    arXiv:1801.05787). 2 passes.
    """
    from vrbench.pruning.gradients import gate_gradients

    squares = gate_gradients(evaluator, removed).square().mean(0)
    return {layer: float(squares[layer]) for layer in layers}


def removal_criteria() -> dict[str, str]:
    """Return every name that `prune --by` takes with a one-line summary."""
    return {
        **{name: method.summary for name, method in REMOVAL_METHODS.items()},
        **BLOCKS,
        **{name: method.summary for name, method in IMPORTANCE_METHODS.items()},
    }


def validate_criterion(by: str) -> list[str]:
    """Return why layers cannot be chosen by a name, with the nearest known one; empty when they can."""
    known = removal_criteria()
    return [] if by in known else [f"by is {by!r}: {suggest_names(by, known)}"]


def criterion_version(by: str) -> int:
    """Return the version of the method with this name; 1 for blocks and for layers that the user names."""
    method = REMOVAL_METHODS.get(by) or IMPORTANCE_METHODS.get(by)
    return method.version if method else 1
