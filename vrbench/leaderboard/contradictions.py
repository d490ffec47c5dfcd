"""What a stored run says against what follows from its answers: every figure and every field of every sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vrbench.leaderboard.reading import quoted
from vrbench.records import Sample, TaskResult

TOLERANCE = 1e-9
"""Relative difference up to which two figures are the same: processors differ in the last digit of an exponential."""

DRAWN = 0.1
"""Share of an interval's width by which its ends may differ: numpy promises no version the draws of another.

With 4,000 draws the ends of two independent bootstraps differ by 1.5 % of the width (one standard deviation).
"""

MOST_FIGURES = 6
"""Figures of one task of which it is said what they should be."""

ABSENT = "not there"
"""What is told of a value that one of the two does not have."""

_ELSEWHERE = {"data", "seconds", "asked", "version", "data_digest", "definition_digest", "samples_digest"}
"""Fields of a result that do not follow from answers, or that are held against the board."""

_FIELDS = ("score", "weight", "answer", "target", "loglikelihoods", "cluster", "group", "unit", "unscored")


def result_faults(stored: TaskResult, rebuilt: TaskResult) -> Iterator[str]:
    """Figures and fields of a result that are not what the answers give, one sentence each."""
    odd = differences(*(result.model_dump(exclude=_ELSEWHERE) for result in (stored, rebuilt)))
    for name, old, new in odd[:MOST_FIGURES]:
        yield f"{quoted(name)} is {quoted(old)} in run.json; from the answers it is {quoted(new)}"
    if len(odd) > MOST_FIGURES:
        yield f"{len(odd) - MOST_FIGURES:,} more of its figures are not what follows from the answers"


def differences(stored: Any, rebuilt: Any) -> list[tuple[str, Any, Any]]:
    """Where two values of the same shape differ: 'score.low', what is stored, and what was made anew.

    Ends of intervals, which are drawn, may differ by `DRAWN` of the interval's width.
    """
    theirs, ours = dict(_flat(stored)), dict(_flat(rebuilt))
    names = [*ours, *(name for name in theirs if name not in ours)]
    pairs = [(name, theirs.get(name, ABSENT), ours.get(name, ABSENT)) for name in names]
    return [
        (name, old, new) for name, old, new in pairs if not _same(old, new) and not _drawn_alike(name, old, new, ours)
    ]


def _drawn_alike(name: str, old: Any, new: Any, ours: Mapping[str, Any]) -> bool:
    """Whether a value is an end of an interval, and as near to the one made anew as another draw may be."""
    end = next((end for end in ("low", "high") if name.endswith(end)), "")
    beginning = name[: len(name) - len(end)]
    low, high = (ours.get(f"{beginning}{which}") for which in ("low", "high"))
    if not end or not all(isinstance(value, float) for value in (old, new, low, high)):
        return False
    return abs(old - new) <= DRAWN * abs(high - low)  # type: ignore[operator]


def sample_faults(stored: Sequence[Sample], rebuilt: Sequence[Sample]) -> Iterator[str]:
    """Fields of samples that are not what the answers give, one sentence a field.

    Args:
        stored: as they were handed in, of the same items in the same order.
        rebuilt: from the same responses.
    """
    both = list(zip(stored, rebuilt, strict=True))
    for field in _FIELDS:
        odd = [(a, b) for a, b in both if not _same(getattr(a, field), getattr(b, field))]
        if odd:
            a, b = odd[0]
            yield (
                f"the {field} of {_samples(len(odd))} is not what follows from the answer, such as {quoted(a.id)}: "
                f"{quoted(getattr(a, field))} instead of {quoted(getattr(b, field))}"
            )
    prompts = [a.id for a, b in both if a.prompt_digest != b.prompt_digest]
    if prompts:
        yield f"the prompt of {_samples(len(prompts))} is not the task's, such as {quoted(prompts[0])}"


def _samples(count: int) -> str:
    return f"{count:,} sample{'s' if count > 1 else ''}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """'score.low' -> its value, and so on for everything within."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in inside:
        yield from _flat(inner, f"{name}.{key}" if name else str(key))
    if not inside:
        yield name, value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)
