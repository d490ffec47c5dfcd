"""Untrusted submissions: the records of a folder, the samples that they name, and nothing else."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import SCHEMA_VERSION, Lineage, Run, RunRecord, Sample
from vrbench.leaderboard.schema import Submission
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.files import (
    RECIPE_FILE,
    RUN_FILE,
    SAMPLES,
    SUBMISSION_FILE,
    SUFFIX,
    attempt,
    decode,
    quote_path,
    read_bytes,
    read_text,
    submission_files,
)
from vrbench.leaderboard.untrusted_input.parsing import (
    parse_json,
    parse_record,
    parse_yaml,
    read_record,
    validate_strictly,
)
from vrbench.leaderboard.untrusted_input.text import safe_task, sanitize_for_message

MAX_LINE_ERRORS = 5
"""Lines of one file whose errors are listed; the lines after them are not read."""


@dataclass(frozen=True)
class SubmissionContent:
    """The content of a submission's folder; none of it is verified yet."""

    folder: Path
    submission: Submission
    run: Run
    recipe: str
    """Text of recipe.yaml, to be shown and never run; empty if there is none."""


def read_submission(
    folder: Path, max_rows: Mapping[str, int] | None = None, with_samples: bool = True
) -> SubmissionContent:
    """Read a submission's folder, each file once, within the limits.

    Args:
        folder: `<org>__<name>/<revision>`; whether its name follows from its content is not checked.
        max_rows: task -> samples that there may be, such as the board's number of items.
        with_samples: whether to read the samples.

    Raises:
        VrbenchError: all errors of all files at once.
    """
    content, errors = try_read_submission(folder, max_rows, with_samples)
    raise_errors(errors)
    assert content is not None  # else there were errors
    return content


def try_read_submission(
    folder: Path, max_rows: Mapping[str, int] | None = None, with_samples: bool = True
) -> tuple[SubmissionContent | None, list[str]]:
    """Read a submission as `read_submission` does; return what could be read, and the errors.

    The content is None without its two records; it may lack samples.
    """
    errors: list[str] = []
    files = attempt(lambda: submission_files(folder), errors)
    if files is None:
        return None, errors
    submission = attempt(lambda: read_record(files[SUBMISSION_FILE], Submission), errors)
    found = attempt(lambda: _read_record_of_run(files), errors)
    run = Run(record=found[0], samples={}, path=folder) if found else None
    if run is not None and with_samples:
        run = run.model_copy(update={"samples": _read_all_samples(run.record, files, max_rows or {}, errors)})
    recipe = attempt(lambda: read_recipe(files[RECIPE_FILE]) if RECIPE_FILE in files else "", errors)
    if submission and found and found[1] != submission.run_digest:
        name = quote_path(files[RUN_FILE])
        errors.append(f"{name} is not the one that {SUBMISSION_FILE} names: its sha256 differs")
    if submission is None or run is None:
        return None, errors
    return SubmissionContent(folder, submission, run, recipe or ""), errors


def read_run(files: Mapping[str, Path], max_rows: Mapping[str, int] | None = None) -> Run:
    """Read an untrusted run, as `load_run` reads a trusted one.

    Args:
        files: the folder's files, from `submission_files`.
        max_rows: task -> samples that there may be; a task that is not named may have `limits.ROWS`.

    Raises:
        VrbenchError: all errors at once: run.json or a file of samples that cannot be read, a task twice, samples that
            are missing, belong to no task, or have another sha256 than the record says.
    """
    errors: list[str] = []
    record, _ = _read_record_of_run(files)
    samples = _read_all_samples(record, files, max_rows or {}, errors)
    raise_errors(errors)
    return Run(record=record, samples=samples, path=files[RUN_FILE].parent)


def _read_record_of_run(files: Mapping[str, Path]) -> tuple[RunRecord, str]:
    """The record in run.json, and the file's sha256."""
    file = files[RUN_FILE]
    content, name = read_bytes(file), quote_path(file)
    record = parse_record(decode(content, name), RunRecord, name)
    raise_errors(f"{name} {error}" for error in _validate_record(record, files))
    return record, hashlib.sha256(content).hexdigest()


def read_recipe(path: Path) -> str:
    """Return the text of a recipe, which is valid YAML; see `read_bytes` and `parse_yaml`."""
    text = read_text(path, limits.YAML_BYTES)
    parse_yaml(text, quote_path(path))
    return text


def _validate_record(record: RunRecord, files: Mapping[str, Path]) -> Iterator[str]:
    errors: list[str] = []
    tasks = [result.task for result in record.results]
    for task in tasks:
        attempt(lambda task=task: safe_task(task), errors)  # type: ignore[misc]
    yield from errors
    yield from (f"has the task {sanitize_for_message(t)} twice" for t, times in Counter(tasks).items() if times > 1)
    for lineage in _all_lineages(record.checkpoint.lineage):
        if lineage.schema_version != SCHEMA_VERSION:
            yield f"has a lineage of schema version {lineage.schema_version}; this vrbench reads {SCHEMA_VERSION}"
        yield from _validate_depth(lineage.depth or 1)  # 0 where it states none
        for step in lineage.steps:
            yield from _validate_depth(step.depth) or _validate_layers(step.layers, step.depth)
    yield from _validate_depth(record.checkpoint.depth)
    expected = {_sample_file(result.task) for result in record.results if result.status == "ok"}
    present = {file for file in files if file.startswith(f"{SAMPLES}/")}
    yield from (f"names {sanitize_for_message(file)}, which is missing" for file in sorted(expected - present))
    yield from (f"has no result for {sanitize_for_message(file)}" for file in sorted(present - expected))


def _validate_depth(depth: int) -> list[str]:
    return [] if 1 <= depth <= limits.LAYERS else [f"has a depth of {depth:,} layers; 1 to {limits.LAYERS:,} are read"]


def _validate_layers(text: str, depth: int) -> list[str]:
    """Whether a step's layers can be parsed; a long text would become a longer list."""
    is_short = len(text) <= limits.LAYERS_TEXT and text.isascii()
    if is_short and attempt(lambda: LayerSet.parse(text, depth), []) is not None:
        return []
    return [f"has the layers {sanitize_for_message(text)}, which are not layers of a model of depth {depth}"]


def _all_lineages(lineages: tuple[Lineage, ...]) -> Iterator[Lineage]:
    for lineage in lineages:
        yield lineage
        yield from _all_lineages(lineage.history)


def _sample_file(task: str) -> str:
    return f"{SAMPLES}/{task}{SUFFIX}"


def _read_all_samples(
    record: RunRecord, files: Mapping[str, Path], max_rows: Mapping[str, int], errors: list[str]
) -> dict[str, tuple[Sample, ...]]:
    """The samples of every finished task, as far as they can be read; their total is limited too."""
    samples: dict[str, tuple[Sample, ...]] = {}
    bytes_left, rows_left = limits.ALL_BYTES, limits.ALL_ROWS
    for result in record.results:
        if result.status != "ok":
            continue
        path = files[_sample_file(result.task)]
        name = quote_path(path)
        try:
            content = decompress(read_bytes(path, limits.PACKED_BYTES), min(limits.SAMPLE_BYTES, bytes_left), name)
            bytes_left -= len(content)
            if hashlib.sha256(content).hexdigest() != result.samples_digest:
                errors.append(f"{name} is not what the record says: its sha256 differs")
            rows = parse_samples(content, min(max_rows.get(result.task, limits.ROWS), rows_left), name)
            rows_left -= len(rows)
            samples[result.task] = rows
        except VrbenchError as error:
            errors += error_messages(error)
    return samples


def decompress(packed: bytes, max_bytes: int, name: str) -> bytes:
    """Return the content of a gzip file of one member; no more than `max_bytes` are ever decompressed.

    Raises:
        VrbenchError: it is not gzip, incomplete or too large, or something follows its end.
    """
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = stream.decompress(packed, max_bytes + 1)
    except zlib.error as error:
        raise VrbenchError(f"{name} is not gzip: {error}") from error
    if len(content) > max_bytes:
        raise VrbenchError(f"{name} holds more than {max_bytes:,} bytes, the most that are decompressed")
    if not stream.eof:
        raise VrbenchError(f"{name} is cut off: its gzip has no end")
    if stream.unused_data:
        raise VrbenchError(f"{name} has {len(stream.unused_data):,} bytes after the end of its gzip")
    return content


def parse_samples(content: bytes, max_rows: int, name: str) -> tuple[Sample, ...]:
    """Return samples from their JSON lines.

    Raises:
        VrbenchError: too many or too long lines, a line that is no sample with exactly the declared types, a duplicate
            id, or too many numbers; of the first `MAX_LINE_ERRORS` lines with errors.
    """
    rows: list[Sample] = []
    errors: list[str] = []
    seen: set[str] = set()
    numbers = 0

    def stop_if(reached: bool, reason: str) -> None:
        if reached:
            raise_errors([*errors, f"{name} {reason}"])

    for place, line in enumerate(_lines(content), 1):
        stop_if(place > max_rows, f"has more than {max_rows:,} samples")
        stop_if(len(line) > limits.LINE_BYTES, f"line {place} has more than {limits.LINE_BYTES:,} bytes")
        row = attempt(lambda line=line, place=place: _parse_sample(line, f"{name} line {place}"), errors)  # type: ignore[misc]
        if row is not None and row.id in seen:
            errors.append(f"{name} line {place} has a duplicate sample id, {sanitize_for_message(row.id)}")
        stop_if(len(errors) >= MAX_LINE_ERRORS, f"is not read beyond line {place}")
        if row is not None:
            seen.add(row.id)
            rows.append(row)
            numbers += len(row.loglikelihoods) + len(row.responses)
            stop_if(numbers > limits.NUMBERS, f"has more than {limits.NUMBERS:,} log-likelihoods")
    raise_errors(errors)
    return tuple(rows)


def _parse_sample(line: bytes, name: str) -> Sample:
    parse_json(decode(line, name), name)
    return validate_strictly(line, Sample, name)


def _lines(content: bytes) -> Iterator[bytes]:
    """Lines one by one, so that a file of line feeds does not become a list."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield content[start:end]
        start = end + 1
