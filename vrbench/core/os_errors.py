"""Errors of the operating system (full disk, no permission, too many open files), described with a remedy.

Libraries wrap them: SQLite and writers in Rust have exceptions of their own, with the reason in the text.
"""

from __future__ import annotations

import errno
import os
import re

ELSEWHERE = "write somewhere else (--out, VRBENCH_CACHE, HF_HOME, TMPDIR)"

ERRORS = {
    errno.ENOSPC: ("the disk is full", f"make room, or {ELSEWHERE}"),
    errno.EDQUOT: ("the disk quota is used up", f"make room, or {ELSEWHERE}"),
    errno.EROFS: ("the file system is read-only", ELSEWHERE),
    errno.EACCES: ("permission is denied", f"change the permissions, or {ELSEWHERE}"),
    errno.EPERM: ("the operation is not permitted", f"change the permissions, or {ELSEWHERE}"),
    errno.EMFILE: ("this process has too many open files", "raise the limit, such as with `ulimit -n 4096`"),
    errno.ENFILE: ("the machine has too many open files", "end other programs, or raise the limit"),
    errno.EFBIG: ("the file would be larger than is allowed", "raise the limit (`ulimit -f`), or " + ELSEWHERE),
    errno.ENAMETOOLONG: ("the file name is too long", "choose a shorter one"),
    errno.EIO: ("the device cannot be read or written", f"make room if it is full, check it, or {ELSEWHERE}"),
    errno.ESTALE: ("the network file system has lost the file", "mount it again"),
    errno.ENOMEM: ("there is not enough memory", "end other programs, or use a machine with more"),
    errno.EPIPE: ("the program that reads the output has ended before all was written", "read it to its end"),
}  # fmt: skip
"""errno -> what it means, and the remedy."""

PATH_ERRORS = {
    errno.ENOTDIR: ("a part of the path is a file and not a folder", "choose another path"),
    errno.EISDIR: ("it is a folder and not a file", "choose another path"),
    errno.EEXIST: ("something of that name exists already", "choose another path"),
    errno.ELOOP: ("its links form a loop", "choose another path"),
}
"""The same for paths, which some readers rightly treat as a missing file."""

MESSAGES = {
    r"No space left on device|database or disk is full|PytorchStreamWriter failed writing|unexpected pos \d+ vs": (
        errno.ENOSPC
    ),
    r"Disk quota exceeded": errno.EDQUOT,
    r"Read-only file system": errno.EROFS,
    r"Permission denied|readonly database|unable to open database file": errno.EACCES,
    r"Too many open files": errno.EMFILE,
    r"File too large": errno.EFBIG,
    r"disk I/O error|Input/output error": errno.EIO,
    r"No usable temporary directory": errno.EACCES,
}
"""Pattern of a library's message, where it keeps no number -> errno."""


def describe_os_error(error: BaseException, paths: bool = False) -> str:
    """Return the cause of an operating system error and the remedy; empty if it is none.

    Args:
        paths: include errors of a path (`PATH_ERRORS`).
    """
    known = ERRORS | PATH_ERRORS if paths else ERRORS
    found: BaseException | None = error
    while found is not None:
        number = _number(found)
        if number in known:
            what, remedy = known[number]
            path = getattr(found, "filename", None)
            about = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes) else ""
            detail = "" if isinstance(found, OSError) and found.errno else f" ({' '.join(str(found).split())[:200]})"
            return f"{about}{what}{detail}; {remedy}"
        found = found.__cause__
    return ""


def reraise_os_error(error: BaseException) -> None:
    """Raise an error again if it is one of the operating system, so that it is not reported as another."""
    if describe_os_error(error):
        raise error


def _number(error: BaseException) -> int | None:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error)
    stated = re.search(r"\(os error (\d+)\)|\[errno (\d+)\]", text, re.IGNORECASE)
    if stated:
        return int(stated[1] or stated[2])
    return next((number for pattern, number in MESSAGES.items() if re.search(pattern, text)), None)
