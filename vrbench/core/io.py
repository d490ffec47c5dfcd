"""How things are written: one JSON text for each value, its digest, and files that are whole or not there."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any, Literal

from vrbench.core.errors import VrbenchError


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256 of `canonical_json(value)`, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def gzipped(text: str) -> bytes:
    """The text as gzip, with neither a time nor a name in it: the same text gives the same bytes."""
    stream = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as file:
        file.write(text.encode())
    return stream.getvalue()


def gunzipped(path: Path, most: int) -> bytes:
    """What a gzip file holds.

    Args:
        most: bytes that it may hold; no more are ever unpacked, whatever the file says.

    Raises:
        VrbenchError: it is no whole gzip file, or holds more.
    """
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise VrbenchError(f"{path} cannot be unpacked: {error}") from error
    if len(content) > most:
        raise VrbenchError(f"{path} holds more than {most:,} bytes, more than is unpacked")
    return content


Kind = Literal["folder", "checkpoint", "file"]
"""What a command makes: a folder that is filled; or a checkpoint folder or a file, written beside its place first."""


def output_faults(path: str | Path, kind: Kind = "folder") -> list[str]:
    """Why a command cannot write what it makes, for a look before the work; a missing folder is not made.

    A file is made, and removed, in the nearest folder above that there is, since permission bits do not tell all.

    Args:
        path: where it is to be written.
        kind: what it is.
    """
    place = Path(path).absolute()
    try:
        place = place if kind == "folder" else place.resolve().parent
        if kind == "file" and Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        while not _is_there(place):
            place = place.parent
        with tempfile.NamedTemporaryFile(dir=place):
            return []
    except (OSError, RuntimeError) as error:  # pathlib tells a circle of links as a RuntimeError
        number = getattr(error, "errno", None) or errno.ELOOP
        why = "no file can be made there" if number == errno.ENOENT else os.strerror(number)
        what = {"folder": "output folder", "checkpoint": "checkpoint folder", "file": "output file"}[kind]
        return [f"{what} {str(path)!r} cannot be written to: {why}"]


def _is_there(place: Path) -> bool:
    try:
        place.stat()
    except FileNotFoundError:
        return False
    return True


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part of it; text as UTF-8.

    Raises:
        OSError: it cannot be written; its `filename` is the path.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
