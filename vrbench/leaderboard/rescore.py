"""Answers that were handed in, scored again: the harness's own filters, scoring and aggregation, without a model.

A task is built once and serves all submissions. Importing this module is cheap; making a `Rescorer` imports the task's
harness.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import raise_errors
from vrbench.core.schemas import Sample, TaskResult
from vrbench.evaluation import task_result
from vrbench.evaluation.run_plan import PlannedTask

if TYPE_CHECKING:
    from vrbench.evaluation.task_scores import TaskScores

Response = str | tuple[float, bool] | float

LONGEST_RESPONSE = 20_000
"""Characters of one answer; 1,024 tokens, the most that a task asks for, have some 6,000."""

MOST_KEPT = 100_000
"""Scored answers that a `Rescorer` keeps for submissions that give the same ones; each takes some 1 KiB."""

_KINDS = {
    "generate_until": f"a text of at most {LONGEST_RESPONSE:,} characters",
    "loglikelihood": "(log-likelihood of at most 0, is greedy)",
    "loglikelihood_rolling": "a log-likelihood of at most 0",
}


class Rescorer:
    """Scores the responses of any number of submissions to one task.

    Attributes:
        job: the task with all its items.
        decides: what of it decides answers and scores, as `plan.inputs_digest` takes it.
    """

    def __init__(self, job: PlannedTask) -> None:
        """Build the harness's task and its requests, once.

        Args:
            job: the task with all its items.
        """
        from vrbench.evaluation.built_task import build_task
        from vrbench.evaluation.harness_adapter import adapter_of
        from vrbench.tasks.document_scorer import CachedDocumentScorer

        self.job = job
        self.decides = job.decides
        self._about = task_result.task_fields(job)
        self._scorer = CachedDocumentScorer(MOST_KEPT)
        self._built = build_task(job.spec, job.parts)
        self._asked: dict[str, Sequence[Any]] = {key.id: instances for _, key, instances in self._built.items()}
        digest_of = adapter_of(job.spec).prompt_digest
        self._prompts: dict[str, str | None] = {item: digest_of(asked[0]) for item, asked in self._asked.items()}

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the task's items, in order."""
        return tuple(self._asked)

    def score(
        self, samples: Sequence[Sample], seed: int = 0, samples_digest: str = ""
    ) -> tuple[TaskResult, tuple[Sample, ...]]:
        """The result and the samples that follow from what a submission's samples say the model answered.

        Of each sample its id, its responses and, where only the checkpoint's tokenizer could tell it, the digest of its
        prompt are taken; everything else is made anew.

        Args:
            samples: one an item, in the task's order.
            seed: of the intervals.
            samples_digest: sha256 of the samples as they lie there, which stands for them if they are what follows.

        Raises:
            VrbenchError: samples that are missing, added or in another order, or responses that are not such as the
                task asks for; all at once.
        """
        raise_errors([*self.order_faults([sample.id for sample in samples]), *self._response_faults(samples)])
        outcome = self._outcome(samples)
        digest = samples_digest if outcome.samples == tuple(samples) else ""
        result = TaskResult(**self._about, **task_result.score_fields(self.job, outcome, seed, digest))
        return result, outcome.samples

    def order_faults(self, given: Sequence[str]) -> Iterator[str]:
        """What of the items is missing, added or in another order, one sentence each."""
        known, there = set(self._asked), set(given)
        for what, odd in (("missing", sorted(known - there)), ("of no item of the task", sorted(there - known))):
            if odd:
                yield f"{len(odd):,} sample{'s are' * (len(odd) > 1) or ' is'} {what}, such as {odd[0]!r}"
        if known == there and len(given) > len(known):
            yield f"{len(given) - len(known):,} samples are there more than once"
        elif known == there and list(given) != list(self._asked):
            place = next(i for i, (a, b) in enumerate(zip(given, self._asked, strict=True)) if a != b)
            yield f"the samples are in another order than the task's items, from line {place + 1} on"

    def _response_faults(self, samples: Sequence[Sample]) -> Iterator[str]:
        if samples and not any(sample.responses for sample in samples):
            yield "the samples have no responses: the run was made by an older vrbench; run it again"
            return
        odd = []
        for sample in samples:
            asked = self._asked.get(sample.id)
            if asked is not None and (fault := _shape_fault(sample.responses, asked)):
                odd.append(f"sample {sample.id!r} {fault}")
        if odd:
            yield odd[0] + (f", and {len(odd) - 1:,} more samples are like that" if len(odd) > 1 else "")

    def _outcome(self, samples: Sequence[Sample]) -> TaskScores:
        from vrbench.evaluation.task_scores import score_task

        responses = [response for sample in samples for response in sample.responses]
        digests = [self._prompts[s.id] or s.prompt_digest for s in samples for _ in s.responses]
        with _plain_strings():
            return score_task(self._built, responses, digests, self._scorer)


def _plain_strings() -> AbstractContextManager[None]:
    """Texts in pandas are Python's own: some harnesses read tables cell by cell, which is half as fast with Arrow's."""
    import pandas as pd

    return pd.option_context("future.infer_string", False)


def _shape_fault(responses: Sequence[Response], asked: Sequence[Any]) -> str:
    """Why responses cannot be those to an item's requests; empty when they can."""
    if len(responses) != len(asked):
        return f"has {len(responses):,} responses; the task asks {len(asked):,} of each such item"
    kind = asked[0].request_type
    if not all(_fits(response, kind) for response in responses):
        return f"has a response that is not {_KINDS[kind]}"
    return ""


def _fits(response: Response, kind: str) -> bool:
    if kind == "generate_until":
        return isinstance(response, str) and len(response) <= LONGEST_RESPONSE
    log = response if kind == "loglikelihood_rolling" else response[0] if isinstance(response, tuple) else None
    return isinstance(log, float) and math.isfinite(log) and log <= 1e-3
