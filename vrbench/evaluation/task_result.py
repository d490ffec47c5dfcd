"""The result of a task, from its definition and its scores; no model is used."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core.provenance import package_version
from vrbench.core.run_storage import samples_to_jsonl
from vrbench.core.schemas import Sample, unscored_note
from vrbench.evaluation.run_plan import PlannedTask
from vrbench.statistics import bootstrap
from vrbench.tasks import metrics
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named

if TYPE_CHECKING:
    from vrbench.evaluation.task_scores import TaskScores

MIN_ANSWERS = 10
"""Answers below which `warn_of_unmatched_targets` says nothing: a few may all be wrong."""

MAX_ANSWER_LENGTH = 2_000
"""Characters of an answer that are searched for a right answer."""

MAX_TARGET_WORDS = 8
"""Words of a right answer; longer ones are not searched for."""

MAX_EXAMPLES = 3
"""Answers and right answers that are quoted."""


def task_fields(task: PlannedTask) -> dict[str, Any]:
    """Return the fields of a result that describe the task, whether or not it fails."""
    spec = task.spec
    return {
        "task": spec.id,
        "suite": spec.suite,
        "version": spec.version,
        "metric": spec.metric,
        "higher_is_better": spec.higher_is_better,
        "chance": spec.chance,
        "harness": f"{spec.harness} {package_version(spec.harness)}",
        "fewshot": spec.fewshot,
        "data": task.origin,
        "data_digest": task.digest,
        "definition_digest": task.definition_digest,
    }


def score_fields(task: PlannedTask, scores: TaskScores, seed: int, samples_digest: str = "") -> dict[str, Any]:
    """Return the fields of a result that describe the scores: values, counts and notes.

    Args:
        seed: of the intervals.
        samples_digest: sha256 of the samples as text, if it is known.
    """
    spec, samples = task.spec, scores.samples
    score = bootstrap.score(spec.metric, samples, seed)
    groups = sorted({sample.group for sample in samples})
    missing = spec.missing_groups(groups)
    complete = len(samples) == task.available == spec.n and not missing
    return {
        "status": "ok",
        "n": score.n,
        "n_unscored": len(samples) - score.n,
        "score": score,
        "groups": bootstrap.score_groups(spec.metric, samples, seed) if len(groups) > 1 else {},
        "complete": complete,
        "note": _note(task, len(samples), len(samples) - score.n, missing),
        "official": _official(spec, scores, complete),
        "samples_digest": samples_digest or hashlib.sha256(samples_to_jsonl(samples).encode()).hexdigest(),
    }


def answer_fields(
    scorer: str, samples: Sequence[Sample], truncated: Mapping[Any, int], context: int, sixteen_bits: int = 0
) -> dict[str, Any]:
    """Return the fields of a result that describe one checkpoint's answers: counts of truncation, and warnings.

    Args:
        scorer: name of the task's scorer.
        samples: of all items.
        truncated: item -> number of its requests whose text was truncated on the left.
        context: tokens of the model's context.
        sixteen_bits: number of images with 16 bits a channel.
    """
    warnings = []
    if truncated:
        requests = sum(len(sample.responses) for sample in samples)
        warnings.append(
            f"{sum(truncated.values()):,} of {requests:,} requests, in {len(truncated):,} of {len(samples):,} items, "
            f"were longer than the model's context of {context:,} tokens and were truncated on the left"
        )
    if sixteen_bits:
        images = f"{sixteen_bits:,} image{'s have' if sixteen_bits > 1 else ' has'}"
        warnings.append(f"{images} 16 bits a channel, reduced to the high 8; lmms-eval clips such an image to white")
    unscored = [sample for sample in samples if sample.unscored]
    if unscored:
        first = unscored[0]
        warnings.append(
            f"{len(unscored):,} of {len(samples):,} items could not be scored and are left out, such as "
            f"{first.id!r}: {first.unscored}"
        )
    if unlike := warn_of_unmatched_targets(samples, scorer):
        warnings.append(unlike)
    return {"n_cut": len(truncated), "requests_cut": sum(truncated.values()), "warnings": tuple(warnings)}


def warn_of_unmatched_targets(samples: Sequence[Sample], scorer: str) -> str:
    """Return a warning if no generated answer of a task contains any of its right answers: a sign of a wrong prompt.

    A scorer may be more lenient than words are ("Y" for "Yes", a number within 5 %), so there is no warning for a task
    with a point, where the scorer gives points only to what it can read.

    Args:
        samples: of one task.
        scorer: name of its scorer.
    """
    generated = [s for s in samples if not s.unscored and s.target and s.responses and isinstance(s.responses[0], str)]
    if len(generated) < MIN_ANSWERS:
        return ""
    if not scorer_named(scorer).credits_unreadable and any(s.score > 0 for s in generated):
        return ""
    targets = {words for s in generated if 0 < len(words := _words(s.target)) <= MAX_TARGET_WORDS}
    longest = max(map(len, targets), default=0)
    answers = [str(s.responses[0])[:MAX_ANSWER_LENGTH] for s in generated]
    if not targets or any(_contains(answer, targets, longest) for answer in answers):
        return ""
    given, right = (_most_common(texts) for texts in (answers, [s.target for s in generated]))
    return (
        f"none of the {len(generated):,} answers looks like any right answer of the task: answers are such as {given}, "
        f"right ones such as {right}; check the prompt, the chat template and what the model was trained to say"
    )


def _words(text: str) -> tuple[str, ...]:
    """Return words in lower case; a character of a script without spaces is a word of its own."""
    return tuple(re.findall(r"[a-z0-9]+|\w", text.lower()))


def _contains(answer: str, targets: set[tuple[str, ...]], longest: int) -> bool:
    words = _words(answer)
    return any(words[i : i + n] in targets for i in range(len(words)) for n in range(1, longest + 1))


def _most_common(texts: Sequence[str]) -> str:
    """Return the most common texts, shortened."""
    return ", ".join(
        repr(text if len(text) <= 40 else f"{text[:40]}...") for text, _ in Counter(texts).most_common(MAX_EXAMPLES)
    )


def _note(task: PlannedTask, n: int, unscored: int, missing: Sequence[str]) -> str:
    notes = [note] if (note := unscored_note(unscored, n)) else []
    if n != task.available:
        notes.append(f"{n} of {task.available} items, by --limit")
    if task.available != task.spec.n:
        notes.append(f"{task.available} of the {task.spec.n} items of the full set are there")
    if missing:
        notes.append(f"missing: {', '.join(missing)}, so there are no totals")
    return "; ".join(notes)


def _official(spec: TaskSpec, scores: TaskScores, complete: bool) -> dict[str, float]:
    """Return the harness's aggregates; MME's points of each subtask, and its totals only when nothing is missing.

    A circular score is reported with the vanilla one, which counts each rotation by itself.
    """
    if spec.metric == "circular":
        vanilla = metrics.METRICS["vanilla"]
        return {**scores.official, "vanilla": vanilla.compute(scores.samples)}
    if spec.scorer != "mme":
        return dict(scores.official)
    points = metrics.mme_points(scores.samples)
    return {**points, **scores.official} if complete else points
