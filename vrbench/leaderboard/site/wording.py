"""Figures of a board as the texts that its pages show."""

from __future__ import annotations

from vrbench.core.layers import LayerSet
from vrbench.leaderboard.schema import LayerRegion, Rank, ScoreWithCI
from vrbench.reporting import formatting
from vrbench.statistics.schema import Claim, Verdict

NONE = "–"
"""What stands where there is no figure."""


def value(figure: ScoreWithCI | None, unit: str = "percent", signed: bool = False) -> str:
    """The estimate alone: one digit of a percentage, two of a perplexity."""
    if figure is None or figure.value is None:
        return NONE
    return formatting.number(figure.value, 2 if unit == "perplexity" else 1, signed)


def ends(figure: ScoreWithCI | None, unit: str = "percent", signed: bool = False) -> str:
    """Its 95 % interval, '[86.5, 90.9]'; empty where there is none."""
    if figure is None or figure.low is None or figure.high is None:
        return ""
    digits = 2 if unit == "perplexity" else 1
    return f"[{formatting.number(figure.low, digits, signed)}, {formatting.number(figure.high, digits, signed)}]"


def span(rank: Rank | None) -> str:
    """'2', or '2–4' where intervals overlap."""
    if rank is None:
        return NONE
    return str(rank.best) if rank.best == rank.worst else f"{rank.best}–{rank.worst}"


def span_words(rank: Rank | None) -> str:
    """The same for a screen reader."""
    if rank is None:
        return "not ranked"
    return f"rank {rank.best}" if rank.best == rank.worst else f"rank {rank.best} to {rank.worst}, tied"


def share(part: float) -> str:
    """0.2667 as '27 %'."""
    return f"{100 * part:.0f} %"


def duration(seconds: float | None) -> str:
    """'54 s', '3 min 28 s', '2 h 05 min'."""
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
    """Items a second, to three digits at most."""
    if rate is None:
        return NONE
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"


def count(n: int) -> str:
    """1,234."""
    return f"{n:,}"


def claim(stated: Claim) -> str:
    """'visual ≥ 99 %' or 'text ≥ −1 pt'."""
    unit = "%" if stated.unit == "retention" else "pt"
    return f"{stated.name} ≥ {stated.threshold:g} {unit}".replace("-", formatting.MINUS)


def mark(verdict: Verdict) -> str:
    """The sign of a verdict; its word always stands beside it."""
    return formatting.VERDICT_MARKS[verdict.verdict]


def estimate(verdict: Verdict) -> str:
    """What a verdict rests on, '88.6 [86.5, 90.9] %'."""
    signed = verdict.claim.unit == "points"
    text = formatting.interval(verdict.estimate, verdict.low, verdict.high, 1, signed)
    return f"{text} {'pt' if signed else '%'}" if verdict.estimate is not None else NONE


def layers_of(text: str, depth: int) -> int:
    """How many layers a row of the board names."""
    return len(LayerSet.parse(text, depth))


def tuned(region: LayerRegion) -> str:
    """'8 of 30 layers, 27 %'."""
    return f"{layers_of(region.tuned, region.depth)} of {region.depth} layers, {share(region.tuned_share)}"


def tuned_briefly(region: LayerRegion) -> str:
    """'8 of 30, 27 %'."""
    return f"{layers_of(region.tuned, region.depth)} of {region.depth}, {share(region.tuned_share)}"


FILTERS = {
    "value": value, "ends": ends, "span": span, "span_words": span_words, "share": share, "duration": duration,
    "speed": speed, "count": count, "claim": claim, "mark": mark, "estimate": estimate, "tuned": tuned,
    "tuned_briefly": tuned_briefly,
}  # fmt: skip
"""Name in a template -> what writes it."""
