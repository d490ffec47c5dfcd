"""A data root: the hub's sets as `<org>/<name>/<config>/<split>.parquet`, and a digest file.

`vrbench-data.json` has for each file its sha256, size, rows, columns, revision and time. A data root made by hand has
none; its files are used all the same, but cannot be checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from vrbench.core import os_errors
from vrbench.core.cache import file_digest
from vrbench.core.errors import VrbenchError
from vrbench.core.io import parse_file, write_atomically
from vrbench.core.schemas import Record
from vrbench.tasks.spec import DataSource, TaskSpec

DIGEST_FILE = "vrbench-data.json"
LAYOUT_VERSION = 1

State = Literal["whole", "changed", "truncated", "missing", "unrecorded"]


class MirrorFile(Record):
    """One parquet file of a data root."""

    sha256: str = Field(description="Of the file.")
    bytes: int = Field(ge=0, description="Size of the file.")
    rows: int = Field(ge=0, description="Rows in it.")
    columns: dict[str, str] = Field(description="Column -> its Arrow type.")
    revision: str = Field(description="Commit of the hub's set that it was made from.")
    asked: str = Field(default="", description="Revision that was requested; empty for the newest.")
    made: str = Field(description="When it was made, UTC, ISO 8601.")


class DigestFile(Record):
    """`vrbench-data.json` at the top of a data root."""

    schema_version: int = Field(default=LAYOUT_VERSION, description="Version of this layout.")
    files: dict[str, MirrorFile] = Field(default={}, description="Path relative to the data root -> file.")


@dataclass(frozen=True)
class FileState:
    """The state of one file.

    Attributes:
        file: path relative to the data root.
        state: whole; changed (its sha256 is another one); truncated (it ends early); missing; or unrecorded.
        detail: rows and revision, or what is wrong.
    """

    file: str
    state: State
    detail: str


def key(name: str, config: str, split: str) -> str:
    """Return the path of a split relative to the data root."""
    return f"{name}/{config}/{split}.parquet"


def read(root: Path) -> DigestFile:
    """Read the digest file of a data root; an empty one where there is none.

    Raises:
        VrbenchError: there is one that cannot be read.
    """
    file = root / DIGEST_FILE
    if not file.is_file():
        return DigestFile()
    try:
        found = DigestFile.model_validate(parse_file(file))
    except (VrbenchError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VrbenchError(
            f"{file} is not a digest file of a data root: {reason}; delete it and download again"
        ) from error
    if found.schema_version != LAYOUT_VERSION:
        raise VrbenchError(f"{file} has schema version {found.schema_version}; this vrbench reads {LAYOUT_VERSION}")
    return found


def write(root: Path, digests: DigestFile) -> None:
    """Write the digest file atomically, its files sorted."""
    ordered = digests.model_copy(update={"files": dict(sorted(digests.files.items()))})
    write_atomically(root / DIGEST_FILE, ordered.model_dump_json(indent=1) + "\n")


def read_footer(file: Path) -> Any:
    """Read the metadata at the end of a parquet file (a `pyarrow.parquet.FileMetaData`); no row is read.

    Raises:
        VrbenchError: it is not a parquet file, or one that ends early.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        os_errors.reraise_os_error(error)
        reason = " ".join(str(error).split())
        raise VrbenchError(f"{file} cannot be read as parquet, it may be truncated: {reason}") from error


def recorded_files(source: DataSource, digests: DigestFile) -> dict[str, MirrorFile]:
    """Return the recorded files of a task by path."""
    keys = (key(source.name, config, split) for config, split in source.parts)
    return {name: digests.files[name] for name in keys if name in digests.files}


def other_revisions(source: DataSource, digests: DigestFile) -> list[str]:
    """Return the recorded files of a task whose revision is not the pinned one; none where no revision is pinned."""
    if not source.revision:
        return []
    files = recorded_files(source, digests).items()
    return [f"{name} is of {e.revision}" for name, e in files if source.revision not in (e.revision, e.asked)]


def check(root: Path, specs: Sequence[TaskSpec] | None = None) -> list[FileState]:
    """Return the state of every file that is recorded, is there, or is needed by some tasks; sorted by path.

    Args:
        specs: check the files of these tasks only; None for the whole data root.

    Raises:
        VrbenchError: the data root is not a folder, or its digest file cannot be read.
    """
    if not root.is_dir():
        raise VrbenchError(f"data root {str(root)!r} is not a folder")
    digests = read(root)
    if specs is None:
        wanted = {file.relative_to(root).as_posix() for file in root.rglob("*.parquet")}.union(digests.files)
    else:
        sources = [spec.data for spec in specs if spec.data.kind == "hub"]
        wanted = {key(source.name, config, split) for source in sources for config, split in source.parts}
    return [file_state(root, name, digests.files.get(name)) for name in sorted(wanted)]


def file_state(root: Path, name: str, entry: MirrorFile | None) -> FileState:
    """Return the state of one file, given what the digest file says of it."""
    file = root / name
    if not file.is_file():
        return FileState(name, "missing", "recorded, but missing" if entry else "missing; download it")
    size = file.stat().st_size
    if entry is None:
        try:
            rows = read_footer(file).num_rows
        except VrbenchError:
            return FileState(name, "truncated", f"{size:,} bytes that do not end as a parquet file does")
        return FileState(name, "unrecorded", f"{rows:,} rows; not in {DIGEST_FILE}")
    if size < entry.bytes:
        return FileState(name, "truncated", f"{size:,} bytes of {entry.bytes:,}")
    if size != entry.bytes or file_digest(file) != entry.sha256:
        return FileState(name, "changed", "its sha256 is not the recorded one")
    return FileState(name, "whole", f"{entry.rows:,} rows, revision {entry.revision[:12]}")
