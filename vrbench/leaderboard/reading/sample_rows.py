"""A stranger's samples: one gzip of JSON lines, unpacked no further than is allowed."""

from __future__ import annotations

from pathlib import Path

from vrbench.leaderboard.reading import limits
from vrbench.records import Sample


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
    raise NotImplementedError
