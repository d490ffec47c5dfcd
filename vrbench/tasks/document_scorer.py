"""Scoring one document with its harness, and the same with a cache of repeated answers."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from vrbench.tasks.scoring import ItemKey, ItemScore, ScoredDocument
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named

MAX_CACHED_LENGTH = 500
"""Characters of an answer that is kept; longer ones seldom come again, and would fill the memory."""

_IMMUTABLE_TYPES = (bool, int, float, str, type(None))

_CacheKey = tuple[int, str, tuple[str, ...]]
_Value = TypeVar("_Value")


class DocumentScorer:
    """Scores each document with its harness."""

    def metrics(self, task: Any, key: ItemKey, doc: Any, responses: Sequence[Any]) -> Mapping[str, Any]:
        """Return the output of the harness's `process_results` for filtered responses."""
        random.seed(key.id)  # random draws depend on the item alone: MMMU's guesses where no letter can be read
        # A scorer may change the document it is given (TextVQA's does), so it gets a copy.
        scored: Mapping[str, Any] = task.process_results(copy_values(doc), list(responses))
        return scored

    def score(self, spec: TaskSpec, document: ScoredDocument) -> ItemScore:
        """Return what a sample keeps of a scored document."""
        return scorer_named(spec.scorer).score(document)


class CachedDocumentScorer(DocumentScorer):
    """Keeps how each text was scored as the answer to each item; a harness's score depends on nothing else."""

    def __init__(self, most: int) -> None:
        """Args: most: scored answers that are kept; when there are more, all are forgotten."""
        self._most = most
        self._metrics: dict[_CacheKey, Mapping[str, Any]] = {}
        self._scores: dict[_CacheKey, ItemScore] = {}

    def metrics(self, task: Any, key: ItemKey, doc: Any, responses: Sequence[Any]) -> Mapping[str, Any]:
        """As in `DocumentScorer`."""
        found = self._cached(self._metrics, task, key, responses, super().metrics, task, key, doc, responses)
        return copy_values(found)  # an aggregation may change what it is given

    def score(self, spec: TaskSpec, document: ScoredDocument) -> ItemScore:
        """As in `DocumentScorer`."""
        of = document.task, document.key, document.responses
        return self._cached(self._scores, *of, super().score, spec, document)

    def _cached(
        self, kept: dict[_CacheKey, _Value], task: Any, key: ItemKey, responses: Sequence[Any],
        compute: Callable[..., _Value], *arguments: Any,
    ) -> _Value:  # fmt: skip
        if not all(isinstance(response, str) and len(response) <= MAX_CACHED_LENGTH for response in responses):
            return compute(*arguments)  # log-likelihoods and long texts
        place = id(task), key.id, tuple(responses)
        if place not in kept:
            if len(kept) >= self._most:
                kept.clear()
            kept[place] = compute(*arguments)
        return kept[place]


def copy_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in which nothing is shared that could be changed; as `copy.deepcopy`, but faster."""
    return {key: value if type(value) in _IMMUTABLE_TYPES else _copy(value) for key, value in values.items()}


def _copy(value: Any) -> Any:
    parts = value if type(value) is list else value.values() if type(value) is dict else None
    if parts is not None and all(type(part) in _IMMUTABLE_TYPES for part in parts):
        return value.copy()  # nothing inside can be changed
    return copy.deepcopy(value)
