"""`vrbench data fetch`: the hub's sets as a data root, of pinned revisions, resumable, with a digest for each file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from vrbench.core.cache import file_digest
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.data import hub, local_mirror
from vrbench.data.local_mirror import DIGEST_FILE, MirrorFile
from vrbench.tasks.registry import TaskSpec

LOCK = f".{DIGEST_FILE}.lock"


@dataclass(frozen=True)
class DownloadRequest:
    """One file of a data root that is to be: a split of a config of a set, at a revision (empty for the newest)."""

    name: str
    config: str
    split: str
    revision: str

    @property
    def key(self) -> str:
        """Its path relative to the data root."""
        return local_mirror.key(self.name, self.config, self.split)


def requests_of(specs: Iterable[TaskSpec]) -> list[DownloadRequest]:
    """The files that some tasks need from the hub, each once, in the order of the tasks.

    Raises:
        VrbenchError: two tasks pin different revisions of one file.
    """
    found: dict[str, DownloadRequest] = {}
    faults = []
    for spec in specs:
        source = spec.data
        if source.kind != "hub":
            continue
        for config, split in source.parts:
            one = DownloadRequest(source.name, config, split, source.revision)
            other = found.setdefault(one.key, one)
            if other.revision != one.revision:
                pins = " and ".join(repr(w.revision or "the newest") for w in (other, one))
                faults.append(f"data set {source.name} is wanted at revisions {pins}; fetch into two data roots")
    raise_errors(faults)
    return list(found.values())


def download(specs: Sequence[TaskSpec], to: Path, show_progress: bool = True) -> list[str]:
    """Make or complete a data root with the hub's sets of some tasks.

    A file is written under another name and renamed when it is whole, then recorded in the digest file, so that a
    fetch that was killed goes on with the next file; a whole file of the right revision is left alone.

    Returns:
        The files that were made now, relative to the data root.

    Raises:
        VrbenchError: all that could not be had, at once; or the folder cannot be written to, or is being filled by
            another process.
    """
    from filelock import FileLock, Timeout

    files = requests_of(specs)
    if not files:
        names = ", ".join(spec.id for spec in specs)
        raise VrbenchError(f"there is nothing to fetch: the data of {names} are not on the hub")
    try:
        to.mkdir(parents=True, exist_ok=True)
        with FileLock(to / LOCK, timeout=0):
            return _fetch(_to_do(files, to), to, show_progress)
    except Timeout:
        raise VrbenchError(f"{to} is being filled by another process; wait until it is done") from None
    except OSError as error:
        raise VrbenchError(f"data root {str(to)!r} cannot be written to: {error.strerror or error}") from error


def _to_do(files: Iterable[DownloadRequest], root: Path) -> list[DownloadRequest]:
    """The files that are not there whole, in the revision that is wanted."""
    digests = local_mirror.read(root)
    return [file for file in files if not _is_whole(file, root, digests.files.get(file.key))]


def _is_whole(file: DownloadRequest, root: Path, entry: MirrorFile | None) -> bool:
    if entry is None or (file.revision and file.revision not in (entry.asked, entry.revision)):
        return False
    path = root / file.key
    return path.is_file() and path.stat().st_size == entry.bytes and file_digest(path) == entry.sha256


def _fetch(files: Sequence[DownloadRequest], root: Path, show_progress: bool) -> list[str]:
    from tqdm import tqdm

    if files and hub.is_offline():
        raise VrbenchError(f"{len(files)} files are to be fetched, but HF_HUB_OFFLINE forbids it; set it to 0")
    commits: dict[tuple[str, str], str | None] = {}
    faults: list[str] = []
    made = []
    with tqdm(files, desc="data", unit="file", disable=not show_progress) as bar:
        for file in bar:
            bar.set_postfix_str(file.key, refresh=True)
            try:
                sha = _commit(file, commits)
                if sha is not None:
                    _make(file, sha, root)
                    made.append(file.key)
            except hub.UnreachableError as error:
                faults.append(f"{error}; {len(made)} of {len(files)} files were fetched, run it again to go on")
                break
            except VrbenchError as error:
                faults.append(str(error))
    raise_errors(faults)
    return made


def _commit(file: DownloadRequest, commits: dict[tuple[str, str], str | None]) -> str | None:
    """The commit of a file's set, asked for once a set; None for a set that was told already not to be had."""
    place = file.name, file.revision
    if place not in commits:
        commits[place] = None
        commits[place] = hub.commit(*place)
    return commits[place]


def _make(file: DownloadRequest, sha: str, root: Path) -> None:
    path = root / file.key
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*"):  # of a fetch that was killed; the lock is ours
        left.unlink()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        hub.download(file.name, file.config, file.split, sha, temporary)
        temporary.chmod(0o644)
        entry = _entry(temporary, sha, file.revision)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    digests = local_mirror.read(root)
    local_mirror.write(root, digests.model_copy(update={"files": {**digests.files, file.key: entry}}))


def _entry(file: Path, sha: str, asked: str) -> MirrorFile:
    about = local_mirror.footer(file)
    schema = about.schema.to_arrow_schema()
    return MirrorFile(
        sha256=file_digest(file),
        bytes=file.stat().st_size,
        rows=about.num_rows,
        columns={column.name: str(column.type) for column in schema},
        revision=sha,
        asked=asked,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
