"""Checkpoint x tasks -> RunRecord: the one walk that everything else serves."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.checkpoints.image_settings import image_notes
from vrbench.checkpoints.resolve import Checkpoint
from vrbench.core import os_errors, versions
from vrbench.core.device import device_name, is_out_of_memory
from vrbench.core.errors import MultipleErrors, VrbenchError, raise_errors
from vrbench.core.provenance import make_provenance, own_commit
from vrbench.core.run_storage import load_run, save_run
from vrbench.core.schemas import Run, RunRecord, Sample, TaskResult
from vrbench.evaluation import task_result
from vrbench.evaluation.run_plan import PlannedTask, RunConfig, RunOptions, RunPlan, plan

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vrbench.evaluation.backends import VisionFeatureCache
    from vrbench.evaluation.built_task import SubtaskData
    from vrbench.evaluation.engine import InferenceEngine
    from vrbench.evaluation.task_scores import TaskScores
    from vrbench.tasks.spec import TaskSpec

_log = logging.getLogger(__name__)


def evaluate(
    ckpt: str | Path,
    tasks: str | Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int | str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    data_root: str | Path | None = None,
    include_path: str | Path | None = None,
    out: str | Path = "runs",
    seed: int = 0,
    trust_remote_code: bool = False,
    image_settings: str = "harness",
    show_progress: bool = True,
    skip_missing: bool = False,
) -> Run:
    """Measure one checkpoint on some tasks.

    Args:
        ckpt: "pocket/full", a folder, or a hub id.
        tasks: ids, suites and globs, in one comma-separated text or a list.
        limit, batch_size, ...: what `RunConfig` says of them.

    Returns:
        The run, as it is also written to `out`: its record, whose fields are the run's too (`run.results`), and its
        samples. `compare` takes it. A task that died has status "error" in it.

    Raises:
        VrbenchError: every fault of the input that was found, at once, before weights are loaded.

    Example:
        >>> run = vrbench.evaluate("pocket/region", "pocket_mme,pocket_facts", limit=80, device="cpu")
        >>> [(result.task, result.score.value) for result in run.results]
        >>> run.to_pandas("pocket_mme").groupby("group").score.mean()
        >>> baseline = vrbench.evaluate("pocket/full", "pocket_mme,pocket_facts", limit=80, device="cpu")
        >>> vrbench.compare([run], baseline)
    """
    options = RunConfig(
        limit=limit,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        data_root=data_root,
        include_path=include_path,
        out=out,
        seed=seed,
        trust_remote_code=trust_remote_code,
        image_settings=image_settings,
        show_progress=show_progress,
        skip_missing=skip_missing,
    )
    return run_all([ckpt], tasks, options=options)[0]


@dataclass(frozen=True)
class Failure:
    """A checkpoint that could not be loaded or measured.

    Attributes:
        checkpoint: its id.
        reason: one sentence.
        is_ours: whether vrbench is at fault, and not the checkpoint, the memory or the disk.
    """

    checkpoint: str
    reason: str
    is_ours: bool


class SomeFailed(MultipleErrors):
    """Some of several checkpoints could not be measured; the others were, and their records are written.

    Attributes:
        runs: of the others, the baseline's first if it is there.
        failed: of those that could not be measured.
        baseline_failed: whether the baseline is among those, so that nothing can be compared.
    """

    def __init__(self, runs: Sequence[Run], failed: Sequence[Failure], baseline_failed: bool) -> None:
        self.runs, self.failed, self.baseline_failed = list(runs), tuple(failed), baseline_failed
        super().__init__(f"{one.checkpoint} could not be measured: {one.reason}" for one in failed)


def run_all(
    ckpts: str | Path | Sequence[str | Path],
    tasks: str | Sequence[str],
    baseline: str | Path | None = None,
    options: RunConfig | None = None,
    **changes: Unpack[RunOptions],
) -> list[Run]:
    """Measure several checkpoints on the same items, each loaded once, with vision features shared.

    Args:
        ckpts: each as in `evaluate`; a text is one checkpoint.
        tasks: as in `evaluate`.
        baseline: a checkpoint that is measured first.
        options: how to run.
        changes: fields of `RunConfig`, such as `limit=8`, in place of those of `options`.

    Returns:
        The baseline's run first, if one is named, then the others in the order of `ckpts`, each once.

    Raises:
        VrbenchError: every fault of the input that was found, at once, before weights are loaded.
        SomeFailed: a checkpoint could not be loaded or measured after all; the others were, and are in the error.

    Example:
        >>> baseline, region = vrbench.run_all(["pocket/region"], "pocket_mme", baseline="pocket/full", limit=8)
        >>> vrbench.compare([region], baseline)
    """
    from vrbench.evaluation.backends import VisionFeatureCache

    named = [ckpts] if isinstance(ckpts, (str, Path)) else list(ckpts)
    raise_errors(
        f"{one!r} names no checkpoint; give a text or a path (one to `evaluate`, a list to `run_all`)"
        for one in (*named, *([baseline] if baseline else []))
        if not isinstance(one, (str, Path))
    )
    names = list(dict.fromkeys(map(str, [baseline, *named] if baseline else named)))
    if not names:
        raise VrbenchError("no checkpoint was named")
    if baseline and len(names) == 1:
        raise VrbenchError(f"baseline {baseline!r} is the only checkpoint; name another one to compare with it")
    made = plan(names, tasks, replace(options or RunConfig(), **changes))
    features = VisionFeatureCache()
    runs: list[Run] = []
    failed: list[Failure] = []
    for checkpoint in made.checkpoints:
        try:
            runs.append(_run(made, checkpoint, features))
        except Exception as error:
            if len(made.checkpoints) == 1:
                raise
            failed.append(_failure(checkpoint.id, error))
        if failed:
            _free_memory()
    if failed:
        first = made.checkpoints[0].id
        raise SomeFailed(runs, failed, baseline is not None and any(one.checkpoint == first for one in failed))
    return runs


def _failure(name: str, error: Exception) -> Failure:
    """What is kept of an error: its text, since its traceback would hold the weights in memory."""
    if isinstance(error, VrbenchError):
        return Failure(name, str(error), is_ours=False)
    if is_out_of_memory(error):
        return Failure(name, f"it does not fit into memory ({type(error).__name__}: {error})", is_ours=False)
    _log.exception("checkpoint %s could not be measured", name)
    return Failure(name, f"{type(error).__name__}: {error}", is_ours=True)


def _free_memory() -> None:
    """Let go of what a checkpoint that failed has left on the device."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _run(made: RunPlan, checkpoint: Checkpoint, features: VisionFeatureCache) -> Run:
    """Measure one checkpoint, or read the run of the same inputs if it is there and whole."""
    folder = made.folder(checkpoint)
    found = _whole_run(made, checkpoint)
    if found is not None:
        return _with_skipped(found, made)
    from vrbench.evaluation.answer_store import AnswerStore
    from vrbench.evaluation.engine import InferenceEngine
    from vrbench.models.load import load_vlm

    started, start = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
    options = made.options
    _tell_of_unused_answers(made, checkpoint)
    own_commit()  # before the weights are loaded: what is committed while it runs did not compute the answers
    vlm = load_vlm(checkpoint, options.device, options.dtype, images=options.image_settings)
    answered: list[TaskResult] = []
    samples: dict[str, tuple[Sample, ...]] = {}
    with AnswerStore(made.store(checkpoint), checkpoint.digest) as store:
        answerer = InferenceEngine(vlm, store, options.batch_size, features, options.show_progress)
        for job in made.jobs:
            result, rows = _task(job, answerer, options, checkpoint)
            answered.append(result)
            if result.status == "ok":
                samples[job.spec.id] = rows
        by = answerer.answered
    record = RunRecord(
        status="error" if any(result.status == "error" for result in answered) else "ok",
        checkpoint=checkpoint.ref(),
        settings=made.settings(checkpoint),
        inputs_digest=made.inputs_digest(checkpoint),
        results=tuple(answered),
        skipped=dict(made.skipped),
        provenance=make_provenance(
            device_name(vlm.device),
            image_processor=vlm.image_processor_name,
            answered=by,
            command=options.command,
            started=started,
            seconds=time.perf_counter() - start,
            images="; ".join(image_notes(checkpoint, options.image_settings)) if made.shows_images else "",
        ),
    )
    save_run(folder, record, samples)
    return Run(record=record, samples=samples, path=folder)


def _with_skipped(found: Run, made: RunPlan) -> Run:
    """A run that was read, whose record says of this call what was left out: that is no input of the run."""
    if found.record.skipped == made.skipped or found.path is None:
        return found
    record = found.record.model_copy(update={"skipped": dict(made.skipped)})
    save_run(found.path, record, found.samples)
    return found.model_copy(update={"record": record})


def _whole_run(made: RunPlan, checkpoint: Checkpoint) -> Run | None:
    """The run of the same inputs, if it ended well and its files are those that it wrote."""
    try:
        found = load_run(made.folder(checkpoint))
    except VrbenchError:
        return None
    same = found.record.inputs_digest == made.inputs_digest(checkpoint)
    older = any(not sample.responses for rows in found.samples.values() for sample in rows)
    return found if same and found.record.status == "ok" and not older else None


def _tell_of_unused_answers(made: RunPlan, checkpoint: Checkpoint) -> None:
    """Say once that answers of vrbench 0.2.0 lie beside the new ones and are not used."""
    from vrbench.evaluation.answer_store import older_store_file

    older = older_store_file(made.answers, checkpoint.digest)
    if older is not None and not made.store(checkpoint).exists():
        _log.warning(
            "vrbench: the answers in %s do not say which libraries and code computed them, so they are computed anew; "
            "the file is kept, and may be deleted",
            older,
        )


def _task(
    job: PlannedTask, answerer: InferenceEngine, options: RunConfig, checkpoint: Checkpoint
) -> tuple[TaskResult, tuple[Sample, ...]]:
    """One task's result; what kills it is recorded, so that the others go on."""
    spec, name, start = job.spec, checkpoint.id, time.perf_counter()
    asked, reused = answerer.computed, answerer.reused
    about = {**task_result.task_fields(job), "code": versions.of_task(checkpoint, spec)}
    samples: tuple[Sample, ...] = ()
    answerer.truncated.clear()
    try:
        outcome = evaluate_task(spec, job.parts, answerer, f"{name} {spec.id}")
        about |= task_result.score_fields(job, outcome, options.seed)
        context = answerer.vlm.context_length
        about |= task_result.answer_fields(spec.scorer, outcome.samples, answerer.truncated, context, job.sixteen_bits)
        samples = outcome.samples
    except Exception as error:
        os_errors.reraise_os_error(error)
        foreseen = isinstance(error, VrbenchError)  # a sentence that says it all; else the traceback is wanted
        _log.error("task %s of %s died", spec.id, name, exc_info=not foreseen)
        about |= {"status": "error", "error": str(error) if foreseen else f"{type(error).__name__}: {error}"}
    about |= {"seconds": _since(start), "asked": answerer.computed - asked, "reused": answerer.reused - reused}
    return TaskResult(**about), samples


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)


def evaluate_task(
    spec: TaskSpec, subtasks: Sequence[SubtaskData], engine: InferenceEngine, title: str = ""
) -> TaskScores:
    """Build a task's requests, answer them, and score the responses.

    Args:
        subtasks: the items that are used, at least one.
        title: label of the progress bar; the task's id if left out.

    Raises:
        RuntimeError: our score over the samples is not the harness's aggregate.
    """
    from vrbench.evaluation.built_task import build_task
    from vrbench.evaluation.harness_adapter import adapter_of
    from vrbench.evaluation.task_scores import score_task

    adapter, built = adapter_of(spec), build_task(spec, subtasks, engine.vlm.prompt_format.lmms_model_name)
    builder, instances = adapter.request_builder(engine.vlm), built.instances()
    requests = [builder.requests(task, instance) for task, instance in instances]
    answers = iter(engine.answer([request for of in requests for request in of], title or spec.id))
    responses = [
        builder.response(instance, [next(answers) for _ in of])
        for (_, instance), of in zip(instances, requests, strict=True)
    ]
    digests = [adapter.prompt_digest(instance, of) for (_, instance), of in zip(instances, requests, strict=True)]
    return score_task(built, responses, digests)
