"""Runs made of chance, for tests of what is concluded from runs: no model, known rates."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from vrbench.core.io import digest_of
from vrbench.core.run_storage import samples_to_jsonl, save_run
from vrbench.core.schemas import CheckpointRef, Provenance, Run, RunRecord, RunSettings, Sample, TaskResult
from vrbench.statistics import bootstrap
from vrbench.tasks import metrics


def samples(
    scores: Any, cluster: int = 1, groups: tuple[str, ...] = ("",), weight: float = 1.0, unit: int | None = None
) -> tuple[Sample, ...]:
    """One sample a score; items are clustered in order, groups go round cluster by cluster."""
    return tuple(
        Sample(
            id=str(i),
            cluster=str(i // cluster),
            group=groups[i // cluster % len(groups)],
            unit=str(i // (unit or cluster)),
            score=float(s),
            weight=weight,
            prompt_digest=digest_of(i),
        )
        for i, s in enumerate(scores)
    )


def result(task: str, suite: str, metric: str, rows: tuple[Sample, ...], **fields: Any) -> TaskResult:
    """The record of one task that went well."""
    figure = bootstrap.score(metric, rows)
    known: dict[str, Any] = {
        "version": "1",
        "status": "ok",
        "higher_is_better": metrics.METRICS[metric].higher_is_better,
        "n": figure.n,
        "n_unscored": sum(bool(s.unscored) for s in rows),
        "score": figure,
        "data_digest": digest_of([s.id for s in rows]),
        "samples_digest": hashlib.sha256(samples_to_jsonl(rows).encode()).hexdigest(),
    }
    return TaskResult(task=task, suite=suite, metric=metric, **(known | fields))


def run(name: str, tasks: dict[str, tuple[str, str, tuple[Sample, ...]]], **settings: Any) -> Run:
    """A run of a checkpoint from task -> (suite, metric, samples)."""
    results = tuple(result(t, *parts) for t, parts in tasks.items())
    record = RunRecord(
        status="ok",
        checkpoint=CheckpointRef(id=name, digest=digest_of(name), family="llava", depth=30),
        settings=RunSettings(tasks=tuple(sorted(tasks)), **settings),
        inputs_digest=digest_of([name, sorted(tasks), settings]),
        results=results,
        provenance=Provenance(vrbench="0"),
    )
    return Run(record=record, samples={t: parts[2] for t, parts in tasks.items()})


def changed(base: Run, **fields: Any) -> Run:
    """The run with every result's fields changed."""
    results = tuple(r.model_copy(update=fields) for r in base.record.results)
    return base.model_copy(update={"record": base.record.model_copy(update={"results": results})})


def flipped(scores: Any, lost: float, gained: float, seed: int) -> Any:
    """0/1 scores of which shares of the right and of the wrong are changed."""
    rng = np.random.default_rng(seed)
    u = rng.random(len(scores))
    return np.where(scores == 1, u >= lost, u < gained).astype(float)


def saved(folder: Path, made: Run) -> Path:
    """Write a run as `vrbench run` does."""
    save_run(folder, made.record, made.samples)
    return folder
