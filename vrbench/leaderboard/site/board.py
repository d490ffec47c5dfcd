"""The pages of a board and of its tasks, and the board's table as CSV and JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping

from vrbench.leaderboard.schema import Leaderboard
from vrbench.leaderboard.site import pages
from vrbench.leaderboard.site.columns import SUITES, columns_of, table_groups
from vrbench.leaderboard.site.content import BoardContent
from vrbench.leaderboard.site.drawings import bar_scale
from vrbench.leaderboard.site.pages import Frame, PageLink
from vrbench.leaderboard.site.plots import kinds_of, plot_contents
from vrbench.leaderboard.untrusted_input.text import csv_cell
from vrbench.tasks.spec import TaskSpec

_BETWEEN_CELLS = re.compile(r"(?<=>)\n(?=</?t[dhr]\b)")
"""Line ends that are not text of a page: a browser would keep a node for each of them."""


def page(content: BoardContent, frame: Frame, path: str) -> str:
    """Return the page of a board: its table, with filters and plots.

    Args:
        path: its place within the site.
    """
    table, board = content.table, content.board
    by_suite = {suite: [task for task in table.tasks if task.suite == suite] for suite in SUITES}
    html = frame.render(
        "board.html.j2", path, board.title, board=board, table=table, groups=table_groups(columns_of(table)),
        families={key: family.title for key, family in board.families.items()},
        tunings=sorted({row.region.tuning for row in table.rows}),
        plots=plot_contents(table.rows), kinds=kinds_of(table.rows), unpinned=board.unpinned(),
        suites={suite: tasks for suite, tasks in by_suite.items() if tasks},
        verdicts={row.key: {verdict.claim.text: verdict.verdict for verdict in row.verdicts} for row in table.rows},
    )  # fmt: skip
    return _BETWEEN_CELLS.sub("", html)


def task_pages(content: BoardContent, frame: Frame, specs: Mapping[str, TaskSpec]) -> Iterator[tuple[str, str]]:
    """Yield path and content of every task's page: its definition, and every submission's score, the best first.

    Args:
        specs: task -> its definition, if this installation has it.
    """
    board, trail = content.board, (PageLink(content.board.title, pages.board_page(content.board.id)),)
    for task in content.table.tasks:
        sign = -1 if task.higher_is_better else 1
        lines = [(row, scores) for row in content.table.rows for scores in row.tasks if scores.task == task.id]
        lines.sort(key=lambda line: float("inf") if line[1].score.value is None else sign * line[1].score.value)
        path = pages.task_page(board.id, task.id)
        yield path, frame.render(
            "task.html.j2", path, task.id, trail, board=board, task=task, spec=specs.get(task.id), lines=lines,
            pinned=board.tasks.get(task.id),
            browsers={entry.row.key for entry in content.entries if task in content.shown_tasks(entry)},
            score_scale=bar_scale((scores.score for _, scores in lines), task.chance),
            kept_scale=bar_scale((scores.retention for _, scores in lines), 100.0),
        )  # fmt: skip


def tables(content: BoardContent) -> Iterator[tuple[str, str]]:
    """Yield the table as files: CSV, a line a submission, and leaderboard.json."""
    yield pages.csv_file(content.board.id), csv_text(content.table)
    yield pages.json_file(content.board.id), content.table.json_text


def csv_text(table: Leaderboard) -> str:
    """Return a header and one line a row, in the table's order; no cell is a formula to a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    cells = {name: get for column in columns_of(table) for name, get in column.csv.items()}
    writer.writerow(cells if table.rows else ["org", "name", "revision"])
    writer.writerows([csv_cell(get(row)) for get in cells.values()] for row in table.rows)
    return stream.getvalue()
