"""Untrusted folders and files: only plain files with known names are opened, and no link is followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from vrbench.core.errors import VrbenchError, collect_errors, raise_errors
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.text import safe_name, safe_revision, safe_task, sanitize_for_message

T = TypeVar("T")
SAMPLES = "samples"
SUFFIX = ".jsonl.gz"
RUN_FILE, SUBMISSION_FILE, RECIPE_FILE = "run.json", "submission.json", "recipe.yaml"
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {"l": "a link", "d": "a folder", "p": "a pipe", "s": "a socket", "c": "a device", "b": "a device"}


def attempt(make: Callable[[], T], errors: list[str]) -> T | None:
    """Return what a function returns, or None after adding the messages of its `VrbenchError` to a list."""
    with collect_errors(errors):
        return make()
    return None


def read_bytes(path: Path, max_bytes: int = limits.RECORD_BYTES) -> bytes:
    """Return the content of a plain file; no more than `max_bytes` are ever read.

    Raises:
        VrbenchError: there is no such file, or it is a link, a device, a pipe, a hard link or too large.
    """
    name = quote_path(path)
    try:
        if path.is_symlink():  # for systems without O_NOFOLLOW, and for the message
            raise VrbenchError(f"{name} is a link; only plain files are read")
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        raise VrbenchError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    with os.fdopen(descriptor, "rb") as stream:
        raise_errors(_validate_file(os.fstat(descriptor), name, max_bytes))
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise VrbenchError(f"{name} has more than {max_bytes:,} bytes, the most that are read")
    return content


def decode(content: bytes, name: str) -> str:
    """Return bytes as text.

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


def read_text(path: Path, max_bytes: int = limits.RECORD_BYTES) -> str:
    """Return the text of a plain UTF-8 file; see `read_bytes` and `decode`."""
    return decode(read_bytes(path, max_bytes), quote_path(path))


def submission_files(
    folder: Path, required: Iterable[str] = (RUN_FILE, SUBMISSION_FILE), optional: Iterable[str] = (RECIPE_FILE,)
) -> dict[str, Path]:
    """Return the files of a submission: name, such as 'run.json' or 'samples/mme.jsonl.gz' -> path.

    Args:
        folder: the submission's folder.
        required: files that must exist, besides samples/.
        optional: files that may be there.

    Raises:
        VrbenchError: all errors at once: a link, a device, an unknown name, too many or too large files, names that
            differ only in case, or a missing file.
    """
    sizes = dict.fromkeys(required, limits.RECORD_BYTES) | dict.fromkeys(optional, limits.YAML_BYTES)
    known = f"{', '.join(sizes)} and {sample_file('<task>')}"
    found: dict[str, Path] = {}
    errors: list[str] = []
    spellings: dict[str, str] = {}
    names = _entries(folder, limits.FILES)
    if SAMPLES in names:
        inner = attempt(lambda: _entries(folder / SAMPLES, limits.FILES), errors)
        names += [f"{SAMPLES}/{name}" for name in inner or ()]
    for name in names:
        path = folder / name
        other = spellings.setdefault(name.casefold(), name)
        if other != name:
            both = f"{sanitize_for_message(other)} and {sanitize_for_message(name)}"
            errors.append(f"{quote_path(folder)} has {both}, which differ only in case")
        if name in sizes or _is_sample_file(name):
            found[name] = path
            errors += _validate_file(path.lstat(), quote_path(path), sizes.get(name, limits.PACKED_BYTES))
        elif name != SAMPLES:
            errors.append(f"{quote_path(path)} is not a file of a submission; its files are {known}")
    raise_errors([*errors, *(f"{quote_path(folder)} has no {name}" for name in required if name not in names)])
    return dict(sorted(found.items()))


def sample_file(task: str) -> str:
    """Return the name of the file of a task's samples within a submission."""
    return f"{SAMPLES}/{task}{SUFFIX}"


def _is_sample_file(name: str) -> bool:
    task = name.removeprefix(f"{SAMPLES}/").removesuffix(SUFFIX)
    return name == sample_file(task) and attempt(lambda: safe_task(task), []) is not None


def submission_folders(root: Path) -> tuple[list[Path], list[str]]:
    """List the submissions below a folder, `<org>__<name>/<revision>`, and everything else there as error messages.

    Args:
        root: a board's `submissions` or `reproductions`; it may be missing.
    """
    found: list[Path] = []
    errors: list[str] = []
    if os.path.lexists(root):
        for upper in _folders(root, _validate_folder_name, errors):
            found += _folders(upper, safe_revision, errors)
    if len(found) > limits.FOLDERS:
        errors.append(f"{quote_path(root)} has more than {limits.FOLDERS:,} submissions")
    return found[: limits.FOLDERS], errors


def _folders(root: Path, validate: Callable[[str], object], errors: list[str]) -> Iterator[Path]:
    """Yield the folders in a folder whose names are valid; everything else there becomes an error."""
    for name in attempt(lambda: _entries(root, limits.FOLDERS), errors) or ():
        path = root / name
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode):
            errors.append(f"{quote_path(path)} is {_kind(mode)}; only folders of submissions are allowed there")
            continue
        try:
            validate(name)
        except VrbenchError as error:
            errors.append(f"{quote_path(path)}: {error}")
        else:
            yield path


def _validate_folder_name(name: str) -> None:
    org, found, rest = name.partition("__")
    if not found:
        raise VrbenchError("a submission's folder is named <org>__<name>")
    safe_name(org, "organisation")
    safe_name(rest)


def _entries(folder: Path, limit: int) -> list[str]:
    """Return the sorted names in a folder that is not a link."""
    try:
        mode = folder.lstat().st_mode
        if not stat.S_ISDIR(mode):
            raise VrbenchError(f"{quote_path(folder)} is {_kind(mode)}, not a folder")
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, limit + 1)]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VrbenchError(f"{quote_path(folder)} cannot be read: {reason}") from error
    if len(names) > limit:
        raise VrbenchError(f"{quote_path(folder)} holds more than {limit:,} files, the most that are read")
    return sorted(names)


def _validate_file(status: os.stat_result, name: str, max_bytes: int) -> list[str]:
    if not stat.S_ISREG(status.st_mode):
        return [f"{name} is {_kind(status.st_mode)}; only plain files are read"]
    if status.st_nlink > 1:
        return [f"{name} is a hard link, a second name of another file; copy it"]
    if status.st_size > max_bytes:
        return [f"{name} has {status.st_size:,} bytes; at most {max_bytes:,} are read"]
    return []


def _kind(mode: int) -> str:
    return _KINDS.get(stat.filemode(mode)[0], "a file")


def quote_path(path: Path) -> str:
    """Return a path for an error message."""
    return sanitize_for_message(str(path), 200)
