"""The result of a validation, as text for a terminal or as Markdown for a comment."""

from __future__ import annotations

from collections.abc import Iterator

from vrbench.leaderboard.schema import LeaderboardRow, ScoreWithCI
from vrbench.leaderboard.untrusted_input.text import markdown_code, sanitize_for_display
from vrbench.leaderboard.validate import Validation
from vrbench.reporting.formatting import interval

MAX_LISTED = 20
"""Rejections, reasons or new rows that a comment lists."""

MAX_REASON = 400
"""Characters of a reason."""


def as_text(found: Validation) -> str:
    """Return one line for each rejection, one for each reason, and how many submissions were accepted."""
    lines = []
    for path, reasons in found.rejections.items():
        lines += [f"refused: {path}", *(f"  - {sanitize_for_display(reason, MAX_REASON)}" for reason in reasons)]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes), _summary(found)]) + "\n"


def as_markdown(found: Validation) -> str:
    """Return the same for a comment, with the new rows; untrusted text is formatted as code."""
    return "\n".join(["### Leaderboard", "", _summary(found), *_rejected(found), *_new(found), *_notes(found)]) + "\n"


def _summary(found: Validation) -> str:
    taken = f"{len(found.accepted):,} submission{'s' * (len(found.accepted) != 1)} scored again and accepted"
    return f"{taken}, {f'{len(found.reasons):,} refused' if found.reasons else 'none refused'}"


def _rejected(found: Validation) -> Iterator[str]:
    rejections = list(found.rejections.items())
    for path, reasons in rejections[:MAX_LISTED]:
        yield from ("", f"**Refused:** {markdown_code(path, 200)}", "")
        yield from (f"- {markdown_code(reason, MAX_REASON)}" for reason in reasons[:MAX_LISTED])
        if len(reasons) > MAX_LISTED:
            yield f"- and {len(reasons) - MAX_LISTED:,} more reasons"
    if len(rejections) > MAX_LISTED:
        yield f"\nand {len(rejections) - MAX_LISTED:,} more refused"


def _new(found: Validation) -> Iterator[str]:
    new = [row for row in found.rows if row.key not in found.known]
    if new:
        yield from ("", "| new | visual | kept % | text | kept % | verdicts |", "|---|---|---|---|---|---|")
        yield from map(_line, new[:MAX_LISTED])
    if len(new) > MAX_LISTED:
        yield f"\nand {len(new) - MAX_LISTED:,} more new rows"


def _line(row: LeaderboardRow) -> str:
    cells = [markdown_code(row.key, 200)]
    for mean in (row.visual, row.text):
        scores = (mean.score, mean.retention) if mean is not None else (ScoreWithCI(value=None),) * 2
        cells += [interval(score.value, score.low, score.high, 1) for score in scores]
    verdicts = "; ".join(f"{verdict.claim.text} {verdict.verdict}" for verdict in row.verdicts)
    return f"| {' | '.join([*cells, verdicts or 'baseline'])} |"


def _notes(found: Validation) -> Iterator[str]:
    if found.notes:
        yield ""
    yield from (f"- note: {markdown_code(note, MAX_REASON)}" for note in found.notes[:MAX_LISTED])
