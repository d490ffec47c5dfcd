"""A complete run: plan, load, build requests, answer, score, record.

`run_all` plans (`run_plan`), `_evaluate_checkpoint` loads a model (`answer_shares`) and records, `_run_task` keeps one
task's errors from the other tasks, and `evaluate_task` is an item's way: a harness adapter makes it a `Request`
(`requests`), the engine returns a response (a text or a log-likelihood), a scorer makes of that an `ItemScore`, stored
as a `Sample`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.image_settings import image_notes
from vrbench.core import os_errors
from vrbench.core.device import device_kind
from vrbench.core.errors import VrbenchError
from vrbench.core.provenance import make_provenance, now
from vrbench.core.run_storage import save_run
from vrbench.core.schemas import Run, RunRecord, Sample, TaskResult
from vrbench.evaluation import task_result
from vrbench.evaluation.answer_shares import answer_shares, loaded_engine
from vrbench.evaluation.code_versions import task_versions
from vrbench.evaluation.failures import Failure, PartialFailureError, failure_of, free_memory
from vrbench.evaluation.ranked_store import begin_run
from vrbench.evaluation.ranks import SINGLE_PROCESS, Ranks
from vrbench.evaluation.run_config import RunConfig, shows_options
from vrbench.evaluation.run_plan import PlannedTask, RunPlan, checkpoint_names, plan
from vrbench.evaluation.shared_work import SharedWork

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vrbench.evaluation.built_task import RequestCache, SubtaskData
    from vrbench.evaluation.engine import InferenceEngine
    from vrbench.evaluation.run_config import RunOptions
    from vrbench.evaluation.task_scores import TaskScores
    from vrbench.tasks.spec import TaskSpec

_log = logging.getLogger(__name__)


@shows_options
def evaluate(ckpt: str | Path, tasks: str | Sequence[str], **options: Unpack[RunOptions]) -> Run:
    """Evaluate one checkpoint on some tasks.

    Args:
        ckpt: "pocket/full", a folder, or a hub id.
        tasks: ids, suites and globs, in one comma-separated text or a list.
        options: fields of `RunConfig` (`vrbench.Options`), such as `limit=8`.

    Returns:
        The run, which is also written to `out`: its record, whose fields are also attributes of the run (such as
        `run.results`), and its samples. Pass it to `compare`. A failed task has status "error".

    Raises:
        VrbenchError: all errors in the input, reported together before any weights are loaded.

    Example:
        >>> run = vrbench.evaluate("pocket/region", "pocket_mme,pocket_facts", limit=80, device="cpu")
        >>> [(result.task, result.score.value) for result in run.results]
        >>> run.to_pandas("pocket_mme").groupby("group").score.mean()
        >>> baseline = vrbench.evaluate("pocket/full", "pocket_mme,pocket_facts", limit=80, device="cpu")
        >>> vrbench.compare([run], baseline)
    """
    if options.get("tp"):
        raise VrbenchError("with tp only rank 0 has a run to return; use run_all, which returns none in the others")
    return run_all([ckpt], tasks, **options)[0]


def run_all(
    ckpts: str | Path | Sequence[str | Path],
    tasks: str | Sequence[str],
    baseline: str | Path | None = None,
    options: RunConfig | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    **changes: Unpack[RunOptions],
) -> list[Run]:
    """Evaluate several checkpoints on the same items, each loaded once, with all that they share computed once.

    Args:
        ckpts: each as in `evaluate`; a string is one checkpoint.
        tasks: as in `evaluate`.
        baseline: a checkpoint that is evaluated first.
        options: a `RunConfig` (`vrbench.Options`).
        ranks: which of how many processes this is; all but rank 0 return no run.
        changes: fields of `RunConfig`, such as `limit=8`, which override those of `options`.

    Returns:
        The baseline's run first, if there is a baseline, then the others in the order of `ckpts`, without duplicates.

    Raises:
        VrbenchError: all errors in the input, reported together before any weights are loaded.
        PartialFailureError: a checkpoint could not be loaded or evaluated; the error has the runs of the others.

    Example:
        >>> baseline, region = vrbench.run_all(["pocket/region"], "pocket_mme", baseline="pocket/full", limit=8)
        >>> vrbench.compare([region], baseline)
    """
    config = replace(options or RunConfig(), **changes)
    ranks = Ranks.of_environment(together=True) if config.tp else ranks
    return run_planned(plan(checkpoint_names(ckpts, baseline), tasks, config, ranks), baseline is not None)


def run_planned(run_plan: RunPlan, has_baseline: bool) -> list[Run]:
    """Evaluate the checkpoints of a plan; arguments, results and errors are as in `run_all`.

    Args:
        has_baseline: whether the first checkpoint is the baseline.
    """
    shared = SharedWork(run_plan.checkpoints)
    runs: list[Run] = []
    failed: list[Failure] = []
    if run_plan.ranks.rank:
        answer_shares(run_plan, shared)
        return []
    begin_run(map(run_plan.store_file, run_plan.checkpoints), run_plan.ranks)
    for checkpoint in run_plan.checkpoints:
        try:
            runs.append(_evaluate_checkpoint(run_plan, checkpoint, shared))
        except Exception as error:
            if len(run_plan.checkpoints) == 1:
                raise
            failed.append(failure_of(checkpoint.id, error))
        if failed or device_kind(run_plan.config.device) == "cuda":
            free_memory()
    if failed:
        first = run_plan.checkpoints[0].id
        raise PartialFailureError(runs, failed, has_baseline and any(one.checkpoint == first for one in failed))
    return runs


def _evaluate_checkpoint(run_plan: RunPlan, checkpoint: Checkpoint, shared: SharedWork) -> Run:
    """Evaluate one checkpoint, or read the run of the same inputs if it exists."""
    if (finished := run_plan.finished_run(checkpoint)) is not None:
        return finished
    start, started = time.perf_counter(), now()
    config, results, samples = run_plan.config, [], {}
    run_plan.warn_of_unused_answers(checkpoint)
    with loaded_engine(run_plan, checkpoint, shared) as engine:
        for task in run_plan.tasks:
            result, of_task = _run_task(task, engine, config, checkpoint, shared)
            results.append(result)
            if result.status == "ok":
                samples[result.task] = of_task
        vlm, answered = engine.vlm, engine.answered
    record = RunRecord(
        status="error" if any(result.status == "error" for result in results) else "ok",
        checkpoint=checkpoint.ref(),
        settings=run_plan.settings(checkpoint),
        inputs_digest=run_plan.inputs_digest(checkpoint),
        results=tuple(results),
        skipped=dict(run_plan.skipped),
        provenance=make_provenance(
            vlm.device_name,
            image_processor=vlm.image_processor_name,
            answered=answered,
            command=config.command,
            started=started,
            seconds=time.perf_counter() - start,
            images="; ".join(image_notes(checkpoint, config.image_settings)) if run_plan.shows_images else "",
        ),
    )
    save_run(run_plan.folder(checkpoint), record, samples)
    return Run(record=record, samples=samples, path=run_plan.folder(checkpoint))


def _run_task(
    task: PlannedTask, engine: InferenceEngine, config: RunConfig, checkpoint: Checkpoint, shared: SharedWork
) -> tuple[TaskResult, tuple[Sample, ...]]:
    """Return one task's result; an error that ends it is recorded, so that the other tasks still run."""
    spec, start = task.spec, time.perf_counter()
    computed, reused = engine.computed, engine.reused
    fields: dict[str, Any] = {**task_result.task_fields(task), "code": task_versions(checkpoint, spec)}
    samples: tuple[Sample, ...] = ()
    engine.truncated.clear()
    try:
        scores = evaluate_task(spec, task.subtasks, engine, f"{checkpoint.id} {spec.id}", shared.requests)
        fields |= task_result.score_fields(task, scores, config.seed)
        context = engine.vlm.context_length
        fields |= task_result.answer_fields(spec.scorer, scores.samples, engine.truncated, context, task.sixteen_bits)
        samples = scores.samples
    except Exception as error:
        os_errors.reraise_os_error(error)
        is_input_error = isinstance(error, VrbenchError)  # its message says everything; else the traceback is needed
        _log.error("task %s of %s failed", spec.id, checkpoint.id, exc_info=not is_input_error)
        fields |= {"status": "error", "error": str(error) if is_input_error else f"{type(error).__name__}: {error}"}
    fields |= {"asked": engine.computed - computed, "reused": engine.reused - reused}
    return TaskResult(**fields, seconds=round(time.perf_counter() - start, 3)), samples


def evaluate_task(
    spec: TaskSpec,
    subtasks: Sequence[SubtaskData],
    engine: InferenceEngine,
    title: str = "",
    cache: RequestCache | None = None,
) -> TaskScores:
    """Build a task's requests, answer them, and score the responses.

    Args:
        subtasks: the items that are used, at least one.
        title: label of the progress bar; the task's id if left out.
        cache: has the requests, if another checkpoint was asked the same.

    Raises:
        RuntimeError: our score over the samples is not the harness's aggregate.
    """
    from vrbench.evaluation.built_task import build_requests
    from vrbench.evaluation.task_scores import score_task

    build = cache.build_requests if cache else build_requests
    adapter, built, requests = build(spec, subtasks, engine.vlm)
    answers = iter(engine.answer(list(chain.from_iterable(requests)), title or spec.id))
    responses, asked = [], {}
    for (_, instance), instance_requests in zip(built.instances(), requests, strict=True):
        responses.append(adapter.response(instance, list(islice(answers, len(instance_requests)))))
        asked[id(instance)] = instance_requests
    prompt_digests = [adapter.prompt_digest(first, asked[id(first)]) for _, _, (first, *_) in built.items()]
    return score_task(built, responses, prompt_digests)
