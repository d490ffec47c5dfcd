"""A data root: the hub's sets as `<org>/<name>/<config>/<split>.parquet`, and the digest file that says what is whole.

`vrbench-data.json` names for each file its sha256, size, rows, columns, revision and when it was made. A data root made
by hand has none; its files are used all the same, only nobody can say then whether they are whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from vrbench.core import os_errors
from vrbench.core.cache import file_digest
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_text, write_atomically
from vrbench.core.schemas import Record
from vrbench.tasks.registry import DataSource, TaskSpec

DIGEST_FILE = "vrbench-data.json"
LAYOUT_VERSION = 1

State = Literal["whole", "changed", "truncated", "missing", "unrecorded"]


class MirrorFile(Record):
    """What is known of one parquet file of a data root."""

    sha256: str = Field(description="Of the file.")
    bytes: int = Field(ge=0, description="Size of the file.")
    rows: int = Field(ge=0, description="Rows in it.")
    columns: dict[str, str] = Field(description="Column -> its Arrow type.")
    revision: str = Field(description="Commit of the hub's set that it was made from.")
    asked: str = Field(default="", description="Revision that was asked for; empty for the newest.")
    made: str = Field(description="When it was made, UTC, ISO 8601.")


class DigestFile(Record):
    """`vrbench-data.json` at the top of a data root."""

    schema_version: int = Field(default=LAYOUT_VERSION, description="Version of this layout.")
    files: dict[str, MirrorFile] = Field(default={}, description="Path relative to the data root -> what it is.")


@dataclass(frozen=True)
class FileState:
    """What was found of one file.

    Attributes:
        file: path relative to the data root.
        state: whole; changed (its sha256 is another one); truncated (it ends early); missing; or unrecorded.
        detail: rows and revision, or what is wrong.
    """

    file: str
    state: State
    detail: str


def key(name: str, config: str, split: str) -> str:
    """Where a split lies, relative to the data root."""
    return f"{name}/{config}/{split}.parquet"


def keys(source: DataSource) -> list[str]:
    """Where the splits of a task's data lie, relative to the data root."""
    return [key(source.name, config, split) for config, split in source.parts]


def read(root: Path) -> DigestFile:
    """The digest file of a data root; an empty one where there is none.

    Raises:
        VrbenchError: there is one that cannot be read.
    """
    file = root / DIGEST_FILE
    if not file.is_file():
        return DigestFile()
    try:
        found = DigestFile.model_validate(json.loads(read_text(file)))
    except (UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VrbenchError(f"{file} is no digest file of a data root: {reason}; delete it and fetch again") from error
    if found.schema_version != LAYOUT_VERSION:
        raise VrbenchError(f"{file} has schema version {found.schema_version}; this vrbench reads {LAYOUT_VERSION}")
    return found


def write(root: Path, digests: DigestFile) -> None:
    """Write the digest file atomically, its files sorted."""
    ordered = digests.model_copy(update={"files": dict(sorted(digests.files.items()))})
    write_atomically(root / DIGEST_FILE, ordered.model_dump_json(indent=1) + "\n")


def footer(file: Path) -> Any:
    """The metadata at the end of a parquet file (a `pyarrow.parquet.FileMetaData`); no row is read.

    Raises:
        VrbenchError: it is no parquet file, or one that ends early.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        os_errors.reraise_os_error(error)
        raise VrbenchError(
            f"{file} cannot be read as parquet, it may be truncated: {' '.join(str(error).split())}"
        ) from error


def revision_of(source: DataSource, digests: DigestFile) -> str:
    """The commits that a task's files in a data root were made from, joined by commas; empty where none is recorded."""
    known = [digests.files[name].revision for name in keys(source) if name in digests.files]
    return ", ".join(dict.fromkeys(known))


def other_revisions(source: DataSource, digests: DigestFile) -> list[str]:
    """Recorded files of a task whose revision is not the one that the task pins; none where it pins none."""
    if not source.revision:
        return []
    entries = [(name, digests.files[name]) for name in keys(source) if name in digests.files]
    return [f"{name} is of {e.revision}" for name, e in entries if source.revision not in (e.revision, e.asked)]


def check(root: Path, specs: Sequence[TaskSpec] | None = None) -> list[FileState]:
    """The state of every file that is recorded, is there, or is needed by some tasks; sorted by path.

    Args:
        specs: look at the files of these tasks only; None for all of the data root.

    Raises:
        VrbenchError: the data root is no folder, or its digest file cannot be read.
    """
    if not root.is_dir():
        raise VrbenchError(f"data root {str(root)!r} is not a folder")
    digests = read(root)
    if specs is None:
        there = {file.relative_to(root).as_posix() for file in root.rglob("*.parquet")}
        wanted = there.union(digests.files)
    else:
        wanted = set(_needed(specs))
    return [_found(root, name, digests.files.get(name)) for name in sorted(wanted)]


def _needed(specs: Iterable[TaskSpec]) -> Iterator[str]:
    for spec in specs:
        if spec.data.kind == "hub":
            yield from keys(spec.data)


def _found(root: Path, name: str, entry: MirrorFile | None) -> FileState:
    file = root / name
    if not file.is_file():
        return FileState(name, "missing", "recorded, but not there" if entry else "not there; fetch it")
    size = file.stat().st_size
    if entry is None:
        try:
            rows = footer(file).num_rows
        except VrbenchError:
            return FileState(name, "truncated", f"{size:,} bytes that do not end as a parquet file does")
        return FileState(name, "unrecorded", f"{rows:,} rows; {DIGEST_FILE} does not name it")
    if size < entry.bytes:
        return FileState(name, "truncated", f"{size:,} bytes of {entry.bytes:,}")
    if size != entry.bytes or file_digest(file) != entry.sha256:
        return FileState(name, "changed", "its sha256 is not the recorded one")
    return FileState(name, "whole", f"{entry.rows:,} rows, revision {entry.revision[:12]}")
