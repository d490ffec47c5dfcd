"""The cache folder: what is costly to make and can always be made again."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from vrbench.records import digest_of, write_atomically

# A file changed less than this long ago may change again within one tick of the file system's clock, so that its
# identity would not show it; its digest is not remembered yet.
SETTLED_AFTER_SECONDS = 2.0


def cache_folder() -> Path:
    """$VRBENCH_CACHE, or `vrbench` in the user's cache folder; it need not exist."""
    chosen = os.environ.get("VRBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vrbench"


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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _remember(memory: Path, digest: str) -> None:
    try:
        write_atomically(memory, digest)
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
