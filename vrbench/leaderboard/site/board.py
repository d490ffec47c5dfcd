"""The page of a board: its table and plots; and the same table as CSV and JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vrbench.leaderboard.schema import Leaderboard, LeaderboardRow, LeaderboardTask, ScoreWithCI, SuiteMean
from vrbench.leaderboard.site import drawings, layout, plots
from vrbench.leaderboard.site.content import BoardContent
from vrbench.leaderboard.site.pages import Frame
from vrbench.leaderboard.untrusted_input.text import csv_cell
from vrbench.statistics.schema import Verdict

_BETWEEN_CELLS = re.compile(r"(?<=>)\n(?=</?t[dhr]\b)")
"""Line ends that are no text of a page: a browser would keep a node for each of them."""


@dataclass(frozen=True)
class Columns:
    """The columns of one mean."""

    name: str
    """'visual' or 'text'."""
    of: Callable[[LeaderboardRow], SuiteMean | None]
    """A row's figures."""
    scale: drawings.Scale
    """Of the bars of what is kept."""
    tasks: tuple[LeaderboardTask, ...]
    """The board's tasks of that suite."""


def page(content: BoardContent, frame: Frame, path: str) -> str:
    """The table of a board, with its filters and plots.

    Args:
        path: where it will lie within the site.
    """
    table, board = content.table, content.board

    def address(row: LeaderboardRow) -> str:
        return layout.relative(path, layout.submission_page(board.id, row))

    made = frame.render(
        "board.html.j2", path, board.title, board=board, table=table, means=_means(table),
        families={key: family.title for key, family in board.families.items()},
        tunings=sorted({row.region.tuning for row in table.rows}),
        plots=plots.plots_of(table.rows, address), kinds=_kinds(table), address=address, verdict=verdict_on,
        task_page=lambda task: layout.relative(path, layout.task_page(board.id, task)),
        unpinned=board.unpinned(),
    )  # fmt: skip
    return _BETWEEN_CELLS.sub("", made)


def _means(table: Leaderboard) -> list[Columns]:
    """The means that the board has, each with the scale of its column of bars."""
    found: list[Columns] = []
    for name, of in _MEANS.items():
        kept = [mean.retention for row in table.rows if (mean := of(row)) is not None]
        tasks = tuple(task for task in table.tasks if task.suite == name)
        if kept or tasks:
            found.append(Columns(name, of, drawings.scale_of(kept, 100.0), tasks))
    return found


def _kinds(table: Leaderboard) -> list[str]:
    return sorted({plots.kind_of(row) for row in table.rows}, key=lambda kind: (kind != "baseline", kind))


def verdict_on(row: LeaderboardRow, claim: str) -> Verdict | None:
    """What is said of a claim; nothing of a baseline."""
    return next((verdict for verdict in row.verdicts if verdict.claim.text == claim), None)


_MEANS: dict[str, Callable[[LeaderboardRow], SuiteMean | None]] = {
    "visual": lambda row: row.visual,
    "text": lambda row: row.text,
}


def tables(content: BoardContent) -> Iterator[tuple[str, str]]:
    """The table as files: CSV, a line a submission, and leaderboard.json."""
    yield layout.csv_file(content.board.id), csv_text(content.table)
    yield layout.json_file(content.board.id), content.table.json_text


def csv_text(table: Leaderboard) -> str:
    """A header and one line a row, in the table's order; no cell is a formula to a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    rows = [_cells(row, table) for row in table.rows]
    writer.writerow(rows[0] if rows else ["org", "name", "revision"])
    for cells in rows:
        writer.writerow([csv_cell(value) for value in cells.values()])
    return stream.getvalue()


def _cells(row: LeaderboardRow, table: Leaderboard) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "org": row.org, "name": row.name, "revision": row.revision, "family": row.family, "baseline": row.baseline,
        "description": row.description, "tuning": row.region.tuning, "depth": row.region.depth,
        "layers_tuned": row.region.tuned, "share_tuned": row.region.tuned_share,
        "layers_removed": row.region.removed, "share_removed": row.region.removed_share, "healed": row.region.healed,
    }  # fmt: skip
    for name, get in _MEANS.items():
        mean = get(row)
        cells |= _figure(f"{name}_score", mean.score if mean else None, ranked=True)
        cells |= _figure(f"{name}_retention", mean.retention if mean else None)
    for claim in table.claims:
        found = verdict_on(row, claim.text)
        cells[claim.text] = found.verdict if found else None
    tasks = {task.task: task for task in row.tasks}
    for task in table.tasks:
        got = tasks.get(task.id)
        cells |= _figure(task.id, got.score if got else None)
        cells |= _figure(f"{task.id}_retention", got.retention if got else None)
    return cells | {
        "training_seconds": row.cost.seconds, "training_device": row.cost.device,
        "items_per_second": row.cost.items_per_second, "measured_on": row.cost.measured_on,
        "status": row.status.kind, "checked_by": row.status.by, "checked": row.status.date, "submitted": row.submitted,
    }  # fmt: skip


def _figure(name: str, figure: ScoreWithCI | None, ranked: bool = False) -> dict[str, float | int | None]:
    ends = {"": "value", "_low": "low", "_high": "high"}
    cells: dict[str, float | int | None] = {
        f"{name}{suffix}": getattr(figure, field) if figure else None for suffix, field in ends.items()
    }
    if ranked:
        rank = figure.rank if figure else None
        cells |= {f"{name}_rank_best": rank.best if rank else None, f"{name}_rank_worst": rank.worst if rank else None}
    return cells
