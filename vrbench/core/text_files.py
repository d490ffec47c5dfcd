"""Text files that others wrote: UTF-8 with or without a byte order mark, which some editors put in front."""

from __future__ import annotations

import codecs
from pathlib import Path

from vrbench.core.errors import VrbenchError

OTHERS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
"""First bytes of a file -> what it is written in; the longer ones begin as the shorter ones do."""


def read_text(path: Path) -> str:
    """What a text file holds, without the byte order mark, every line ended by "\\n".

    Raises:
        OSError: it cannot be read.
        VrbenchError: it is UTF-16 or UTF-32.
        UnicodeDecodeError: it is something else than UTF-8.
    """
    content = path.read_bytes()
    other = encoding_of(content)
    if other not in ("", "UTF-8"):
        raise VrbenchError(f"{path} is {other}; save it as UTF-8")
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def encoding_of(content: bytes) -> str:
    """What the first bytes say of a text's encoding: "UTF-8" with a byte order mark, another, or nothing."""
    if content.startswith(codecs.BOM_UTF8):
        return "UTF-8"
    for mark, name in OTHERS.items():
        if content.startswith(mark):
            return name
    return "UTF-16" if content[:2] and b"\0" in content[:2] else ""  # ASCII in UTF-16 has a zero in each pair
