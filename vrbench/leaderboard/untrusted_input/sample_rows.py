"""A stranger's samples: one gzip of JSON lines, unpacked no further than is allowed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.schemas import Sample
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.files import decoded, read_bytes
from vrbench.leaderboard.untrusted_input.parsing import parse_json, told
from vrbench.leaderboard.untrusted_input.text import quoted

MOST_LINES_TOLD = 5
"""Lines of one file whose faults are told; the lines behind them are not read."""

_GZIP = 16 + zlib.MAX_WBITS


def read_samples(
    path: Path, most_bytes: int = limits.SAMPLE_BYTES, most_rows: int = limits.ROWS, digest: str | None = None
) -> tuple[Sample, ...]:
    """The samples of one task, in their order.

    Args:
        most_bytes: bytes that they may have, unpacked; no more are ever unpacked.
        most_rows: samples that there may be, such as the number of the task's items.
        digest: sha256 that the unpacked bytes must have, if given.

    Raises:
        VrbenchError: no single whole gzip, more bytes, rows, numbers or longer lines than are allowed, another digest,
            a line that is no sample with exactly the declared types, or a sample id twice.
    """
    name = quoted(str(path), 200)
    content = unpacked(read_bytes(path, limits.PACKED_BYTES), most_bytes, name)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise VrbenchError(f"{name} is not what the record says: its sha256 differs")
    return parse_samples(content, most_rows, name)


def unpacked(packed: bytes, most_bytes: int, name: str) -> bytes:
    """What a gzip of one member holds.

    Args:
        most_bytes: bytes that it may hold; no more are ever unpacked, whatever it says.
        name: what it is, for the sentences.

    Raises:
        VrbenchError: it is no whole gzip, something stands behind its end, or it holds more.
    """
    stream = zlib.decompressobj(_GZIP)
    try:
        content = stream.decompress(packed, most_bytes + 1)
    except zlib.error as error:
        raise VrbenchError(f"{name} is not gzip: {error}") from error
    if len(content) > most_bytes:
        raise VrbenchError(f"{name} holds more than {most_bytes:,} bytes, more than is unpacked")
    if not stream.eof:
        raise VrbenchError(f"{name} is cut off: its gzip has no end")
    if stream.unused_data:
        raise VrbenchError(f"{name} has {len(stream.unused_data):,} bytes behind the end of its gzip")
    return content


def parse_samples(content: bytes, most_rows: int, name: str) -> tuple[Sample, ...]:
    """Samples from their JSON lines; see `read_samples`.

    Args:
        name: what they are, for the sentences.
    """
    rows: list[Sample] = []
    faults: list[str] = []
    seen: set[str] = set()
    numbers = 0
    for place, line in enumerate(_lines(content), 1):
        _stop_if(place > most_rows, faults, f"{name} has more than {most_rows:,} samples")
        _stop_if(
            len(line) > limits.LINE_BYTES, faults, f"{name} line {place} has more than {limits.LINE_BYTES:,} bytes"
        )
        try:
            row = _sample(line, f"{name} line {place}")
        except VrbenchError as error:
            faults += error_messages(error)
            _stop_if(len(faults) >= MOST_LINES_TOLD, faults, f"{name} is not read beyond line {place}")
            continue
        if row.id in seen:
            faults.append(f"{name} line {place} has the sample id {quoted(row.id)} a second time")
            _stop_if(len(faults) >= MOST_LINES_TOLD, faults, f"{name} is not read beyond line {place}")
        seen.add(row.id)
        numbers += len(row.loglikelihoods) + len(row.responses)
        _stop_if(numbers > limits.NUMBERS, faults, f"{name} has more than {limits.NUMBERS:,} log-likelihoods")
        rows.append(row)
    raise_errors(faults)
    return tuple(rows)


def _stop_if(reached: bool, faults: list[str], reason: str) -> None:
    if reached:
        raise_errors([*faults, reason])


def _sample(line: bytes, name: str) -> Sample:
    parse_json(decoded(line, name), name)
    try:
        return Sample.model_validate_json(line, strict=True)
    except ValidationError as error:
        raise_errors(f"{name}: {fault}" for fault in told(error))
        raise


def _lines(content: bytes) -> Iterator[bytes]:
    """Lines one by one, so that a file of line feeds does not become a list."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield content[start:end]
        start = end + 1
