"""Claims such as 'visual>=99%', and the verdict of an interval on them: supported, refuted or undecided."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, Literal

from vrbench.core.errors import VrbenchError, collect_errors, raise_errors
from vrbench.statistics.schema import Claim, Verdict

DEFAULT_CLAIMS = ("visual>=99%", "text>=-1")
"""Keeps at least 99 % of the visual score; text is no worse than 1 point."""

POOLS: dict[str, tuple[str, ...]] = {
    "visual": ("visual", "pocket_visual"),
    "text": ("text", "pocket_text"),
    "pocket": ("pocket_visual", "pocket_text"),
}
"""Name in a claim -> the suites that it covers; any other name is a suite's or a task's own."""

MAX_ITEMS = 1_000_000
"""More items than this are not called reachable."""

_CLAIM = re.compile(r"\s*([A-Za-z0-9_.\-/]+?)\s*>=\s*(-?\d+(?:\.\d+)?)\s*(%?)\s*")


def parse(text: str) -> Claim:
    """Read 'visual>=99%' (retention) or 'text>=-1' (points of difference).

    Raises:
        VrbenchError: the text is not a claim.
    """
    match = _CLAIM.fullmatch(text)
    if match is None:
        raise VrbenchError(
            f"claim {text!r} cannot be read; write a name, >= and a number: 'visual>=99%' for retention in percent, "
            "'text>=-1' for a difference in points"
        )
    name, number, percent = match.groups()
    if percent and float(number) < 0:
        raise VrbenchError(f"claim {text!r} asks for a retention below 0 %; leave out % for points")
    unit: Literal["retention", "points"] = "retention" if percent else "points"
    return Claim(text=f"{name}>={number}{percent}", name=name, unit=unit, threshold=float(number))


def parse_all(texts: Iterable[str]) -> tuple[Claim, ...]:
    """Read several claims, with all errors reported together; the same claim twice is one."""
    claims: dict[str, Claim] = {}
    errors: list[str] = []
    for text in texts:
        with collect_errors(errors):
            claim = parse(text)
            claims[claim.text] = claim
    raise_errors(errors)
    return tuple(claims.values())


def judge(claim: Claim, n: int, estimate: float | None, ends: tuple[float, float] | None) -> Verdict:
    """Return a verdict: supported if the whole interval keeps the claim, refuted if none of it does, else undecided.

    Args:
        n: items that the estimate rests on.
        estimate: retention in percent or difference in points, in the claim's unit; None if undefined.
        ends: its 95 % interval; None if it has none.
    """
    if estimate is None or ends is None:
        return Verdict(claim=claim, verdict="undecided", estimate=estimate, n=n, reason="there is no interval")
    low, high = ends
    known: dict[str, Any] = {"claim": claim, "estimate": estimate, "low": low, "high": high, "n": n}
    if low >= claim.threshold:
        return Verdict(verdict="supported", **known)
    if high < claim.threshold:
        return Verdict(verdict="refuted", **known)
    needed = items_needed(claim.threshold, n, estimate, ends)
    if needed is None:
        return Verdict(verdict="undecided", reason="too near the threshold for any reasonable number of items", **known)
    side = "support" if estimate > claim.threshold else "refute"
    reason = f"if the estimate holds, about {needed:,} items would {side} it"
    return Verdict(verdict="undecided", n_needed=needed, reason=reason, **known)


def items_needed(threshold: float, n: int, estimate: float, ends: tuple[float, float]) -> int | None:
    """Return about how many items would move the interval off the threshold, to two digits, if the estimate holds.

    The end beyond the threshold approaches the estimate as 1/sqrt(n).

    Returns:
        None when that takes more than `MAX_ITEMS`.
    """
    gap = estimate - threshold
    reach = estimate - ends[0] if gap > 0 else ends[1] - estimate
    if abs(gap) * math.sqrt(MAX_ITEMS) <= reach * math.sqrt(n):
        return None
    exact = max(n + 1, n * (reach / gap) ** 2)
    step = 10 ** max(0, math.floor(math.log10(exact)) - 1)
    return math.ceil(exact / step) * step
