"""A stranger's run: its record and the samples that the record says there are, all of them and nothing else."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import SCHEMA_VERSION, Lineage, Run, RunRecord, Sample, TaskResult
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.files import SAMPLES, SUFFIX, read_bytes
from vrbench.leaderboard.untrusted_input.names import safe_task
from vrbench.leaderboard.untrusted_input.parsing import read_record
from vrbench.leaderboard.untrusted_input.sample_rows import parse_samples, unpacked
from vrbench.leaderboard.untrusted_input.text import quoted


def read_run(files: Mapping[str, Path], rows: Mapping[str, int] | None = None, faults: list[str] | None = None) -> Run:
    """The strict and bounded reading of a run that `load_run` reads as one's own.

    Args:
        files: the folder's files, as `submission_files` gives them.
        rows: task -> samples that there may be, such as a board's number of items; a task that is not named may have
            `limits.ROWS`.
        faults: what is told of single files of samples is put here, if given, instead of being raised; the run then
            has the samples that could be read.

    Raises:
        VrbenchError: all faults at once: run.json or a file of samples that cannot be read, a task twice, samples that
            are missing, that belong to no task, or whose sha256 is not the record's.
    """
    file = files["run.json"]
    record = read_record(file, RunRecord)
    name = quoted(str(file), 200)
    raise_errors(f"{name} {fault}" for fault in _faults(record, files))
    found: list[str] = []
    samples = _samples(record, files, rows or {}, found)
    if faults is None:
        raise_errors(found)
    else:
        faults += found
    return Run(record=record, samples=samples, path=file.parent)


def _faults(record: RunRecord, files: Mapping[str, Path]) -> Iterator[str]:
    tasks = [result.task for result in record.results]
    for task in tasks:
        try:
            safe_task(task)
        except VrbenchError as error:
            yield str(error)
    yield from (f"has the task {quoted(task)} twice" for task, times in Counter(tasks).items() if times > 1)
    for lineage in _lineages(record.checkpoint.lineage):
        if lineage.schema_version != SCHEMA_VERSION:
            yield f"has a lineage of schema version {lineage.schema_version}; this vrbench reads {SCHEMA_VERSION}"
        yield from _depth_faults(lineage.depth or 1)  # 0 where it states none
        for step in lineage.steps:
            yield from _depth_faults(step.depth) or _layer_faults(step.layers, step.depth)
    yield from _depth_faults(record.checkpoint.depth)
    wanted = {_file_of(result) for result in record.results if result.status == "ok"}
    there = {file for file in files if file.startswith(f"{SAMPLES}/")}
    yield from (f"says that there is {quoted(file)}, which is missing" for file in sorted(wanted - there))
    yield from (f"has no result to which {quoted(file)} belongs" for file in sorted(there - wanted))


def _depth_faults(depth: int) -> list[str]:
    return [] if 1 <= depth <= limits.LAYERS else [f"has a depth of {depth:,} layers; 1 to {limits.LAYERS:,} are read"]


def _layer_faults(text: str, depth: int) -> list[str]:
    """Whether a step's layers can be read; a long text or a great depth would become a longer list."""
    try:
        if len(text) <= limits.LAYERS_TEXT and text.isascii():
            LayerSet.parse(text, depth)
            return []
    except VrbenchError:
        pass
    return [f"has the layers {quoted(text)}, which are not layers of a model of depth {depth}"]


def _samples(
    record: RunRecord, files: Mapping[str, Path], rows: Mapping[str, int], faults: list[str]
) -> dict[str, tuple[Sample, ...]]:
    """The samples of every task that ran through, as far as they can be read; all together they are bounded too."""
    samples: dict[str, tuple[Sample, ...]] = {}
    bytes_left, rows_left = limits.ALL_BYTES, limits.ALL_ROWS
    for result in record.results:
        if result.status != "ok":
            continue
        path = files[_file_of(result)]
        name = quoted(str(path), 200)
        try:
            packed = read_bytes(path, limits.PACKED_BYTES)
            content = unpacked(packed, min(limits.SAMPLE_BYTES, bytes_left), name)
            bytes_left -= len(content)
            if hashlib.sha256(content).hexdigest() != result.samples_digest:
                faults.append(f"{name} is not what the record says: its sha256 differs")
            samples[result.task] = parse_samples(content, min(rows.get(result.task, limits.ROWS), rows_left), name)
            rows_left -= len(samples[result.task])
        except VrbenchError as error:
            faults += error_messages(error)
    return samples


def _file_of(result: TaskResult) -> str:
    return f"{SAMPLES}/{result.task}{SUFFIX}"


def _lineages(lineages: tuple[Lineage, ...]) -> Iterator[Lineage]:
    for lineage in lineages:
        yield lineage
        yield from _lineages(lineage.history)
