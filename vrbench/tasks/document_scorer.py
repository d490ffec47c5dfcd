"""How one document is scored by its harness; and responses of several models to one question, scored once."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from vrbench.data.loading import ItemKey
from vrbench.tasks.registry import TaskSpec
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.scoring import ItemScore, ScoredDocument, copied

LONGEST_KEPT = 500
"""Characters of an answer that is kept; longer ones seldom come again, and a stranger's would fill the memory."""


class DocumentScorer:
    """Scores one document by its harness."""

    def metrics(self, task: Any, identity: ItemKey, doc: Any, responses: Sequence[Any]) -> Mapping[str, Any]:
        """Return what the harness's `process_results` gives for filtered responses."""
        random.seed(identity.id)  # what is drawn depends on the item alone: MMMU's guesses where no letter can be read
        # A scorer may change the document it is given (TextVQA's does), so it gets a copy.
        scored: Mapping[str, Any] = task.process_results(copied(doc), list(responses))
        return scored

    def mark(self, spec: TaskSpec, document: ScoredDocument) -> ItemScore:
        """Return what a sample keeps of a scored document."""
        return SCORERS[spec.scorer].mark(document)


class CachedDocumentScorer(DocumentScorer):
    """Keeps how each text was scored as the answer to each item; what a harness scores depends on nothing else."""

    def __init__(self, most: int) -> None:
        """Make it.

        Args:
            most: scored answers that are kept; when there are more, all are forgotten.
        """
        self._most = most
        self._metrics: dict[tuple[int, str, tuple[str, ...]], Mapping[str, Any]] = {}
        self._marks: dict[tuple[int, str, tuple[str, ...]], ItemScore] = {}

    def metrics(self, task: Any, identity: ItemKey, doc: Any, responses: Sequence[Any]) -> Mapping[str, Any]:
        """What the harness's `process_results` gives for filtered responses."""
        key = _key(task, identity, responses)
        if key is None:
            return super().metrics(task, identity, doc, responses)
        if key not in self._metrics:
            if len(self._metrics) >= self._most:
                self._metrics.clear()
            self._metrics[key] = super().metrics(task, identity, doc, responses)
        return copied(self._metrics[key])  # an aggregation may change what it is given

    def mark(self, spec: TaskSpec, document: ScoredDocument) -> ItemScore:
        """What a sample keeps of a scored document."""
        key = _key(document.task, document.identity, document.responses)
        if key is None:
            return super().mark(spec, document)
        if key not in self._marks:
            if len(self._marks) >= self._most:
                self._marks.clear()
            self._marks[key] = super().mark(spec, document)
        return self._marks[key]


def _key(task: Any, identity: ItemKey, responses: Sequence[Any]) -> tuple[int, str, tuple[str, ...]] | None:
    """What a scored answer is kept under; none for log-likelihoods and long texts."""
    if not all(isinstance(response, str) and len(response) <= LONGEST_KEPT for response in responses):
        return None
    return id(task), identity.id, tuple(responses)
