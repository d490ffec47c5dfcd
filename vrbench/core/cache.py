"""The cache folder: what is costly to make and can always be made again."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vrbench.core.io import digest_of, write_atomically

# A file changed less than this long ago may change again within one tick of the file system's clock, so that its
# identity would not show it; its digest is not remembered yet.
SETTLED_AFTER_SECONDS = 2.0
BLOCK = 1 << 20
"""Bytes that are read and hashed at a time: few enough to stay in a core's cache between the two."""
MOST_AT_ONCE = 8
"""Files that are hashed side by side at most; more would only make a disk seek."""
DONE = "done"  # written last into a folder of the cache: its existence means that the folder is whole


def cache_folder() -> Path:
    """$VRBENCH_CACHE, or `vrbench` in the user's cache folder; it need not exist."""
    chosen = os.environ.get("VRBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vrbench"


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made on first use; a folder that was left half-made is made anew.

    Args:
        name: the folder's name; it has to say all that decides its content.
        make: fills an empty folder. What it raises is passed on, and nothing is left.
    """
    folder = cache_folder() / name
    if (folder / DONE).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}-"))
    try:
        make(temporary)
        (temporary / DONE).touch()
        _move_into_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _move_into_place(made: Path, folder: Path) -> None:
    """Rename a finished folder to its name; if another process was first, its folder stays."""
    try:
        os.replace(made, folder)
    except OSError:
        if not (folder / DONE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(made, folder)


def file_digest(path: Path) -> str:
    """sha256 of a file in hex, read once per state of the file (path, size, times of change, inode).

    Raises:
        OSError: the file cannot be read.
    """
    before = path.stat()
    identity = [str(path.resolve()), before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino]
    memory = cache_folder() / "sha256" / digest_of(identity)
    try:
        remembered = memory.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        remembered = ""
    if len(remembered) == 64:
        return remembered
    found = _sha256(path)
    if time.time() - max(before.st_mtime, before.st_ctime) > SETTLED_AFTER_SECONDS:
        _remember(memory, found)
    return found


def file_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """`file_digest` of several files, side by side: one core hashes 1 to 2 GB/s, and a big model has many shards.

    Raises:
        OSError: a file cannot be read.
    """
    wanted = list(dict.fromkeys(paths))
    if len(wanted) < 2:
        return {path: file_digest(path) for path in wanted}
    with ThreadPoolExecutor(min(len(wanted), _cores(), MOST_AT_ONCE)) as pool:
        return dict(zip(wanted, pool.map(file_digest, wanted), strict=True))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as stream:
        while length := stream.readinto(block):
            digest.update(block[:length])
    return digest.hexdigest()


def _remember(memory: Path, digest: str) -> None:
    try:
        write_atomically(memory, digest)
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
