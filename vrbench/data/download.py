"""Downloads the hub's sets into a data root: pinned revisions, resumable, with a digest for each file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from vrbench.core.cache import file_digest
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.provenance import now
from vrbench.data import hub, local_mirror
from vrbench.data.local_mirror import DIGEST_FILE, MirrorFile
from vrbench.tasks.spec import TaskSpec

LOCK = f".{DIGEST_FILE}.lock"


@dataclass(frozen=True)
class DownloadRequest:
    """One file of a data root to be made: a split of a config of a set, at a revision (empty for the newest)."""

    name: str
    config: str
    split: str
    revision: str

    @property
    def key(self) -> str:
        """Its path relative to the data root."""
        return local_mirror.key(self.name, self.config, self.split)


def requests_of(specs: Iterable[TaskSpec]) -> list[DownloadRequest]:
    """Return the files that the tasks need from the hub, each once, in the order of the tasks.

    Raises:
        VrbenchError: two tasks pin different revisions of one file.
    """
    found: dict[str, DownloadRequest] = {}
    errors = []
    for spec in specs:
        source = spec.data
        for config, split in source.parts if source.kind == "hub" else ():
            request = DownloadRequest(source.name, config, split, source.revision)
            earlier = found.setdefault(request.key, request)
            if earlier.revision != request.revision:
                pins = " and ".join(repr(pin.revision or "the newest") for pin in (earlier, request))
                errors.append(f"data set {source.name} is wanted at revisions {pins}; download into two data roots")
    raise_errors(errors)
    return list(found.values())


def download(specs: Sequence[TaskSpec], to: Path, show_progress: bool = True) -> list[str]:
    """Make or complete a data root with the hub's sets of some tasks.

    A file is written under another name, renamed when it is whole, then recorded in the digest file, so that an
    interrupted download resumes with the next file; a whole file of the right revision is left alone.

    Returns:
        The files that were made now, relative to the data root.

    Raises:
        VrbenchError: all files that are not available, together; or the folder cannot be written to, or another
            process is writing to it.
    """
    wanted = requests_of(specs)
    if not wanted:
        names = ", ".join(spec.id for spec in specs)
        raise VrbenchError(f"there is nothing to download: the data of {names} are not on the hub")
    try:
        to.mkdir(parents=True, exist_ok=True)
        with FileLock(to / LOCK, timeout=0):
            recorded = local_mirror.read(to).files
            missing = [file for file in wanted if not _is_complete(file, to, recorded.get(file.key))]
            return _download(missing, to, show_progress)
    except Timeout:
        raise VrbenchError(f"{to} is being written to by another process; wait until it is done") from None
    except OSError as error:
        raise VrbenchError(f"data root {str(to)!r} cannot be written to: {error.strerror or error}") from error


def _is_complete(file: DownloadRequest, root: Path, entry: MirrorFile | None) -> bool:
    if entry is None or (file.revision and file.revision not in (entry.asked, entry.revision)):
        return False
    return local_mirror.file_state(root, file.key, entry).state == "whole"


def _download(files: Sequence[DownloadRequest], root: Path, show_progress: bool) -> list[str]:
    if files and hub.is_offline():
        raise VrbenchError(f"{len(files)} files are to be downloaded, but HF_HUB_OFFLINE forbids it; set it to 0")
    commits: dict[tuple[str, str], str | None] = {}
    errors: list[str] = []
    done = []
    with tqdm(files, desc="data", unit="file", disable=not show_progress) as bar:
        for file in bar:
            bar.set_postfix_str(file.key, refresh=True)
            revision = file.name, file.revision
            try:
                if revision not in commits:
                    commits[revision] = None  # so that an error is reported once for each set
                    commits[revision] = hub.commit(*revision)
                if (sha := commits[revision]) is not None:
                    _download_file(file, sha, root)
                    done.append(file.key)
            except hub.UnreachableError as error:
                errors.append(f"{error}; {len(done)} of {len(files)} files were downloaded, run it again to resume")
                break
            except VrbenchError as error:
                errors.append(str(error))
    raise_errors(errors)
    return done


def _download_file(file: DownloadRequest, sha: str, root: Path) -> None:
    path = root / file.key
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")  # the lock is ours: what is there was left by a killed download
    try:
        hub.download(file.name, file.config, file.split, sha, temporary)
        entry = _entry(temporary, sha, file.revision)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    digests = local_mirror.read(root)
    local_mirror.write(root, digests.model_copy(update={"files": {**digests.files, file.key: entry}}))


def _entry(file: Path, sha: str, asked: str) -> MirrorFile:
    footer = local_mirror.read_footer(file)
    return MirrorFile(
        sha256=file_digest(file),
        bytes=file.stat().st_size,
        rows=footer.num_rows,
        columns={column.name: str(column.type) for column in footer.schema.to_arrow_schema()},
        revision=sha,
        asked=asked,
        made=now(),
    )
