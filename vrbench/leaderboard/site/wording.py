"""Scores and other values of a board as the texts that its pages show."""

from __future__ import annotations

from vrbench.core.layers import LayerSet
from vrbench.leaderboard.schema import LayerRegion, Rank, ScoreWithCI
from vrbench.reporting import formatting
from vrbench.statistics.schema import Claim, Verdict

NONE = "–"
"""Shown where there is no value."""


def value(score: ScoreWithCI | None, unit: str = "percent", signed: bool = False) -> str:
    """Return the estimate alone: one digit of a percentage, two of a perplexity."""
    if score is None or score.value is None:
        return NONE
    return formatting.number(score.value, 2 if unit == "perplexity" else 1, signed)


def ends(score: ScoreWithCI | None, unit: str = "percent", signed: bool = False) -> str:
    """Return its 95 % interval, '[86.5, 90.9]'; empty if it has none."""
    if score is None or score.low is None or score.high is None:
        return ""
    digits = 2 if unit == "perplexity" else 1
    return f"[{formatting.number(score.low, digits, signed)}, {formatting.number(score.high, digits, signed)}]"


def span(rank: Rank | None) -> str:
    """Return a rank as text: '2', or '2–4' where intervals overlap."""
    if rank is None:
        return NONE
    return str(rank.best) if rank.best == rank.worst else f"{rank.best}–{rank.worst}"


def span_words(rank: Rank | None) -> str:
    """Return a rank in words, for a screen reader."""
    if rank is None:
        return "not ranked"
    return f"rank {rank.best}" if rank.best == rank.worst else f"rank {rank.best} to {rank.worst}, tied"


def share(part: float) -> str:
    """Return a share as a percentage: '27 %' for 0.2667."""
    return f"{100 * part:.0f} %"


def duration(seconds: float | None) -> str:
    """Return a duration such as '54 s', '3 min 28 s' or '2 h 05 min'."""
    if seconds is None:
        return NONE
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def speed(rate: float | None) -> str:
    """Return items a second, to three digits at most."""
    if rate is None:
        return NONE
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"


def count(n: int) -> str:
    """Return a count with thousands separators: '1,234'."""
    return f"{n:,}"


def claim(stated: Claim) -> str:
    """Return a claim as text: 'visual ≥ 99 %' or 'text ≥ −1 pt'."""
    unit = "%" if stated.unit == "retention" else "pt"
    return f"{stated.name} ≥ {stated.threshold:g} {unit}".replace("-", formatting.MINUS)


def mark(verdict: Verdict) -> str:
    """Return the symbol of a verdict, which is always followed by the word."""
    return formatting.VERDICT_MARKS[verdict.verdict]


def estimate(verdict: Verdict) -> str:
    """Return the estimate behind a verdict, such as '88.6 [86.5, 90.9] %'."""
    signed = verdict.claim.unit == "points"
    text = formatting.interval(verdict.estimate, verdict.low, verdict.high, 1, signed)
    return f"{text} {'pt' if signed else '%'}" if verdict.estimate is not None else NONE


def tuned(region: LayerRegion, unit: str = " layers") -> str:
    """Return the tuned layers as text: '8 of 30 layers, 27 %', or without the unit."""
    number = len(LayerSet.parse(region.tuned, region.depth))
    return f"{number} of {region.depth}{unit}, {share(region.tuned_share)}"


FILTERS = {
    filter.__name__: filter
    for filter in (
        value, ends, span, span_words, share, duration, speed, count, claim, mark, estimate, tuned,
    )
}  # fmt: skip
"""Name in a template -> what writes it."""
