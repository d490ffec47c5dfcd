"""The cache folder: what is costly to make and can always be made again, and remembered file digests."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vrbench.core.cpu_count import usable_cores
from vrbench.core.io import digest_of, write_atomically

SETTLED_AFTER_SECONDS = 2.0
"""A file changed more recently may change again within one tick of the file system's clock; its digest is not kept."""

BLOCK = 1 << 20
"""Bytes that are read and hashed at a time: few enough to stay in a core's cache between the two."""

MAX_PARALLEL_HASHES = 8
"""More would only make a disk seek."""

COMPLETE_MARKER = "done"
"""Empty file written last into a cached folder: its existence means that the folder is complete."""


def cache_folder() -> Path:
    """Return $VRBENCH_CACHE, or `vrbench` in the user's cache folder; it need not exist."""
    chosen = os.environ.get("VRBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vrbench"


def cached_folder(name: str, fill: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, filling it on first use; an incomplete one is replaced.

    Args:
        name: the folder's name, which must state everything that determines its content.
        fill: fills an empty folder. Its exceptions are passed on, and nothing is left then.
    """
    folder = cache_folder() / name
    if (folder / COMPLETE_MARKER).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}-"))
    try:
        fill(temporary)
        (temporary / COMPLETE_MARKER).touch()
        try:
            os.replace(temporary, folder)
        except OSError:  # the folder exists: another process was first, or it is incomplete
            if not (folder / COMPLETE_MARKER).is_file():
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def file_digest(path: Path) -> str:
    """Return the sha256 of a file in hex, read once per state of the file (path, size, times of change, inode).

    Raises:
        OSError: the file cannot be read.
    """
    before = path.stat()
    identity = [str(path.resolve()), before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino]
    cached = cache_folder() / "sha256" / digest_of(identity)
    try:
        remembered = cached.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        remembered = ""
    if len(remembered) == 64:
        return remembered
    digest = _sha256(path)
    if time.time() - max(before.st_mtime, before.st_ctime) > SETTLED_AFTER_SECONDS:
        try:
            write_atomically(cached, digest)
        except OSError:
            pass  # a cache that cannot be written costs time, nothing else
    return digest


def file_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Return `file_digest` of several files, hashed in parallel: one core hashes 1 to 2 GB/s.

    Raises:
        OSError: a file cannot be read.
    """
    wanted = list(dict.fromkeys(paths))
    if len(wanted) < 2:
        return {path: file_digest(path) for path in wanted}
    with ThreadPoolExecutor(min(len(wanted), usable_cores(), MAX_PARALLEL_HASHES)) as pool:
        return dict(zip(wanted, pool.map(file_digest, wanted), strict=True))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as stream:
        while length := stream.readinto(block):
            digest.update(block[:length])
    return digest.hexdigest()
