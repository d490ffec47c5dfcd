"""Files: text, JSON and YAML written by others, canonical JSON and digests, compressed text, atomic writes."""

from __future__ import annotations

import codecs
import errno
import gzip
import hashlib
import io
import json
import os
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import yaml

from vrbench.core.errors import VrbenchError
from vrbench.core.os_errors import reraise_os_error

Json = dict[str, Any]

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "UTF-8", codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
"""First bytes of a file -> its encoding; UTF-32 first, since its mark begins like that of UTF-16."""

OutputKind = Literal["folder", "checkpoint", "file"]
"""What a command writes: a folder that it fills; or a checkpoint folder or file, written to a temporary path first."""


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file without its byte order mark, every line ended by "\\n".

    Raises:
        OSError: it cannot be read.
        VrbenchError: it is UTF-16 or UTF-32.
        UnicodeDecodeError: it is in another encoding than UTF-8.
    """
    content = path.read_bytes()
    encoding = detect_encoding(content)
    if encoding not in ("", "UTF-8"):
        raise VrbenchError(f"{path} is {encoding}; save it as UTF-8")
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def detect_encoding(content: bytes) -> str:
    """Return the encoding that a text's first bytes show: "UTF-8" with a byte order mark, another, or ""."""
    for mark, name in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return name
    return "UTF-16" if content[:2] and b"\0" in content[:2] else ""  # ASCII in UTF-16 has a zero in each pair


def require_json(path: Path) -> Json:
    """Return the object in a JSON file.

    Raises:
        OSError: as of `parse_file`.
        VrbenchError: it is missing, cannot be read as JSON, or holds something else.
    """
    found = parse_file(path)
    if not isinstance(found, dict):
        raise VrbenchError(f"{path} is not a JSON object")
    return found


def read_json_object(path: Path) -> Json | None:
    """Return the object in a JSON file; None when it is missing, broken, or holds something else."""
    try:
        return require_json(path)
    except VrbenchError:
        return None


def read_json(path: Path) -> Json:
    """Return the object in a JSON file, empty where `read_json_object` gives None."""
    return read_json_object(path) or {}


def parse_file(path: Path, named: str = "", form: Literal["JSON", "YAML"] = "JSON") -> Any:
    """Return the value in a JSON file, or in a YAML file as `load_yaml` reads it.

    Args:
        named: how an error names the file; by default its path.

    Raises:
        OSError: the disk is full, permission is denied, or the like (`os_errors.ERRORS`).
        VrbenchError: it cannot be read for another reason, or is not JSON or YAML.
    """
    try:
        text = read_text(path)
        return json.loads(text) if form == "JSON" else load_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # RecursionError: nested too deep
        raise VrbenchError(f"{named or path} is not {form}: {' '.join(str(error).split())}") from error
    except OSError as error:
        reraise_os_error(error)
        raise VrbenchError(f"{named or path} cannot be read: {error.strerror or error}") from error


def load_yaml(text: str) -> Any:
    """Parse YAML with safe tags only, refusing a key given twice.

    Raises:
        yaml.YAMLError: it is not YAML, has a tag that runs code, or gives a key twice.
    """
    return yaml.load(text, Loader=_StrictLoader)


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = sorted(key for key, times in keys.items() if times > 1)
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {', '.join(twice)}", node.start_mark)
        return dict(super().construct_mapping(node, deep))


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(value)


def digest_of(value: Any) -> str:
    """Return the sha256 of `canonical_json(value)` in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def gzip_text(text: str) -> bytes:
    """Compress a text with neither time nor name in the header, so that the same text gives the same bytes."""
    stream = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as file:
        file.write(text.encode())
    return stream.getvalue()


def gunzip_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a gzip file; never unpacks more than `max_bytes` (+ 1), whatever the file states.

    Raises:
        VrbenchError: it is not a complete gzip file, or holds more.
    """
    try:
        with gzip.open(path) as file:
            content = file.read(max_bytes + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise VrbenchError(f"{path} cannot be unpacked: {error}") from error
    if len(content) > max_bytes:
        raise VrbenchError(f"{path} holds more than {max_bytes:,} bytes, the most that is unpacked")
    return content


def validate_output(path: str | Path, kind: OutputKind = "folder") -> list[str]:
    """Return why a command cannot write its output, checked before the work; creates nothing that stays.

    A temporary file is created in the nearest existing parent, since permission bits alone do not decide it.
    """
    place = Path(path).absolute()
    try:
        place = place if kind == "folder" else place.resolve().parent
        if kind == "file" and Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        while not _exists(place):
            place = place.parent
        with tempfile.NamedTemporaryFile(dir=place):
            return []
    except (OSError, RuntimeError) as error:  # pathlib raises RuntimeError for links that form a loop
        number = getattr(error, "errno", None) or errno.ELOOP
        why = "no file can be created there" if number == errno.ENOENT else os.strerror(number)
        what = "checkpoint folder" if kind == "checkpoint" else f"output {kind}"
        return [f"{what} {str(path)!r} cannot be written to: {why}"]


def _exists(place: Path) -> bool:
    """Return whether a path exists; unlike `Path.exists`, raise errors other than a missing file."""
    try:
        place.stat()
    except FileNotFoundError:
        return False
    return True


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part of it; text as UTF-8.

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
