"""The scores of a task whose requests are answered: the harness's filters, scoring and aggregates, cross-checked.

Both harnesses have the same task object (`apply_filters`, `process_results`, `aggregation`), so that one function does
for both. It is what their `simple_evaluate` does for one task in one process, without its import time, bootstrap and
files; `benchmarks/parity.py` and the tests hold it against the real one.
"""

from __future__ import annotations

import inspect
import math
import tempfile
from argparse import Namespace
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.core.memory import pause_garbage_collection
from vrbench.core.schemas import Sample
from vrbench.evaluation.built_task import BuiltSubtask, BuiltTask, adapter_of
from vrbench.evaluation.harness_adapter import preserve_rng, silence_output
from vrbench.evaluation.requests import Response, Unanswered
from vrbench.tasks import metrics
from vrbench.tasks.document_scorer import DocumentScorer
from vrbench.tasks.scoring import Aggregates, ItemScore, ScoredDocument
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named

TOLERANCE = 1e-9
"""Relative difference up to which our score is the harness's."""


@dataclass(frozen=True)
class TaskScores:
    """The scores of a task.

    Attributes:
        samples: one per item, in the order of configs and positions.
        official: the harness's aggregates; named "config/metric" where a task has several configs, and beside them
            the group's "metric" where the harness has one; named "metric,filter" where it has several filters.
    """

    samples: tuple[Sample, ...]
    official: dict[str, float]


@pause_garbage_collection()
def score_task(
    built: BuiltTask,
    responses: Sequence[Response],
    prompt_digests: Sequence[str | None],
    scorer: DocumentScorer | None = None,
) -> TaskScores:
    """Score the responses to a task.

    Args:
        responses: to the harness's requests, in the order of `BuiltTask.instances`.
        prompt_digests: of each item, the sha256 over what the model was shown for its first request.
        scorer: how each document is scored.

    Raises:
        RuntimeError: our score over the samples is not the harness's aggregate.
    """
    spec, scorer = built.spec, scorer or DocumentScorer()
    samples: list[Sample] = []
    primary: list[tuple[int, dict[str, float]]] = []
    shown: list[tuple[int, dict[str, float]]] = []
    digests = iter(prompt_digests)
    for (_, instance), response in zip(built.instances(), responses, strict=True):
        instance.resps, instance.filtered_resps = [response], {}
    with silence_output(), preserve_rng():
        for subtask in built.subtasks:
            unanswered = _unanswered(subtask)
            by_filter = _score_documents(subtask, unanswered, scorer)
            name = _primary_filter(spec, list(by_filter))
            scores = {row: scorer.score(spec, document) for row, document in by_filter[name].items()}
            scores |= {row: ItemScore(0.0, "", "", unscored=reason) for row, reason in unanswered.items()}
            samples += _samples(subtask, scores, digests)
            rows = _rows_of_whole_units(subtask, unanswered)
            figures = {
                f: _aggregate(subtask.task, [scored[row].metrics for row in rows]) for f, scored in by_filter.items()
            }
            primary.append((len(rows), figures[name]))
            shown.append((len(rows), _by_metric(figures)))
    official = _official_scores(spec, [subtask.config for subtask in built.subtasks], shown)
    if scorer_named(spec.scorer).metric == "mme":
        primary[0][1]["subtasks"] = len({sample.group for sample in samples})
    check_aggregates(spec, samples, primary)
    return TaskScores(tuple(samples), official)


def _unanswered(subtask: BuiltSubtask) -> dict[int, str]:
    """Return row -> reason, for each row with an unanswered request."""
    found: dict[int, str] = {}
    for row, instances in enumerate(subtask.instances):
        for instance in instances:
            if isinstance(instance.resps[0], Unanswered):
                found.setdefault(row, instance.resps[0].reason)
    return found


def _score_documents(
    subtask: BuiltSubtask, unanswered: Container[int], scorer: DocumentScorer
) -> dict[str, dict[int, ScoredDocument]]:
    """Return filter -> row -> document scored under that filter, for the answered rows."""
    subtask.task._instances = [instance for instances in subtask.instances for instance in instances]
    subtask.task.apply_filters()
    subtask.task._instances = None
    names = list(subtask.instances[0][0].filtered_resps)
    rows = [row for row in range(len(subtask.documents)) if row not in unanswered]
    return {name: {row: _score_document(subtask, row, name, scorer) for row in rows} for name in names}


def _score_document(subtask: BuiltSubtask, row: int, name: str, scorer: DocumentScorer) -> ScoredDocument:
    task, (key, doc) = subtask.task, subtask.documents[row]
    filtered = [instance.filtered_resps[name] for instance in subtask.instances[row]]
    return ScoredDocument(task, doc, filtered, scorer.metrics(task, key, doc, filtered), key)


def _rows_of_whole_units(subtask: BuiltSubtask, unanswered: Container[int]) -> list[int]:
    """Return the rows that the harness can combine: none of a unit (pair, rotations) with an unanswered part."""
    units = [(key.group, key.unit or key.id) for key, _ in subtask.documents]
    torn = {unit for row, unit in enumerate(units) if row in unanswered}
    return [row for row, unit in enumerate(units) if unit not in torn]


def _primary_filter(spec: TaskSpec, filters: Sequence[str]) -> str:
    """Return the filter that scores: the one that the task names, or the harness's first."""
    if spec.filter and spec.filter not in filters:
        raise VrbenchError(f"task {spec.id!r}: there is no filter {spec.filter!r}; there are {', '.join(filters)}")
    return spec.filter or filters[0]


def _samples(subtask: BuiltSubtask, scores: Mapping[int, ItemScore], digests: Iterator[str | None]) -> Iterator[Sample]:
    for row, (key, _) in enumerate(subtask.documents):
        score, instances = scores[row], subtask.instances[row]
        yield Sample(
            id=key.id,
            cluster=key.cluster,
            group=key.group,
            unit=key.unit,
            score=score.score,
            weight=score.weight,
            answer=score.answer,
            target=score.target,
            loglikelihoods=score.loglikelihoods,
            responses=tuple(instance.resps[0] for instance in instances),
            prompt_digest=next(digests) or "",
            unscored=score.unscored,
        )


def _aggregate(task: Any, scored: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the harness's aggregates by metric, from its per-document values."""
    values: dict[str, list[Any]] = {}
    for metrics_of_one in scored:
        for name, value in metrics_of_one.items():
            values.setdefault(name, []).append(value)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, function in task.aggregation().items():
            if name in values:
                takes_args = "args" in inspect.signature(function).parameters
                more = {"args": Namespace(output_path=folder)} if takes_args else {}  # it may write a report there
                found[name] = float(function(values[name], **more))
    return found


def _by_metric(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Flatten filter -> metric -> value to one mapping, named "metric,filter" where there are several filters."""
    several = len(figures) > 1
    return {
        f"{metric},{name}" if several else metric: value
        for name, found in figures.items()
        for metric, value in found.items()
    }


def _official_scores(spec: TaskSpec, configs: Sequence[str], subtasks: Aggregates) -> dict[str, float]:
    """Return each config's aggregates, and before them those of the group where the harness has a rule for it.

    A config without a scored document has none.
    """
    if len(configs) == 1:
        return dict(subtasks[0][1])
    scored = [(config, of) for config, of in zip(configs, subtasks, strict=True) if of[0]]
    each = {f"{config}/{name}": value for config, (_, found) in scored for name, value in found.items()}
    return {**(adapter_of(spec).group_scores([of for _, of in scored]) if scored else {}), **each}


def check_aggregates(spec: TaskSpec, samples: Sequence[Sample], subtasks: Aggregates) -> None:
    """Check that our score is the harness's own; with unscored items it cannot be, since the harness calls them wrong.

    Raises:
        RuntimeError: it is another one.
    """
    if any(sample.unscored for sample in samples):
        return
    scorer = scorer_named(spec.scorer)
    metric = metrics.METRICS[scorer.metric]
    computed = metric.compute(samples)
    official = scorer.official(subtasks)
    if scorer.decimals is not None:
        computed = 100 * round(computed / 100, scorer.decimals)
    if not math.isclose(computed, official, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise RuntimeError(f"task {spec.id}: {scorer.metric} is {computed!r}, but {spec.harness} says {official!r}")
