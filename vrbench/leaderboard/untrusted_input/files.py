"""A stranger's folders and files: plain files with known names only, opened without following a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.names import safe_name, safe_revision, safe_task
from vrbench.leaderboard.untrusted_input.text import quoted

SAMPLES = "samples"
SUFFIX = ".jsonl.gz"
NEEDED = ("run.json", "submission.json")
ALLOWED = (*NEEDED, "recipe.yaml")
_MOST_BYTES = {"recipe.yaml": limits.YAML_BYTES}


def read_bytes(path: Path, most_bytes: int = limits.RECORD_BYTES) -> bytes:
    """What a plain file holds.

    Args:
        most_bytes: bytes that it may have; no more are ever read.

    Raises:
        VrbenchError: no such file, a link, a device or pipe, a second name of another file, or a larger one.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():  # for systems without O_NOFOLLOW, and for the sentence
            raise VrbenchError(f"{_named(path)} is a link; only plain files are read")
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise VrbenchError(f"{_named(path)} cannot be read: {_reason(error)}") from error
    with os.fdopen(descriptor, "rb") as stream:
        raise_errors(_file_faults(os.fstat(descriptor), _named(path), most_bytes))
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise VrbenchError(f"{_named(path)} has more than {most_bytes:,} bytes, more than is read")
    return content


def read_text(path: Path, most_bytes: int = limits.RECORD_BYTES) -> str:
    """What a plain file of UTF-8 holds.

    Raises:
        VrbenchError: as `read_bytes`; or it is not UTF-8, or begins with a byte order mark.
    """
    return decoded(read_bytes(path, most_bytes), _named(path))


def decoded(content: bytes, name: str) -> str:
    """Bytes as text.

    Args:
        name: what they are, for the sentence.

    Raises:
        VrbenchError: they are not UTF-8, or begin with a byte order mark.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VrbenchError(f"{name} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}") from error
    if text.startswith("\ufeff"):
        raise VrbenchError(f"{name} begins with a byte order mark; save it as UTF-8 without one")
    return text


def submission_files(folder: Path, needed: Iterable[str] = NEEDED, allowed: Iterable[str] = ALLOWED) -> dict[str, Path]:
    """The files of a submission: name, such as 'run.json' or 'samples/mme.jsonl.gz' -> path.

    Args:
        folder: the submission's folder.
        needed: files that have to be there, beside samples/.
        allowed: files that may be there, beside samples/.

    Raises:
        VrbenchError: all faults at once: a link, a device, a name that is not known, too many or too large files, names
            that differ only in case, or a file that is missing.
    """
    names, faults = _listed(folder), list[str]()
    found: dict[str, Path] = {}
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            faults.append(f"{_named(folder)} has {quoted(other)} and {quoted(name)}, which differ only in case")
        wrong = _entry_faults(folder / name, name, tuple(allowed))
        faults += wrong
        if not wrong and name != SAMPLES:
            found[name] = folder / name
    faults += [f"{_named(folder)} has no {name}" for name in needed if name not in names]
    raise_errors(faults)
    return dict(sorted(found.items()))


def submission_folders(root: Path) -> tuple[list[Path], list[str]]:
    """The submissions below a folder, `<org>__<name>/<revision>`, by name, and what else lies there, as sentences.

    Args:
        root: a board's `submissions` or `reproductions`; none are found where there is no such folder.
    """
    found: list[Path] = []
    faults: list[str] = []
    if os.path.lexists(root):
        uppers = list(_folders(root, _split_name, faults))
        found = [lower for upper in uppers for lower in _folders(upper, safe_revision, faults)]
    if len(found) > limits.FOLDERS:
        faults.append(f"{_named(root)} has more than {limits.FOLDERS:,} submissions")
    return found[: limits.FOLDERS], faults


def _folders(root: Path, check: Callable[[str], object], faults: list[str]) -> Iterator[Path]:
    """The folders in a folder whose name passes a check; everything else there becomes a fault."""
    try:
        names = _entries(root, limits.FOLDERS)
    except VrbenchError as error:
        faults.append(str(error))
        return
    for name in names:
        mode = (root / name).lstat().st_mode
        if not stat.S_ISDIR(mode):
            faults.append(f"{_named(root / name)} is {_kind(mode)}; only folders of submissions lie there")
            continue
        try:
            check(name)
        except VrbenchError as error:
            faults.append(f"{_named(root / name)}: {error}")
            continue
        yield root / name


def _split_name(name: str) -> None:
    org, found, rest = name.partition("__")
    if not found:
        raise VrbenchError("a submission's folder is named <org>__<name>")
    safe_name(org, "organisation")
    safe_name(rest)


def _listed(folder: Path) -> list[str]:
    """Names in a submission's folder and in its samples/, sorted."""
    names = _entries(folder, limits.FILES)
    inner = folder / SAMPLES
    if SAMPLES in names and stat.S_ISDIR(inner.lstat().st_mode):
        names += [f"{SAMPLES}/{name}" for name in _entries(inner, limits.FILES)]
    return names


def _entries(folder: Path, most: int) -> list[str]:
    """Names in a real folder, sorted, of which there are at most so many."""
    try:
        mode = folder.lstat().st_mode
        if not stat.S_ISDIR(mode):
            raise VrbenchError(f"{_named(folder)} is {_kind(mode)}, not a folder")
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, most + 1)]
    except (OSError, ValueError) as error:
        raise VrbenchError(f"{_named(folder)} cannot be read: {_reason(error)}") from error
    if len(names) > most:
        raise VrbenchError(f"{_named(folder)} holds more than {most:,} files, more than are read")
    return sorted(names)


def _entry_faults(path: Path, name: str, allowed: tuple[str, ...]) -> list[str]:
    """What is wrong with one entry of a submission's folder; none is empty."""
    status = path.lstat()
    if name == SAMPLES:
        return [] if stat.S_ISDIR(status.st_mode) else [f"{_named(path)} is {_kind(status.st_mode)}, not a folder"]
    if name not in allowed and not _is_sample_file(name):
        return [
            f"{_named(path)} is not a file of a submission; those are {', '.join(allowed)} and samples/<task>{SUFFIX}"
        ]
    most = limits.PACKED_BYTES if name.endswith(SUFFIX) else _MOST_BYTES.get(name, limits.RECORD_BYTES)
    return _file_faults(status, _named(path), most)


def _is_sample_file(name: str) -> bool:
    folder, found, file = name.partition("/")
    if not found or folder != SAMPLES or not file.endswith(SUFFIX):
        return False
    try:
        safe_task(file[: -len(SUFFIX)])
    except VrbenchError:
        return False
    return True


def _file_faults(status: os.stat_result, name: str, most_bytes: int) -> list[str]:
    if not stat.S_ISREG(status.st_mode):
        return [f"{name} is {_kind(status.st_mode)}; only plain files are read"]
    if status.st_nlink > 1:
        return [f"{name} is a second name of another file (a hard link); copy it"]
    if status.st_size > most_bytes:
        return [f"{name} has {status.st_size:,} bytes; at most {most_bytes:,} are read"]
    return []


def _kind(mode: int) -> str:
    for test, words in _KINDS:
        if test(mode):
            return words
    return "no plain file"


_KINDS = (
    (stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISREG, "a file"),
)  # fmt: skip


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _named(path: Path) -> str:
    return quoted(str(path), 200)
