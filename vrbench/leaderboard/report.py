"""What validating found, as text for a terminal or as Markdown for a comment."""

from __future__ import annotations

from collections.abc import Iterator

from vrbench.leaderboard.schema import Figure, Standing
from vrbench.leaderboard.untrusted_input import markdown_code, shown
from vrbench.leaderboard.validate import Validation

MOST_TOLD = 20
"""Refused submissions, or new rows, that a comment tells."""

REASON = 400
"""Characters of a reason."""


def as_text(found: Validation) -> str:
    """One line a refused submission and one a reason, then how many were taken."""
    lines = [line for refusal in found.refusals for line in (f"refused: {refusal.path}", *_indented(refusal.reasons))]
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join([*lines, _summary(found)]) + "\n"


def as_markdown(found: Validation) -> str:
    """The same for a comment, with the rows that are new; nothing of a stranger's text acts in it."""
    return "\n".join(["### Leaderboard", "", _summary(found), *_refused(found), *_new(found), *_notes(found)]) + "\n"


def _summary(found: Validation) -> str:
    taken = f"{len(found.taken):,} submission{'s' * (len(found.taken) != 1)} scored again and taken"
    refused = f"{len(found.refusals):,} refused" if found.refusals else "none refused"
    return f"{taken}, {refused}"


def _indented(reasons: tuple[str, ...]) -> Iterator[str]:
    yield from (f"  - {shown(reason, REASON)}" for reason in reasons)


def _refused(found: Validation) -> Iterator[str]:
    for refusal in found.refusals[:MOST_TOLD]:
        yield ""
        yield f"**Refused:** {markdown_code(refusal.path, 200)}"
        yield ""
        yield from (f"- {markdown_code(reason, REASON)}" for reason in refusal.reasons[:MOST_TOLD])
        if len(refusal.reasons) > MOST_TOLD:
            yield f"- and {len(refusal.reasons) - MOST_TOLD:,} more reasons"
    if len(found.refusals) > MOST_TOLD:
        yield f"\nand {len(found.refusals) - MOST_TOLD:,} more refused"


def _new(found: Validation) -> Iterator[str]:
    new = [row for row in found.rows if row.key not in found.known]
    if new:
        yield ""
        yield "| new | visual | kept % | text | kept % | verdicts |"
        yield "|---|---|---|---|---|---|"
        yield from (_line(row) for row in new[:MOST_TOLD])
    if len(new) > MOST_TOLD:
        yield f"\nand {len(new) - MOST_TOLD:,} more new rows"


def _line(row: Standing) -> str:
    cells = [markdown_code(row.key, 200)]
    for mean in (row.visual, row.text):
        cells += [_figure(mean.score), _figure(mean.retention)] if mean is not None else ["-", "-"]
    verdicts = "; ".join(f"{verdict.claim.text} {verdict.verdict}" for verdict in row.verdicts)
    return f"| {' | '.join([*cells, verdicts or 'baseline'])} |"


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    ends = "" if figure.low is None or figure.high is None else f" [{figure.low:.1f}, {figure.high:.1f}]"
    return f"{figure.value:.1f}{ends}"


def _notes(found: Validation) -> Iterator[str]:
    if found.notes:
        yield ""
    yield from (f"- note: {markdown_code(note, REASON)}" for note in found.notes[:MOST_TOLD])
