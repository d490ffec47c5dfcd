"""What one value of an image column may be: bytes, {bytes, path}, a path beside the data file, base64, a data URL."""

from __future__ import annotations

import base64
import binascii
import errno
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vrbench.data.images import ImageError

ALLOWED = (
    "an image is given as bytes, as {bytes, path}, as a path relative to the data file, as base64 text or a data URL, "
    "or as a list of these"
)

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
"""First bytes of JPEG, PNG, GIF, WebP, BMP and TIFF files."""

SHORTEST_INLINE = 40
"""Characters of base64 that are no image yet; a shorter text is a path."""


def image_bytes(value: Any, folder: Path | None) -> bytes | None:
    """The bytes of an image file as a value of a column gives them; None where there is no image.

    Args:
        value: of the column, as Python has it; not a list.
        folder: where paths begin, which they may not leave; none where there are no files beside the data.

    Raises:
        ImageError: what the value is instead.
    """
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return inline(value) or _from_file(value, folder)
    if not isinstance(value, Mapping):
        raise ImageError(f"a value of type {type(value).__name__} is no image; {ALLOWED}")
    if not {"bytes", "path"} & set(value):
        raise ImageError(f"an object with the keys {', '.join(map(str, value))} is no image; {ALLOWED}")
    return image_bytes(value["path"] if value.get("bytes") is None and "path" in value else value["bytes"], folder)


def inline(text: str) -> bytes | None:
    """The bytes of a base64 text or data URL; None for a text that is neither.

    Raises:
        ImageError: it begins as one and cannot be decoded, or it is the URL of a file somewhere else.
    """
    head, comma, body = text.partition(",")
    if head.lower().startswith("data:") and comma:
        if not head.lower().endswith(";base64"):
            raise ImageError(f"a data URL that is not base64 ({_short(head)}) is not read; {ALLOWED}")
        return _decoded(body)
    if URL.match(text):
        raise ImageError(f"{_short(text)} is a URL, and nothing is downloaded; {ALLOWED}")
    return _decoded(text) if _begins_as_image(text) else None


def _begins_as_image(text: str) -> bool:
    """Whether the first characters are an image's in base64; a JPEG's look like an absolute path, "/9j/"."""
    if len(text) < SHORTEST_INLINE:
        return False
    try:
        return base64.b64decode(text[:16], validate=True).startswith(BEGINNINGS)
    except (binascii.Error, ValueError):
        return False


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"base64 text that cannot be decoded ({error})") from error


def _from_file(name: str, folder: Path | None) -> bytes:
    if folder is None:
        raise ImageError(f"{_short(name)} is a path, and this data set comes without files; {ALLOWED}")
    file = folder / name
    if _leads_out(file, folder):
        raise ImageError(f"the path {_short(name)} leads out of {folder}, the folder of the data file; {ALLOWED}")
    if not is_file(file):
        raise ImageError(f"there is no image {_short(name)} in {folder}; {ALLOWED}")
    return file.read_bytes()


def _leads_out(file: Path, folder: Path) -> bool:
    try:
        return not file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # it can be no file: too long, a circle of links, a null character
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file; false for a text that can be no path: too long, or with a null character."""
    try:
        return path.is_file()
    except ValueError:
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)")
