"""What a scoring is told and what it says: the types that all scorers share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vrbench.data.loading import ItemKey

_UNCHANGING = (bool, int, float, str, type(None))

Aggregates = Sequence[tuple[int, Mapping[str, float]]]
"""Of each part of a task (a config): number of documents, and the harness's aggregates by metric."""


@dataclass(frozen=True)
class ScoredDocument:
    """One document after the harness scored it.

    Attributes:
        task: the harness's task object.
        doc: its columns, pictures left out.
        responses: the model's answers to its requests, filtered as the harness does.
        metrics: what the harness's `process_results` gave.
        identity: what it is within its task.
    """

    task: Any
    doc: Mapping[str, Any]
    responses: Sequence[Any]
    metrics: Mapping[str, Any]
    identity: ItemKey


@dataclass(frozen=True)
class ItemScore:
    """What `records.Sample` keeps of a document."""

    score: float
    answer: str
    target: str
    weight: float = 1.0
    loglikelihoods: tuple[float, ...] = ()
    unscored: str = ""


@dataclass(frozen=True)
class Scorer:
    """One official scoring.

    Attributes:
        mark: document -> its mark.
        check: key of `vrbench.tasks.metrics.METRICS` whose figure over the marks is the harness's own figure.
        official: that figure, from the harness's aggregates, on the scale of the metric.
        template: the harness's YAML whose scoring a task with its own prompt takes; none where `config` says it all.
        config: what the harness is told, besides prompt and target, of a task with its own prompt.
        instead: what replaces keys of the harness's YAML; called late, since it imports the harness.
        decimals: decimals to which the harness rounds that figure (0 to 1); none where it does not round.
        version: raised by one whenever some answer is scored otherwise than before (see `vrbench.core.versions`); older
            runs are then not used again.
        rule: what an item's score is, in a sentence; docs/tasks.md lists them.
        columns: columns of an item that the harness's scoring reads itself, beside prompt and target.
    """

    mark: Callable[[ScoredDocument], ItemScore]
    check: str
    official: Callable[[Aggregates], float]
    template: str = ""
    config: Mapping[str, Any] | None = None
    instead: Callable[[], Mapping[str, Any]] | None = None
    decimals: int | None = None
    version: int = 1
    rule: str = ""
    columns: tuple[str, ...] = ()


def copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping in which nothing can be changed that others see; `copy.deepcopy` of it, but faster."""
    return {key: value if type(value) in _UNCHANGING else _copy(value) for key, value in values.items()}


def _copy(value: Any) -> Any:
    """`copy.deepcopy`; of a list or dict of plain values a copy of the outside is all that it takes."""
    parts = value if type(value) is list else value.values() if type(value) is dict else None
    if parts is not None and all(type(part) in _UNCHANGING for part in parts):
        return value.copy()
    return copy.deepcopy(value)


def mean_of(name: str, scale: float) -> Callable[[Aggregates], float]:
    """Mean of an aggregate over a task's parts, weighted by their documents."""

    def official(parts: Aggregates) -> float:
        return scale * sum(n * aggregates[name] for n, aggregates in parts) / sum(n for n, _ in parts)

    return official
