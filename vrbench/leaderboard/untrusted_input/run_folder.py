"""Untrusted runs: the record of a folder, the samples that it names, and nothing else."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from vrbench.core.errors import VrbenchError, collect_errors, raise_errors
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import SCHEMA_VERSION, Lineage, RunRecord, Sample
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.files import (
    RUN_FILE,
    SAMPLES,
    attempt,
    decode,
    quote_path,
    read_bytes,
    read_text,
    sample_file,
)
from vrbench.leaderboard.untrusted_input.parsing import parse_json, parse_record, parse_yaml, validate_strictly
from vrbench.leaderboard.untrusted_input.text import safe_task, sanitize_for_message

MAX_LINE_ERRORS = 5
"""Lines of one file whose errors are listed; the lines after them are not read."""


def read_run_record(files: Mapping[str, Path]) -> tuple[RunRecord, str]:
    """Read the record in run.json; return it with the file's sha256.

    Args:
        files: the folder's files, from `submission_files`.

    Raises:
        VrbenchError: it is not valid, or does not fit the other files of the folder.
    """
    content, name = read_bytes(files[RUN_FILE]), quote_path(files[RUN_FILE])
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
    tasks = Counter(result.task for result in record.results)
    for task in tasks:
        with collect_errors(errors):
            safe_task(task)
    yield from errors
    yield from (f"has the task {sanitize_for_message(task)} twice" for task, times in tasks.items() if times > 1)
    for lineage in _all_lineages(record.checkpoint.lineage):
        if lineage.schema_version != SCHEMA_VERSION:
            yield f"has a lineage of schema version {lineage.schema_version}; this vrbench reads {SCHEMA_VERSION}"
        yield from _validate_depth(lineage.depth or 1)  # 0 where it states none
        for step in lineage.steps:
            yield from _validate_depth(step.depth) or _validate_layers(step.layers, step.depth)
    yield from _validate_depth(record.checkpoint.depth)
    expected = {sample_file(result.task) for result in record.results if result.status == "ok"}
    present = {file for file in files if file.startswith(f"{SAMPLES}/")}
    yield from (f"names {sanitize_for_message(file)}, which is missing" for file in sorted(expected - present))
    yield from (f"has no result for {sanitize_for_message(file)}" for file in sorted(present - expected))


def _validate_depth(depth: int) -> list[str]:
    return [] if 1 <= depth <= limits.LAYERS else [f"has a depth of {depth:,} layers; 1 to {limits.LAYERS:,} are read"]


def _validate_layers(text: str, depth: int) -> list[str]:
    is_short = len(text) <= limits.LAYERS_TEXT and text.isascii()  # a long text would become a longer list
    if is_short and attempt(lambda: LayerSet.parse(text, depth), []) is not None:
        return []
    return [f"has the layers {sanitize_for_message(text)}, which are not layers of a model of depth {depth}"]


def _all_lineages(lineages: tuple[Lineage, ...]) -> Iterator[Lineage]:
    for lineage in lineages:
        yield lineage
        yield from _all_lineages(lineage.history)


def read_samples(
    record: RunRecord, files: Mapping[str, Path], max_rows: Mapping[str, int], errors: list[str]
) -> dict[str, tuple[Sample, ...]]:
    """Read the samples of every finished task, as far as they can be read; their total is limited too.

    Args:
        max_rows: task -> samples that there may be; a task that is not named may have `limits.ROWS`.
        errors: what is wrong with them is added here, also another sha256 than the record says.
    """
    samples: dict[str, tuple[Sample, ...]] = {}
    bytes_left, rows_left = limits.ALL_BYTES, limits.ALL_ROWS
    for result in record.results:
        if result.status != "ok":
            continue
        path = files[sample_file(result.task)]
        name = quote_path(path)
        with collect_errors(errors):
            content = decompress(read_bytes(path, limits.PACKED_BYTES), min(limits.SAMPLE_BYTES, bytes_left), name)
            bytes_left -= len(content)
            if hashlib.sha256(content).hexdigest() != result.samples_digest:
                errors.append(f"{name} is not what the record says: its sha256 differs")
            rows = parse_samples(content, min(max_rows.get(result.task, limits.ROWS), rows_left), name)
            rows_left -= len(rows)
            samples[result.task] = rows
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
        VrbenchError: too many or too long lines, a line that is not a sample of exactly the declared types, a duplicate
            id, or too many numbers; of the first `MAX_LINE_ERRORS` lines with errors.
    """
    rows: dict[str, Sample] = {}
    errors: list[str] = []
    numbers = 0

    def stop_if(reached: bool, reason: str) -> None:
        if reached:
            raise_errors([*errors, f"{name} {reason}"])

    for place, ended in enumerate(io.BytesIO(content), 1):  # one by one: a file of line feeds does not become a list
        line = ended.removesuffix(b"\n")
        stop_if(place > max_rows, f"has more than {max_rows:,} samples")
        stop_if(len(line) > limits.LINE_BYTES, f"line {place} has more than {limits.LINE_BYTES:,} bytes")
        row = attempt(lambda line=line, place=place: _parse_sample(line, f"{name} line {place}"), errors)  # type: ignore[misc]
        if row is not None and row is not rows.setdefault(row.id, row):
            errors.append(f"{name} line {place} has a duplicate sample id, {sanitize_for_message(row.id)}")
        stop_if(len(errors) >= MAX_LINE_ERRORS, f"is not read beyond line {place}")
        if row is not None:
            numbers += len(row.loglikelihoods) + len(row.responses)
            stop_if(numbers > limits.NUMBERS, f"has more than {limits.NUMBERS:,} log-likelihoods")
    raise_errors(errors)
    return tuple(rows.values())


def _parse_sample(line: bytes, name: str) -> Sample:
    parse_json(decode(line, name), name)
    return validate_strictly(line, Sample, name)
