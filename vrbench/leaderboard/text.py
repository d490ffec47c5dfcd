"""Kinds of text that the files of a board are made of, as pydantic types: names, references, digests, prose."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field

from vrbench.core.errors import VrbenchError
from vrbench.leaderboard.untrusted_input.names import MOST_NAME, MOST_URL, safe_name, safe_revision, safe_task, safe_url
from vrbench.leaderboard.untrusted_input.text import odd_characters

_NAME = r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?"


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """A validator that tells a `VrbenchError` as pydantic wants it, so that all fields' faults are told together."""

    def checked(text: str) -> str:
        try:
            check(text)
        except VrbenchError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(checked)


def _plain(text: str) -> None:
    odd = odd_characters(text) + [name for name, c in (("a line feed", "\n"), ("a tab", "\t")) if c in text]
    if odd:
        raise VrbenchError(f"it has {', '.join(odd[:5])}; write one line of plain text")
    if text != text.strip():
        raise VrbenchError("it begins or ends with a space")


def _reference(text: str) -> None:
    org, name, revision = parts_of(text)
    safe_name(org, "organisation")
    safe_name(name)
    safe_revision(revision)


def _day(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise VrbenchError(f"{text} is no day of the calendar") from error


def parts_of(reference: str) -> tuple[str, str, str]:
    """Organisation, name and revision of a reference such as 'lab/region@0123456789abcdef'.

    Raises:
        VrbenchError: it has other parts.
    """
    named, at, revision = reference.partition("@")
    org, slash, name = named.partition("/")
    if not at or not slash:
        raise VrbenchError(f"a submission is named ORG/NAME@REVISION, such as 'lab/region@{'0' * 16}'")
    return org, name, revision


Name = Annotated[str, Field(json_schema_extra={"pattern": f"^{_NAME}$"}), _checked(safe_name)]
"""Of an organisation or a submission: what `reading.safe_name` allows, such as 'llava-1.5_sparse'."""

Task = Annotated[str, Field(json_schema_extra={"pattern": "^[a-z0-9][a-z0-9_]{0,63}$"}), _checked(safe_task)]
"""A task's id."""

Revision = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
"""The first 16 hex digits of a checkpoint's digest."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""sha256 in hex."""

Reference = Annotated[
    str, Field(max_length=2 * MOST_NAME + 18, json_schema_extra={"pattern": f"^{_NAME}/{_NAME}@[0-9a-f]{{16}}$"}),
    _checked(_reference),
]  # fmt: skip
"""A submission: 'org/name@revision'."""

Day = Annotated[str, Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), _checked(_day)]
"""A date, ISO 8601."""

Line = Annotated[str, Field(max_length=100), _checked(_plain)]
Paragraph = Annotated[str, Field(max_length=1000), _checked(_plain)]
Address = Annotated[str, Field(max_length=MOST_URL), _checked(safe_url)]
"""http(s) only, or empty."""
