"""The columns of a board's table and of its CSV file: each is one entry, with its heading, cells and order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from vrbench.leaderboard.schema import Leaderboard, LeaderboardRow, ScoreWithCI
from vrbench.leaderboard.site import wording
from vrbench.leaderboard.site.drawings import Axis, bar_scale, interval_bar, region_strip
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display
from vrbench.statistics.schema import Claim, Verdict

MADE, MEASURED, VERDICTS = "How it was made", "How it was measured", "Verdicts"
SUITES = {"visual": "Visual tasks", "text": "Text tasks"}
"""Suite -> heading above the columns of its mean."""
GROUPS = ("", *SUITES.values(), VERDICTS, MADE, MEASURED)
"""Headings above the columns, in the table's order; columns without one are in the CSV file only."""
NO_VALUE = Markup('<span class="none">–</span>')
SORT_LAST = 99_999_999
"""Sorts what has no rank."""


Get = Callable[[Any], Any]


def getter(path: str, default: Any = None) -> Get:
    """Return what gets a field of a row, such as 'visual.score.low'; the default where it or its parent is None."""

    def get(row: LeaderboardRow) -> Any:
        value: Any = row
        for name in path.split("."):
            value = None if value is None else getattr(value, name)
        return default if value is None else value

    return get


@dataclass(frozen=True)
class TableColumn:
    """One column of the board's table and its cells of the CSV file.

    Attributes:
        csv: name of each of its cells in the CSV file -> its value.
        header: heading in the table.
        group: heading above it and its neighbours; a column without one is in the CSV file only.
        cell: row -> content of its cell in the table.
        order: row -> value by which the table is sorted; None to sort by the cell's text.
        style: class of heading and cells: "num" and "quiet" are sorted as numbers.
        alt_header: the rest of the heading for a screen reader.
    """

    csv: Mapping[str, Get]
    header: str = ""
    group: str = ""
    cell: Callable[[LeaderboardRow], str] = lambda row: ""
    order: Get | None = None
    style: str = ""
    alt_header: str = ""


def columns_of(table: Leaderboard) -> list[TableColumn]:
    """Return the columns of a board, in the order of the CSV file."""
    several_families = len({row.family for row in table.rows}) > 1
    return [
        TableColumn({name: getter(name) for name in ("org", "name", "revision")}),
        TableColumn(
            {"family": getter("family")}, "Family", MADE if several_families else "", lambda row: _text(row.family)
        ),
        TableColumn({"baseline": getter("baseline"), "description": getter("description")}),
        TableColumn(
            {"tuning": getter("region.tuning"), "depth": getter("region.depth")},
            "Tuning", MADE, lambda row: _text(row.region.tuning),
        ),
        TableColumn(
            {"layers_tuned": getter("region.tuned"), "share_tuned": getter("region.tuned_share")},
            "Layers tuned", MADE, _layers_tuned, getter("region.tuned_share"), "quiet",
        ),
        TableColumn(
            {
                "layers_removed": getter("region.removed"), "share_removed": getter("region.removed_share"),
                "healed": getter("region.healed"),
            },
            "Removed", MADE, _layers_removed, getter("region.removed_share"), "quiet",
        ),
        *(column for suite in SUITES for column in _mean_columns(suite, table.rows)),
        *(_claim_column(claim) for claim in table.claims),
        *(_task_column(task.id) for task in table.tasks),
        TableColumn(
            {"training_seconds": getter("cost.seconds"), "training_device": getter("cost.device")},
            "Training", MADE, lambda row: wording.duration(row.cost.seconds) + _small(row.cost.device),
            getter("cost.seconds", -1), "num",
        ),
        TableColumn(
            {"items_per_second": getter("cost.items_per_second"), "measured_on": getter("cost.measured_on")},
            "Items/s", MEASURED, _speed, getter("cost.items_per_second", -1), "num",
        ),
        TableColumn(
            {"status": getter("status.kind"), "checked_by": getter("status.by"), "checked": getter("status.date")},
            "Status", MEASURED, _status, getter("status.kind"),
        ),
        TableColumn({"submitted": getter("submitted")}),
    ]  # fmt: skip


def table_groups(columns: Sequence[TableColumn]) -> list[tuple[str, list[TableColumn]]]:
    """Return the columns of the table below their common headings."""
    ordered = sorted((column for column in columns if column.group), key=lambda column: GROUPS.index(column.group))
    return [(group, list(members)) for group, members in groupby(ordered, lambda column: column.group)]


def _mean_columns(suite: str, rows: Sequence[LeaderboardRow]) -> Iterator[TableColumn]:
    """Yield rank, score and retention of a mean; in the table only if some row has it."""
    score, retention = getter(f"{suite}.score"), getter(f"{suite}.retention")
    kept = [found for row in rows if (found := retention(row))]
    group, scale = SUITES[suite] if kept else "", bar_scale(kept, 100.0)
    places = {f"{suite}_score_rank_{end}": getter(f"{suite}.score.rank.{end}") for end in ("best", "worst")}
    alt_header = f", {suite}"
    yield TableColumn({}, "Rank", group, lambda r: _rank(score(r)), lambda r: _rank_order(score(r)), "num", alt_header)
    yield TableColumn(
        _ends(f"{suite}_score", f"{suite}.score") | places,
        "Score", group, lambda row: _titled(wording.value(score(row)), wording.ends(score(row))),
        getter(f"{suite}.score.value", -1), "num", alt_header,
    )  # fmt: skip
    yield TableColumn(
        _ends(f"{suite}_retention", f"{suite}.retention"),
        "Kept %", group, lambda row: _retention(retention(row), scale),
        getter(f"{suite}.retention.value", -1), "num kept", f" of the baseline’s {suite} score",
    )  # fmt: skip


def _ends(name: str, path: str) -> dict[str, Get]:
    return {name: getter(f"{path}.value"), f"{name}_low": getter(f"{path}.low"), f"{name}_high": getter(f"{path}.high")}


def _claim_column(claim: Claim) -> TableColumn:
    def verdict(row: LeaderboardRow) -> Verdict | None:
        return next((verdict for verdict in row.verdicts if verdict.claim.text == claim.text), None)

    return TableColumn(
        {claim.text: lambda row: found.verdict if (found := verdict(row)) else None},
        wording.claim(claim), VERDICTS, lambda row: _verdict(verdict(row)),
        lambda row: found.verdict if (found := verdict(row)) else "",
    )  # fmt: skip


def _task_column(task: str) -> TableColumn:
    """Score and retention on a task, in the CSV file only."""

    def of(get: Get) -> Get:
        return lambda row: next((get(scores) for scores in row.tasks if scores.task == task), None)

    cells = _ends(task, "score") | _ends(f"{task}_retention", "retention")
    return TableColumn({name: of(get) for name, get in cells.items()})


def _rank_order(score: ScoreWithCI | None) -> float:
    return score.rank.best * 10_000 + score.rank.worst if score and score.rank else SORT_LAST


def _text(text: str) -> str:
    return sanitize_for_display(text, 40)


def _titled(text: str, title: str) -> Markup:
    return Markup('<span title="{}">{}</span>').format(title, text)


def _small(text: str) -> Markup:
    return Markup('<span class="small">{}</span>').format(_text(text)) if text else Markup("")


def _rank(score: ScoreWithCI | None) -> Markup:
    rank = score.rank if score else None
    return _titled(wording.span(rank), wording.span_words(rank)) if score else NO_VALUE


def _retention(score: ScoreWithCI | None, scale: Axis) -> Markup:
    if score is None:
        return NO_VALUE
    figure = Markup('<span class="figure">{} <span class="ends">{}</span></span>')
    return figure.format(wording.value(score), wording.ends(score)) + interval_bar(score, scale)


def _verdict(verdict: Verdict | None) -> Markup:
    if verdict is None:
        return NO_VALUE
    title = wording.estimate(verdict) + (f"; {verdict.reason}" if verdict.reason else "")
    span = Markup('<span class="verdict {}" title="{}"><span aria-hidden="true">{}</span> {}</span>')
    return span.format(verdict.verdict, title, wording.mark(verdict), verdict.verdict)


def _layers_tuned(row: LeaderboardRow) -> Markup:
    title = sanitize_for_display(row.region.tuned, 200)
    span = Markup('<span title="{}">{}<span class="small">{}</span></span>')
    return span.format(title, region_strip(row.region), wording.tuned(row.region, ""))


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
