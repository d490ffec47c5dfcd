"""Kinds of text that the files of a board are made of: names, references, digests, prose and addresses."""

from __future__ import annotations

import re
import unicodedata
from datetime import date
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

NAME = r"[a-z0-9]+([._-][a-z0-9]+)*"
REVISION = r"[0-9a-f]{16}"
MOST_NAME = 64
"""Characters of an organisation's or a submission's name."""

_REFERENCE = re.compile(rf"(?P<org>{NAME})/(?P<name>(?:{NAME}))@(?P<revision>{REVISION})")
_TURNED = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of what is written after them."""


def _plain(text: str) -> str:
    for place, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNED:
            raise ValueError(
                f"character {place} is U+{ord(character):04X}, which does not print; write one line of text"
            )
    if text != text.strip():
        raise ValueError("it begins or ends with a space")
    return text


def _address(text: str) -> str:
    if not text:
        return text
    allowed = "an address is http(s)://HOST/..., in ASCII, without spaces and without a password"
    try:
        parts = urlsplit(text)
        host, user = parts.hostname, parts.username
    except ValueError as error:
        raise ValueError(f"it cannot be read as an address: {error}") from error
    if parts.scheme not in ("http", "https") or not host or user is not None:
        raise ValueError(f"given {text!r}; {allowed}")
    if not re.fullmatch(r"[\x21-\x7e]+", text) or set(text) & set("\"'<>\\`{}|^"):
        raise ValueError(f"given {text!r}; {allowed}")
    return text


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=MOST_NAME)]
"""Lowercase letters and digits, parted by single dots, hyphens or underscores: 'lab-7', 'llava-1.5_sparse'."""

Revision = Annotated[str, Field(pattern=f"^{REVISION}$")]
"""The first 16 hex digits of a checkpoint's digest."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""sha256 in hex."""

Reference = Annotated[str, Field(pattern=f"^{NAME}/{NAME}@{REVISION}$", max_length=2 * MOST_NAME + 18)]
"""A submission: 'org/name@revision'."""

Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_day)]
"""A date, ISO 8601."""

Line = Annotated[str, Field(max_length=100), AfterValidator(_plain)]
Paragraph = Annotated[str, Field(max_length=1000), AfterValidator(_plain)]
Address = Annotated[str, Field(max_length=300), AfterValidator(_address)]


def parts_of(reference: str) -> tuple[str, str, str]:
    """Organisation, name and revision of a valid `Reference`."""
    match = _REFERENCE.fullmatch(reference)
    assert match is not None, reference  # the type has looked at it
    return match["org"], match["name"], match["revision"]
