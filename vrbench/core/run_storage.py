"""Runs on disk: saving, loading with every digest checked, and reduction to what statistics need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from vrbench.core.errors import VrbenchError
from vrbench.core.io import canonical_json, gunzip_file, gzip_text, parse_file, write_atomically
from vrbench.core.memory import pause_garbage_collection
from vrbench.core.schemas import SCHEMA_VERSION, Record, Run, RunRecord, Sample, TaskResult

R = TypeVar("R", bound=Record)

MAX_SAMPLE_BYTES = 256 * 2**20
"""A compressed file of samples that holds more is not unpacked; 100,000 items with short answers take some 30 MiB."""

MAX_RUNS_LISTED = 12
"""Runs below a folder that are named where a run was asked for."""


def samples_to_jsonl(samples: Iterable[Sample]) -> str:
    """Return JSON lines, one sample a line, in the given order."""
    return "".join(canonical_json(vars(s)) + "\n" for s in samples)


def save_run(folder: Path, record: RunRecord, samples: dict[str, tuple[Sample, ...]], compressed: bool = False) -> Path:
    """Write samples first and `run.json` last; return the path of `run.json`.

    Args:
        compressed: write samples as .jsonl.gz; the record and its digests are the same.
    """
    for task, rows in samples.items():
        plain = folder / "samples" / f"{task}.jsonl"
        packed = plain.with_name(f"{plain.name}.gz")
        kept, other = (packed, plain) if compressed else (plain, packed)
        text = samples_to_jsonl(rows)
        write_atomically(kept, gzip_text(text) if compressed else text)
        other.unlink(missing_ok=True)
    path = folder / "run.json"
    write_atomically(path, record.model_dump_json(indent=1) + "\n")
    return path


def scores_only(record: RunRecord, samples: dict[str, tuple[Sample, ...]]) -> Run:
    """Return a run without prompts and answers: what statistics need, in a tenth of the space."""
    emptied = {"answer": "", "target": "", "loglikelihoods": (), "responses": (), "prompt_digest": ""}
    kept = {task: tuple(sample.model_copy(update=emptied) for sample in rows) for task, rows in samples.items()}
    digests = {task: hashlib.sha256(samples_to_jsonl(rows).encode()).hexdigest() for task, rows in kept.items()}
    results = tuple(
        result.model_copy(update={"samples_digest": digests.get(result.task, result.samples_digest)})
        for result in record.results
    )
    return Run(record=record.model_copy(update={"results": results}), samples=kept)


def load_run(path: str | Path) -> Run:
    """Read a run from its folder or its `run.json`, checking the samples against their digests.

    For untrusted runs use `vrbench.leaderboard.untrusted_input`, which limits sizes.

    Raises:
        VrbenchError: no such run, a record of another schema version, or samples that do not match the record.
    """
    folder = Path(path)
    folder = folder.parent if folder.name == "run.json" else folder
    file = folder / "run.json"
    if not file.is_file():
        raise VrbenchError(f"no run at {str(path)!r}; {_runs_below(folder)}")
    record = read_record(file, RunRecord)
    with pause_garbage_collection():
        samples = {r.task: _load_samples(folder, r) for r in record.results if r.status == "ok"}
    return Run(record=record, samples=samples, path=folder)


def read_record(file: Path, kind: type[R], needs_version: bool = True) -> R:
    """Read a record from its JSON file.

    Args:
        needs_version: whether `schema_version` must be stated.

    Raises:
        VrbenchError: it is not JSON, of another schema version, or not a record of this kind.
    """
    raw = parse_file(file)
    default = None if needs_version else SCHEMA_VERSION
    version = raw.get("schema_version", default) if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise VrbenchError(f"{file} has schema version {version}; this vrbench reads {SCHEMA_VERSION}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise VrbenchError(f"{file} cannot be read: {_first_error(error)}") from error


def _runs_below(folder: Path) -> str:
    """Return what to name instead of a folder that is not a run: the runs one or two folders below, if any."""
    found = sorted(file.parent for pattern in ("*/run.json", "*/*/run.json") for file in folder.glob(pattern))
    if not found:
        return "a run is a folder with run.json, as `vrbench run` writes it"
    more = f", and {len(found) - MAX_RUNS_LISTED} more" if len(found) > MAX_RUNS_LISTED else ""
    return f"name one of the runs below it: {', '.join(map(str, found[:MAX_RUNS_LISTED]))}{more}"


def _load_samples(folder: Path, result: TaskResult) -> tuple[Sample, ...]:
    file = folder / "samples" / f"{result.task}.jsonl"
    packed = file.with_name(f"{file.name}.gz")
    if not file.is_file() and not packed.is_file():
        raise VrbenchError(f"{file} is missing; the record says it should be there")
    content = file.read_bytes() if file.is_file() else gunzip_file(packed, MAX_SAMPLE_BYTES)
    if hashlib.sha256(content).hexdigest() != result.samples_digest:
        raise VrbenchError(f"{file} is not what the record says: its sha256 differs")
    samples: list[Sample] = []
    read = Sample.__pydantic_validator__.validate_json  # a fifth faster than the method around it
    try:
        for line in content.splitlines():
            samples.append(read(line))
    except ValidationError as error:
        raise VrbenchError(f"{file} line {len(samples) + 1} is not a sample: {_first_error(error)}") from error
    return tuple(samples)


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}"
