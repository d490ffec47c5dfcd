"""The exception for invalid input, and how several such errors are collected and raised together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_QUOTED = re.compile(r"('[^']*')")


class VrbenchError(Exception):
    """Invalid input; the command line prints the message as one line and exits with 2."""


class RunAborted(BaseException):
    """Ends a process that others wait for, past all that goes on after errors; the reason was logged."""


class MultipleErrors(VrbenchError):
    """Several errors found in one pass, raised together so that the user can fix them in one go.

    Attributes:
        messages: one message each, in the order in which they were found.
    """

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = tuple(messages)
        super().__init__("\n".join(self.messages))


def raise_errors(found: Iterable[str]) -> None:
    """Raise one `VrbenchError` with every message, or return when there is none."""
    distinct = list(dict.fromkeys(found))
    if len(distinct) == 1:
        raise VrbenchError(distinct[0])
    if distinct:
        raise MultipleErrors(distinct)


def error_messages(error: VrbenchError) -> list[str]:
    """Return the single messages of an error."""
    return list(error.messages) if isinstance(error, MultipleErrors) else [str(error)]


@contextmanager
def collect_errors(into: list[str]) -> Iterator[None]:
    """Append the messages of a `VrbenchError` raised in the block to a list, and continue after the block."""
    try:
        yield
    except VrbenchError as error:
        into += error_messages(error)


def merge_messages(found: Iterable[str]) -> list[str]:
    """Merge messages that differ in their first quoted name alone into one message with all the names."""
    causes: dict[tuple[str, str], list[str]] = {}
    for message in dict.fromkeys(found):
        before, name, after = _QUOTED.split(message, maxsplit=1) if _QUOTED.search(message) else (message, "", "")
        causes.setdefault((before, after), []).append(name)
    return [f"{before}{', '.join(names)}{after}" for (before, after), names in causes.items()]


def suggest_names(name: str, known: Iterable[str]) -> str:
    """Return what to write instead of an unknown name: similar names, or all names that exist."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=2)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"there are {', '.join(names)}"
