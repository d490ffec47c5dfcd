"""Scoring submitted answers again: the harness's own filters, scoring and aggregation, without a model.

A task is built once and serves all submissions. Importing this module is cheap; a `Rescorer` imports its harness.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import raise_errors
from vrbench.core.schemas import Sample, TaskResult
from vrbench.evaluation import task_result
from vrbench.evaluation.run_plan import PlannedTask
from vrbench.leaderboard.untrusted_input.text import sanitize_for_message

if TYPE_CHECKING:
    from vrbench.evaluation.task_scores import TaskScores

MAX_RESPONSE = 20_000
"""Characters of one answer; 1,024 tokens, the most that a task asks for, have about 6,000."""

MAX_CACHED = 100_000
"""Scored answers that a `Rescorer` caches for submissions that give the same ones; each takes about 1 KiB."""

_EXPECTED = {
    "generate_until": f"a text of at most {MAX_RESPONSE:,} characters",
    "loglikelihood": "(log-likelihood of at most 0, is greedy)",
    "loglikelihood_rolling": "a log-likelihood of at most 0",
}


class Rescorer:
    """Scores the responses of any number of submissions to one task.

    Attributes:
        job: the task with all its items.
        ids: ids of the items, in order.
    """

    def __init__(self, job: PlannedTask) -> None:
        """Build the harness's task and its requests."""
        from vrbench.evaluation.built_task import adapter_of, build_task
        from vrbench.tasks.document_scorer import CachedDocumentScorer

        self.job = job
        self._scorer = CachedDocumentScorer(MAX_CACHED)
        self._built = build_task(job.spec, job.subtasks)
        self._requests: dict[str, Sequence[Any]] = {key.id: instances for _, key, instances in self._built.items()}
        self.ids = tuple(self._requests)
        digest_of = adapter_of(job.spec).prompt_digest
        self._prompts: dict[str, str | None] = {item: digest_of(asked[0]) for item, asked in self._requests.items()}

    def score(
        self, samples: Sequence[Sample], seed: int = 0, samples_digest: str = ""
    ) -> tuple[TaskResult, tuple[Sample, ...]]:
        """Return the result and the samples that follow from a submission's responses.

        Of each sample its id, its responses and, where only the checkpoint's tokenizer could compute it, the digest of
        its prompt are used; everything else is recomputed.

        Args:
            samples: one an item, in the task's order.
            seed: of the intervals.
            samples_digest: sha256 of the samples as stored, used for the result if they are what follows.

        Raises:
            VrbenchError: samples that are missing, added or in another order, or responses of another kind than the
                task asks for; all at once.
        """
        raise_errors([*self._validate_ids([sample.id for sample in samples]), *self._validate_responses(samples)])
        outcome = self._outcome(samples)
        digest = samples_digest if outcome.samples == tuple(samples) else ""
        fields = task_result.task_fields(self.job) | task_result.score_fields(self.job, outcome, seed, digest)
        return TaskResult(**fields), outcome.samples

    def _validate_ids(self, given: Sequence[str]) -> Iterator[str]:
        known, there = set(self._requests), set(given)
        for what, ids in (("missing", sorted(known - there)), ("of no item of the task", sorted(there - known))):
            if ids:
                verb = "samples are" if len(ids) > 1 else "sample is"
                yield f"{len(ids):,} {verb} {what}, such as {sanitize_for_message(ids[0])}"
        if known == there and len(given) > len(known):
            yield f"{len(given) - len(known):,} samples are there more than once"
        elif known == there and tuple(given) != self.ids:
            place = next(i for i, (a, b) in enumerate(zip(given, self.ids, strict=True)) if a != b)
            yield f"the samples are in another order than the task's items, from line {place + 1} on"

    def _validate_responses(self, samples: Sequence[Sample]) -> Iterator[str]:
        if samples and not any(sample.responses for sample in samples):
            yield "the samples have no responses: the run was made by an older vrbench; run it again"
            return
        errors = []
        for sample in samples:
            requests = self._requests.get(sample.id)
            if requests is not None and (error := _response_error(sample.responses, requests)):
                errors.append(f"sample {sanitize_for_message(sample.id)} {error}")
        if errors:
            yield errors[0] + (f", and {len(errors) - 1:,} more samples like it" if len(errors) > 1 else "")

    def _outcome(self, samples: Sequence[Sample]) -> TaskScores:
        import pandas as pd

        from vrbench.evaluation.task_scores import score_task

        responses = [response for sample in samples for response in sample.responses]
        digests = [self._prompts[sample.id] or sample.prompt_digest for sample in samples]
        # Some harnesses read tables cell by cell, which takes twice as long with Arrow's strings as with Python's.
        with pd.option_context("future.infer_string", False):
            return score_task(self._built, responses, digests, self._scorer)


def _response_error(responses: Sequence[Any], requests: Sequence[Any]) -> str:
    """Return why responses cannot be those to an item's requests; empty if they can."""
    if len(responses) != len(requests):
        return f"has {len(responses):,} responses; the task asks {len(requests):,} of each such item"
    kind = requests[0].request_type
    if not all(_fits(response, kind) for response in responses):
        return f"has a response that is not {_EXPECTED[kind]}"
    return ""


def _fits(response: Any, kind: str) -> bool:
    if kind == "generate_until":
        return isinstance(response, str) and len(response) <= MAX_RESPONSE
    log = response if kind == "loglikelihood_rolling" else response[0] if isinstance(response, tuple) else None
    return isinstance(log, float) and math.isfinite(log) and log <= 1e-3
