"""What a task's result says, from the task's definition and from what came out of it; no model is asked for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core.provenance import package_version
from vrbench.core.run_storage import samples_to_jsonl
from vrbench.core.schemas import Sample, unscored_note
from vrbench.evaluation import hints
from vrbench.evaluation.run_plan import PlannedTask
from vrbench.statistics import bootstrap
from vrbench.tasks import metrics
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from vrbench.evaluation.task_scores import TaskScores


def task_fields(job: PlannedTask) -> dict[str, Any]:
    """What a result says of the task itself, whatever becomes of it."""
    spec = job.spec
    return {
        "task": spec.id,
        "suite": spec.suite,
        "version": spec.version,
        "metric": spec.metric,
        "higher_is_better": spec.higher_is_better,
        "chance": spec.chance,
        "harness": f"{spec.harness} {package_version(spec.harness)}",
        "fewshot": spec.fewshot,
        "data": job.origin,
        "data_digest": job.digest,
        "definition_digest": job.definition_digest,
    }


def score_fields(job: PlannedTask, outcome: TaskScores, seed: int, samples_digest: str = "") -> dict[str, Any]:
    """What a result says of the scores: figures, counts, and what a reader must know of them.

    Args:
        seed: of the intervals.
        samples_digest: sha256 of the samples as text, if it is known.
    """
    spec, samples = job.spec, outcome.samples
    score = bootstrap.score(spec.metric, samples, seed)
    groups = sorted({sample.group for sample in samples})
    missing = spec.missing_groups(groups)
    complete = len(samples) == job.available == spec.n and not missing
    return {
        "status": "ok",
        "n": score.n,
        "n_unscored": len(samples) - score.n,
        "score": score,
        "groups": bootstrap.score_groups(spec.metric, samples, seed) if len(groups) > 1 else {},
        "complete": complete,
        "note": _note(job, len(samples), len(samples) - score.n, missing),
        "official": _official(spec, outcome, complete),
        "samples_digest": samples_digest or hashlib.sha256(samples_to_jsonl(samples).encode()).hexdigest(),
    }


def answer_fields(
    scorer: str, samples: Sequence[Sample], cut: Mapping[object, int], context: int, sixteen_bits: int = 0
) -> dict[str, Any]:
    """What a result says of one checkpoint's answers beside their scores: what was cut, left out or not understood.

    Args:
        scorer: of the task, key of `SCORERS`.
        samples: of all items.
        cut: item -> its requests whose text lost its front.
        context: tokens of the model's context.
        sixteen_bits: images of 16 bits a channel.
    """
    said = []
    if cut:
        asked = sum(len(sample.responses) for sample in samples)
        said.append(
            f"{sum(cut.values()):,} of {asked:,} requests, in {len(cut):,} of {len(samples):,} items, were longer than "
            f"the model's context of {context:,} tokens and lost their front"
        )
    if sixteen_bits:
        images = f"{sixteen_bits:,} image{'s have' if sixteen_bits > 1 else ' has'}"
        said.append(
            f"{images} 16 bits a channel, of which the high 8 are shown; lmms-eval clips such an image to white"
        )
    unscored = [sample for sample in samples if sample.unscored]
    if unscored:
        first = unscored[0]
        said.append(
            f"{len(unscored):,} of {len(samples):,} items could not be scored and are left out, such as "
            f"{first.id!r}: {first.unscored}"
        )
    said += filter(None, [hints.unlike(samples, scorer)])
    return {"n_cut": len(cut), "requests_cut": sum(cut.values()), "warnings": tuple(said)}


def _note(job: PlannedTask, n: int, unscored: int, missing: Sequence[str]) -> str:
    spec = job.spec
    said = [told] if (told := unscored_note(unscored, n)) else []
    if n != job.available:
        said.append(f"{n} of {job.available} items, by --limit")
    if job.available != spec.n:
        said.append(f"{job.available} of the {spec.n} items of the full set are there")
    if missing:
        said.append(f"missing: {', '.join(missing)}, so there are no totals")
    return "; ".join(said)


def _official(spec: TaskSpec, outcome: TaskScores, complete: bool) -> dict[str, float]:
    """The harness's aggregates; MME's points of each subtask, and its totals only when nothing is missing.

    Beside a circular figure stands the vanilla one, each rotation counted by itself.
    """
    if spec.metric == "circular":
        vanilla = metrics.METRICS["vanilla"]
        return {**outcome.official, "vanilla": float(vanilla.value(vanilla.statistics(outcome.samples).sum(0)))}
    if spec.scorer != "mme":
        return dict(outcome.official)
    points = metrics.mme_points(outcome.samples)
    return {**points, **outcome.official} if complete else points
