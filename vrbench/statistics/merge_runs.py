"""Joining runs of one checkpoint, from different days or machines, into one run with the tasks of all."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vrbench.core.errors import raise_errors
from vrbench.core.io import digest_of
from vrbench.core.schemas import Run, TaskResult


def join(runs: Sequence[Run]) -> list[Run]:
    """Merge the runs of each checkpoint (by digest) into one, in the order in which the checkpoints first appear.

    If several runs have a task, the highest version is kept, and a successful result replaces a failed one; the merged
    run's `notes` list such cases. Its `joined` lists the source of each task; its provenance is that of the first run.

    Raises:
        VrbenchError: runs of one checkpoint differ in settings, or in data or scores of the same version of a task;
            all reported together.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.record.checkpoint.digest, []).append(run)
    errors = [error for group in groups.values() for error in _validate_settings(group)]
    kept = {digest: _select_results(group, errors) for digest, group in groups.items()}
    raise_errors(errors)
    return [group[0] if len(group) == 1 else _merge(group, *kept[digest]) for digest, group in groups.items()]


def _validate_settings(group: Sequence[Run]) -> list[str]:
    names = ("limit", "seed", "dtype", "image_settings", "backend")
    fields = {name: [getattr(run.record.settings, name) for run in group] for name in names}
    unequal = [f"{name} {' and '.join(map(str, dict.fromkeys(v)))}" for name, v in fields.items() if len(set(v)) > 1]
    if not unequal:
        return []
    return [f"runs of {_id(group)} cannot be joined, their settings differ: {', '.join(unequal)}"]


def _select_results(group: Sequence[Run], errors: list[str]) -> tuple[dict[str, Run], list[str]]:
    """Return task -> the run that it is taken from; and notes on results that were not taken."""
    kept: dict[str, Run] = {}
    notes: list[str] = []
    for run in group:
        for new in run.record.results:
            before = kept.setdefault(new.task, run)
            old = before.result(new.task)
            if _rank(new) > _rank(old):
                kept[new.task] = run
            if _rank(new) != _rank(old):
                notes.append(_superseded(*sorted((old, new), key=_rank)))
            elif before is not run and _content(run, new) != _content(before, old):
                what = f"{new.task} is in two of them in version {old.version!r} with other data or scores"
                errors.append(f"runs of {_id(group)} cannot be joined: {what}; leave out one")
    return kept, list(dict.fromkeys(notes))


def _rank(result: TaskResult) -> tuple[bool, list[int]]:
    return result.status == "ok", [int(number) for number in re.findall(r"\d+", result.version)]


def _superseded(lower: TaskResult, higher: TaskResult) -> str:
    if lower.status != higher.status:
        return f"{lower.task} failed in one run and is taken from another"
    return f"{lower.task} version {lower.version} is superseded by version {higher.version}"


def _content(run: Run, result: TaskResult) -> tuple[str, str, dict[str, tuple[float, str]]]:
    scores = {s.id: (s.score, s.unscored) for s in run.samples.get(result.task, ())}
    return result.version, result.data_digest, scores


def _merge(group: Sequence[Run], kept: dict[str, Run], notes: Sequence[str]) -> Run:
    first, inputs = group[0].record, sorted({run.record.inputs_digest for run in group})
    results = tuple(run.result(task) for task, run in kept.items())
    changes = {
        "status": "error" if any(r.status == "error" for r in results) else "ok",
        "settings": first.settings.model_copy(update={"tasks": tuple(sorted(kept))}),
        "inputs_digest": inputs[0] if len(inputs) == 1 else digest_of(inputs),
        "results": results,
        "skipped": {t: why for run in group for t, why in run.record.skipped.items() if t not in kept},
    }
    taken = [(run, tuple(task for task, source in kept.items() if source is run)) for run in group]
    return Run(
        record=first.model_copy(update=changes),
        samples={task: run.samples[task] for task, run in kept.items() if task in run.samples},
        path=group[0].path,
        joined=tuple(run.source(tasks) for run, tasks in taken if tasks),
        notes=tuple(notes),
    )


def _id(group: Sequence[Run]) -> str:
    return group[0].record.checkpoint.id
