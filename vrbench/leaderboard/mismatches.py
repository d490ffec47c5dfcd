"""Differences between a stored run and what follows from its answers: every value and every field of every sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vrbench.core.schemas import Sample, TaskResult
from vrbench.leaderboard.untrusted_input.text import sanitize_for_message

TOLERANCE = 1e-9
"""Relative difference up to which two values are equal: processors differ in the last digit of an exponential."""

INTERVAL_TOLERANCE = 0.05
"""Share of its width by which an end of an interval may differ, in addition to the weight of one cluster.

The ends are quantiles of random draws, and another numpy, scipy or processor draws differently from the same seed. Two
sets of 4,000 draws differ by about 1.5 % of the width (the standard error of a 2.5 % quantile, sqrt(p (1 - p) / draws)
/ density, twice), more where counts are coarse. Nothing is lost by it: the board shows the ends that it drew itself.
"""

MAX_FIGURES = 6
"""Values of one task that are listed."""

ONLY_IN_RUN = ("data", "seconds", "asked", "reused", "code", "n_cut", "requests_cut", "warnings")
"""Fields of a result that only the run could know."""

_NOT_COMPARED = {*ONLY_IN_RUN, "version", "data_digest", "definition_digest", "samples_digest"}
"""Fields of a result that do not follow from answers, or that are compared with the board."""

_SAMPLE_FIELDS = ("score", "weight", "answer", "target", "loglikelihoods", "cluster", "group", "unit", "unscored")


def validate_result(stored: TaskResult, rescored: TaskResult) -> Iterator[str]:
    """Yield the values and fields of a result that the answers do not give, one message each."""
    different = differences(*(result.model_dump(exclude=_NOT_COMPARED) for result in (stored, rescored)))
    for name, old, new in different[:MAX_FIGURES]:
        name, old, new = map(sanitize_for_message, (name, old, new))
        yield f"{name} is {old} in run.json; from the answers it is {new}"
    if len(different) > MAX_FIGURES:
        yield f"{len(different) - MAX_FIGURES:,} more of its values do not follow from the answers"


def differences(stored: Any, rescored: Any) -> list[tuple[str, Any, Any]]:
    """Return where two values of the same shape differ: 'score.low', what is stored, and what was computed.

    Ends of intervals, `low` and `high`, may differ as much as other draws make them differ.
    """
    theirs, ours = dict(_flatten(stored)), dict(_flatten(rescored))
    pairs = [(name, theirs.get(name, "missing"), ours.get(name, "missing")) for name in {**ours, **theirs}]
    return [(name, old, new) for name, old, new in pairs if not _is_equal(old, new, _slack(name, ours))]


def _slack(name: str, values: Mapping[str, Any]) -> float:
    """Return the tolerance for an end of an interval, which depends on the draws; 0 for other values."""
    place, _, field = name.rpartition(".")
    low, high = values.get(f"{place}.low"), values.get(f"{place}.high")
    if field not in ("low", "high") or not isinstance(low, float) or not isinstance(high, float):
        return 0.0
    clusters = values.get(f"{place}.clusters", values.get(f"{place.rpartition('.')[0]}.clusters"))
    step = min(100.0 / clusters, high - low) if isinstance(clusters, int) and clusters > 0 else 0.0
    return INTERVAL_TOLERANCE * (high - low) + step


def validate_samples(stored: Sequence[Sample], rescored: Sequence[Sample]) -> Iterator[str]:
    """Yield the fields of samples that the answers do not give, one message each.

    Args:
        stored: as they were submitted.
        rescored: from the same responses, in the same order.
    """
    pairs = list(zip(stored, rescored, strict=True))
    for field in _SAMPLE_FIELDS:
        different = [(a, b) for a, b in pairs if not _is_equal(getattr(a, field), getattr(b, field))]
        if different:
            a, b = different[0]
            item, old, new = map(sanitize_for_message, (a.id, getattr(a, field), getattr(b, field)))
            count = _samples(len(different))
            yield f"the {field} of {count} does not follow from the answer, such as {item}: {old} instead of {new}"
    prompts = [a.id for a, b in pairs if a.prompt_digest != b.prompt_digest]
    if prompts:
        yield f"the prompt of {_samples(len(prompts))} is not the task's, such as {sanitize_for_message(prompts[0])}"


def _samples(count: int) -> str:
    return f"{count:,} sample{'s' if count > 1 else ''}"


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name, such as 'score.low', and the value of everything within a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in inside:
        yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    if not inside:
        yield name, value


def _is_equal(a: Any, b: Any, slack: float = 0.0) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=max(TOLERANCE, slack))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_is_equal, a, b))
    return type(a) is type(b) and bool(a == b)
