"""The columns of a board's table and of its CSV file: each is one entry, with its heading, cells and order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from vrbench.leaderboard.schema import Leaderboard, LeaderboardRow, ScoreWithCI
from vrbench.leaderboard.site import wording
from vrbench.leaderboard.site.drawings import BarScale, bar_scale, interval_bar, region_strip
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display
from vrbench.statistics.schema import Claim, Verdict

MADE, MEASURED, VERDICTS = "How it was made", "How it was measured", "Verdicts"
SUITES = {"visual": "Visual tasks", "text": "Text tasks"}
"""Suite -> heading above the columns of its mean."""
GROUPS = ("", *SUITES.values(), VERDICTS, MADE, MEASURED)
"""Headings above the columns, in the table's order; columns without one are in the CSV file only."""
NONE = Markup('<span class="none">–</span>')
LAST = 99_999_999
"""Sorts what has no rank."""


@dataclass(frozen=True)
class TableColumn:
    """One column of the board's table and its cells of the CSV file.

    Attributes:
        csv: row -> names and values of its cells in the CSV file.
        header: heading in the table.
        group: heading above it and its neighbours; a column without one is in the CSV file only.
        cell: row -> content of its cell in the table.
        order: row -> value by which the table is sorted; None to sort by the cell's text.
        style: class of heading and cells: "num" and "quiet" are sorted as numbers.
        said: the rest of the heading for a screen reader.
    """

    csv: Callable[[LeaderboardRow], dict[str, Any]] = lambda row: {}
    header: str = ""
    group: str = ""
    cell: Callable[[LeaderboardRow], str] = lambda row: ""
    order: Callable[[LeaderboardRow], float | str] | None = None
    style: str = ""
    said: str = ""


def columns_of(table: Leaderboard) -> list[TableColumn]:
    """Return the columns of a board, in the order of the CSV file."""
    return [
        TableColumn(lambda row: {"org": row.org, "name": row.name, "revision": row.revision}),
        TableColumn(
            lambda row: {"family": row.family}, "Family",
            MADE if len({row.family for row in table.rows}) > 1 else "", lambda row: _text(row.family),
        ),
        TableColumn(lambda row: {"baseline": row.baseline, "description": row.description}),
        TableColumn(
            lambda row: {"tuning": row.region.tuning, "depth": row.region.depth},
            "Tuning", MADE, lambda row: _text(row.region.tuning),
        ),
        TableColumn(
            lambda row: {"layers_tuned": row.region.tuned, "share_tuned": row.region.tuned_share},
            "Layers tuned", MADE, _layers_tuned, lambda row: row.region.tuned_share, "quiet",
        ),
        TableColumn(
            lambda row: {
                "layers_removed": row.region.removed, "share_removed": row.region.removed_share,
                "healed": row.region.healed,
            },
            "Removed", MADE, _layers_removed, lambda row: row.region.removed_share, "quiet",
        ),
        *(column for suite in SUITES for column in _mean_columns(suite, table.rows)),
        *(_claim_column(claim) for claim in table.claims),
        *(_task_column(task.id) for task in table.tasks),
        TableColumn(
            lambda row: {"training_seconds": row.cost.seconds, "training_device": row.cost.device},
            "Training", MADE, lambda row: wording.duration(row.cost.seconds) + _small(row.cost.device),
            lambda row: -1 if row.cost.seconds is None else row.cost.seconds, "num",
        ),
        TableColumn(
            lambda row: {"items_per_second": row.cost.items_per_second, "measured_on": row.cost.measured_on},
            "Items/s", MEASURED, _speed,
            lambda row: -1 if row.cost.items_per_second is None else row.cost.items_per_second, "num",
        ),
        TableColumn(
            lambda row: {"status": row.status.kind, "checked_by": row.status.by, "checked": row.status.date},
            "Status", MEASURED, _status, lambda row: row.status.kind,
        ),
        TableColumn(lambda row: {"submitted": row.submitted}),
    ]  # fmt: skip


def table_groups(columns: Sequence[TableColumn]) -> list[tuple[str, list[TableColumn]]]:
    """Return the columns of the table below their common headings."""
    ordered = sorted((column for column in columns if column.group), key=lambda column: GROUPS.index(column.group))
    return [(group, list(members)) for group, members in groupby(ordered, lambda column: column.group)]


def csv_cells(row: LeaderboardRow, columns: Sequence[TableColumn]) -> dict[str, Any]:
    """Return a row of the CSV file by the names in its first line."""
    return {name: value for column in columns for name, value in column.csv(row).items()}


def _mean_columns(suite: str, rows: Sequence[LeaderboardRow]) -> Iterator[TableColumn]:
    """Rank, score and retention of a mean; in the table only if some row has it."""

    def of(row: LeaderboardRow, field: str = "score") -> ScoreWithCI | None:
        mean = getattr(row, suite)
        return getattr(mean, field) if mean else None

    kept = [found for row in rows if (found := of(row, "retention"))]
    group, scale = SUITES[suite] if kept else "", bar_scale(kept, 100.0)
    yield TableColumn(
        lambda row: {}, "Rank", group, lambda row: _rank(of(row)), lambda row: _rank_order(of(row)), "num", f", {suite}"
    )
    yield TableColumn(
        lambda row: _score_cells(f"{suite}_score", of(row)) | _rank_cells(f"{suite}_score", of(row)),
        "Score", group, lambda row: _titled(wording.value(of(row)), wording.ends(of(row))),
        lambda row: _value(of(row)), "num", f", {suite}",
    )  # fmt: skip
    yield TableColumn(
        lambda row: _score_cells(f"{suite}_retention", of(row, "retention")),
        "Kept %", group, lambda row: _retention(of(row, "retention"), scale),
        lambda row: _value(of(row, "retention")), "num kept", f" of the baseline’s {suite} score",
    )  # fmt: skip


def _claim_column(claim: Claim) -> TableColumn:
    def verdict_of(row: LeaderboardRow) -> Verdict | None:
        return next((verdict for verdict in row.verdicts if verdict.claim.text == claim.text), None)

    def name(row: LeaderboardRow) -> str | None:
        verdict = verdict_of(row)
        return verdict.verdict if verdict else None

    return TableColumn(
        lambda row: {claim.text: name(row)},
        wording.claim(claim), VERDICTS, lambda row: _verdict(verdict_of(row)), lambda row: name(row) or "",
    )  # fmt: skip


def _task_column(task: str) -> TableColumn:
    def cells(row: LeaderboardRow) -> dict[str, Any]:
        found = next((scores for scores in row.tasks if scores.task == task), None)
        kept = _score_cells(f"{task}_retention", found.retention if found else None)
        return _score_cells(task, found.score if found else None) | kept

    return TableColumn(cells)


def _score_cells(name: str, score: ScoreWithCI | None) -> dict[str, float | None]:
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {f"{name}{suffix}": getattr(score, field) if score else None for suffix, field in ends.items()}


def _rank_cells(name: str, score: ScoreWithCI | None) -> dict[str, int | None]:
    rank = score.rank if score else None
    return {f"{name}_rank_best": rank.best if rank else None, f"{name}_rank_worst": rank.worst if rank else None}


def _value(score: ScoreWithCI | None) -> float:
    return -1 if score is None or score.value is None else score.value


def _rank_order(score: ScoreWithCI | None) -> float:
    return score.rank.best * 10_000 + score.rank.worst if score and score.rank else LAST


def _text(text: str) -> str:
    return sanitize_for_display(text, 40)


def _titled(text: str, title: str) -> Markup:
    return Markup('<span title="{}">{}</span>').format(title, text)


def _small(text: str) -> Markup:
    return Markup('<span class="small">{}</span>').format(_text(text)) if text else Markup("")


def _rank(score: ScoreWithCI | None) -> Markup:
    rank = score.rank if score else None
    return _titled(wording.span(rank), wording.span_words(rank)) if score else NONE


def _retention(score: ScoreWithCI | None, scale: BarScale) -> Markup:
    if score is None:
        return NONE
    figure = Markup('<span class="figure">{} <span class="ends">{}</span></span>')
    return figure.format(wording.value(score), wording.ends(score)) + interval_bar(score, scale)


def _verdict(verdict: Verdict | None) -> Markup:
    if verdict is None:
        return NONE
    title = wording.estimate(verdict) + (f"; {verdict.reason}" if verdict.reason else "")
    span = Markup('<span class="verdict {}" title="{}"><span aria-hidden="true">{}</span> {}</span>')
    return span.format(verdict.verdict, title, wording.mark(verdict), verdict.verdict)


def _layers_tuned(row: LeaderboardRow) -> Markup:
    title = sanitize_for_display(row.region.tuned, 200)
    span = Markup('<span title="{}">{}<span class="small">{}</span></span>')
    return span.format(title, region_strip(row.region), wording.tuned_briefly(row.region))


def _layers_removed(row: LeaderboardRow) -> Markup:
    if not row.region.removed_share:
        return Markup('<span class="none">none</span>')
    share = _titled(wording.share(row.region.removed_share), sanitize_for_display(row.region.removed, 200))
    return share + _small("healed" if row.region.healed else "")


def _speed(row: LeaderboardRow) -> Markup:
    on = f"on {sanitize_for_display(row.cost.measured_on, 60)}" if row.cost.measured_on else ""
    return _titled(wording.speed(row.cost.items_per_second), on)


def _status(row: LeaderboardRow) -> Markup:
    span = Markup('<span class="status {}" title="by {}">{}</span>')
    status = row.status
    return span.format(status.kind, sanitize_for_display(status.by, 100), status.kind) + _small(status.date)
