"""The one exception that a user can mend: it says what was given and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable

_QUOTED = re.compile(r"('[^']*')")


class VrbenchError(Exception):
    """A fault in what the user gave; the command line prints it as one line and exits with 2."""


class ManyFaults(VrbenchError):
    """Several faults found in one look, told together, so that the user mends them in one go.

    Attributes:
        faults: the single sentences, in the order in which they were found.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


def raise_all(faults: Iterable[str]) -> None:
    """Raise one `VrbenchError` that tells every fault, or return when there is none."""
    found = list(dict.fromkeys(faults))
    if len(found) == 1:
        raise VrbenchError(found[0])
    if found:
        raise ManyFaults(found)


def gathered(faults: Iterable[str]) -> list[str]:
    """Faults in one line a cause: those that differ in the first quoted name alone become one with all the names."""
    causes: dict[tuple[str, str], list[str]] = {}
    for fault in dict.fromkeys(faults):
        before, name, after = _QUOTED.split(fault, maxsplit=1) if _QUOTED.search(fault) else (fault, "", "")
        causes.setdefault((before, after), []).append(name)
    return [f"{before}{', '.join(names)}{after}" for (before, after), names in causes.items()]


def sentences(error: VrbenchError) -> list[str]:
    """The single sentences of an error, one for each fault in it."""
    return list(error.faults) if isinstance(error, ManyFaults) else [str(error)]
