"""Checkpoint x tasks -> RunRecord: the one walk that everything else serves."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench import metrics
from vrbench.checkpoint import Checkpoint
from vrbench.errors import VrbenchError
from vrbench.plan import Job, Options, Plan, plan
from vrbench.provenance import installed, provenance
from vrbench.records import (
    Run,
    RunRecord,
    Sample,
    TaskResult,
    load_run,
    samples_text,
    save_run,
    unscored_note,
)
from vrbench.registry import TaskSpec

if TYPE_CHECKING:
    from vrbench.engine.answering import Answerer
    from vrbench.engine.features import FeatureCache
    from vrbench.engine.harness import Outcome

_log = logging.getLogger(__name__)


def evaluate(
    ckpt: str,
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
    show_progress: bool = True,
) -> RunRecord:
    """Measure one checkpoint on some tasks; the options are those of `Options`.

    Args:
        ckpt: "pocket/full", a folder, or a hub id.
        tasks: ids, suites and globs, in one comma-separated text or a list.

    Returns:
        The record, which is also written to `out`; a task that died has status "error" in it.

    Raises:
        VrbenchError: every fault of the input that was found, at once, before weights are loaded.
    """
    options = Options(
        limit=limit,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        data_root=data_root,
        include_path=include_path,
        out=out,
        seed=seed,
        trust_remote_code=trust_remote_code,
        show_progress=show_progress,
    )
    return run_all([ckpt], tasks, options=options)[0].record


def run_all(
    ckpts: Sequence[str], tasks: str | Sequence[str], baseline: str | None = None, options: Options | None = None
) -> list[Run]:
    """Measure several checkpoints on the same items, each loaded once, with vision features shared.

    Returns:
        The baseline's run first, if one is named, then the others in the order of `ckpts`, each once.

    Raises:
        VrbenchError: every fault of the input that was found, at once, before weights are loaded.
    """
    from vrbench.engine.features import FeatureCache

    names = list(dict.fromkeys([baseline, *ckpts] if baseline else ckpts))
    if not names:
        raise VrbenchError("no checkpoint was named")
    if baseline and len(names) == 1:
        raise VrbenchError(f"baseline {baseline!r} is the only checkpoint; name another one to compare with it")
    made = plan(names, tasks, options or Options())
    features = FeatureCache()
    return [_run(made, checkpoint, features) for checkpoint in made.checkpoints]


def _run(made: Plan, checkpoint: Checkpoint, features: FeatureCache) -> Run:
    """Measure one checkpoint, or read the run of the same inputs if it is there and whole."""
    folder = made.folder(checkpoint)
    found = _whole_run(made, checkpoint)
    if found is not None:
        return found
    from vrbench.engine.answering import Answerer
    from vrbench.engine.store import AnswerStore
    from vrbench.models.load import load_vlm

    started, start = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
    options = made.options
    vlm = load_vlm(checkpoint, options.device, options.dtype)
    results: list[TaskResult] = []
    samples: dict[str, tuple[Sample, ...]] = {}
    with AnswerStore(made.store(checkpoint), checkpoint.digest) as store:
        answerer = Answerer(vlm, store, options.batch_size, features, options.show_progress)
        for job in made.jobs:
            result, rows = _task(job, answerer, options, checkpoint.id)
            results.append(result)
            if result.status == "ok":
                samples[job.spec.id] = rows
    record = RunRecord(
        status="error" if any(result.status == "error" for result in results) else "ok",
        checkpoint=checkpoint.ref(),
        settings=made.settings,
        inputs_digest=made.inputs_digest(checkpoint),
        results=tuple(results),
        provenance=provenance(vlm, command=options.command, started=started, seconds=time.perf_counter() - start),
    )
    save_run(folder, record, samples)
    return Run(record=record, samples=samples, path=folder)


def _whole_run(made: Plan, checkpoint: Checkpoint) -> Run | None:
    """The run of the same inputs, if it ended well and its files are those that it wrote."""
    try:
        found = load_run(made.folder(checkpoint))
    except VrbenchError:
        return None
    same = found.record.inputs_digest == made.inputs_digest(checkpoint)
    older = any(not sample.responses for rows in found.samples.values() for sample in rows)
    return found if same and found.record.status == "ok" and not older else None


def _task(job: Job, answerer: Answerer, options: Options, name: str) -> tuple[TaskResult, tuple[Sample, ...]]:
    """One task's result; what kills it is recorded, so that the others go on."""
    from vrbench.engine import harness

    spec, before, start = job.spec, answerer.asked, time.perf_counter()
    about: dict[str, Any] = {
        "task": spec.id,
        "suite": spec.suite,
        "version": spec.version,
        "metric": spec.metric,
        "higher_is_better": spec.higher_is_better,
        "chance": spec.chance,
        "harness": f"{spec.harness} {installed(spec.harness)}",
        "fewshot": spec.fewshot,
        "data": job.origin,
        "data_digest": job.digest,
        "definition_digest": job.definition_digest,
    }
    try:
        outcome = harness.run(spec, job.parts, answerer, f"{name} {spec.id}")
        about |= _scores(job, outcome, options.seed)
    except Exception as error:
        _log.exception("task %s of %s died", spec.id, name)
        about |= {"status": "error", "error": f"{type(error).__name__}: {error}"}
        return TaskResult(**about, seconds=_since(start), asked=answerer.asked - before), ()
    return TaskResult(**about, seconds=_since(start), asked=answerer.asked - before), outcome.samples


def _scores(job: Job, outcome: Outcome, seed: int) -> dict[str, Any]:
    """What a result says of the scores: figures, counts, and what a reader must know of them."""
    spec, samples = job.spec, outcome.samples
    score = metrics.score(spec.metric, samples, seed)
    groups = sorted({sample.group for sample in samples})
    missing = spec.missing_groups(groups)
    complete = len(samples) == job.available == spec.n and not missing
    return {
        "status": "ok",
        "n": score.n,
        "n_unscored": len(samples) - score.n,
        "score": score,
        "groups": metrics.score_groups(spec.metric, samples, seed) if len(groups) > 1 else {},
        "complete": complete,
        "note": _note(job, len(samples), len(samples) - score.n, missing),
        "official": _official(spec, outcome, complete),
        "samples_digest": hashlib.sha256(samples_text(samples).encode()).hexdigest(),
    }


def _note(job: Job, n: int, unscored: int, missing: Sequence[str]) -> str:
    spec = job.spec
    said = [told] if (told := unscored_note(unscored, n)) else []
    if n != job.available:
        said.append(f"{n} of {job.available} items, by --limit")
    if job.available != spec.n:
        said.append(f"{job.available} of the {spec.n} items of the full set are there")
    if missing:
        said.append(f"missing: {', '.join(missing)}, so there are no totals")
    return "; ".join(said)


def _official(spec: TaskSpec, outcome: Outcome, complete: bool) -> dict[str, float]:
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


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
