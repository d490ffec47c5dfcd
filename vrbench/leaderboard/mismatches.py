"""What a stored run says against what follows from its answers: every figure and every field of every sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vrbench.core.schemas import Sample, TaskResult
from vrbench.leaderboard.untrusted_input import quoted

TOLERANCE = 1e-9
"""Relative difference up to which two figures are the same: processors differ in the last digit of an exponential."""

DRAWN_TOLERANCE = 0.05
"""Share of its width by which an end of an interval may differ, beside one cluster's worth.

The ends are quantiles of random draws, and another numpy, scipy or processor draws otherwise from the same seed. Two
sets of 4,000 draws differ by some 1.5 % of the width (the standard error of a 2.5 % quantile, sqrt(p (1 - p) / draws) /
density, twice), more where counts are coarse. Nothing is lost by it: the board shows the ends that it drew itself.
"""

MOST_FIGURES = 6
"""Figures of one task of which it is said what they should be."""

ABSENT = "not there"
"""What is told of a value that one of the two does not have."""

HOW_IT_RAN = ("data", "seconds", "asked", "reused", "code", "n_cut", "requests_cut", "warnings")
"""Fields of a result that only the run could know."""

_ELSEWHERE = {*HOW_IT_RAN, "version", "data_digest", "definition_digest", "samples_digest"}
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

    Ends of intervals, `low` and `high`, may differ as far as other draws make them differ.
    """
    theirs, ours = dict(_flat(stored)), dict(_flat(rebuilt))
    names = [*ours, *(name for name in theirs if name not in ours)]
    pairs = [(name, theirs.get(name, ABSENT), ours.get(name, ABSENT)) for name in names]
    return [(name, old, new) for name, old, new in pairs if not _same(old, new, _slack(name, ours))]


def _slack(name: str, values: Mapping[str, Any]) -> float:
    """How far an end of an interval may be from another set of draws' end; 0 for what is no such end."""
    place, _, field = name.rpartition(".")
    if field not in ("low", "high"):
        return 0.0
    low, high = values.get(f"{place}.low"), values.get(f"{place}.high")
    if not isinstance(low, float) or not isinstance(high, float):
        return 0.0
    clusters = values.get(f"{place}.clusters", values.get(f"{place.rpartition('.')[0]}.clusters"))
    step = min(100.0 / clusters, high - low) if isinstance(clusters, int) and clusters > 0 else 0.0
    return DRAWN_TOLERANCE * (high - low) + step


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


def _same(a: Any, b: Any, slack: float = 0.0) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=max(TOLERANCE, slack))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)
