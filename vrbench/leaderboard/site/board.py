"""The page of a board, and its table as CSV and JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from vrbench.leaderboard.schema import Leaderboard, LeaderboardRow
from vrbench.leaderboard.site import pages
from vrbench.leaderboard.site.columns import SUITES, columns_of, csv_cells, table_groups
from vrbench.leaderboard.site.content import BoardContent
from vrbench.leaderboard.site.pages import Frame
from vrbench.leaderboard.site.plots import kinds_of, plot_contents
from vrbench.leaderboard.untrusted_input.text import csv_cell

_BETWEEN_CELLS = re.compile(r"(?<=>)\n(?=</?t[dhr]\b)")
"""Line ends that are not text of a page: a browser would keep a node for each of them."""


def page(content: BoardContent, frame: Frame, path: str) -> str:
    """Return the page of a board: its table, with filters and plots.

    Args:
        path: its place within the site.
    """
    table, board = content.table, content.board

    def address(row: LeaderboardRow) -> str:
        return pages.relative(path, pages.submission_page(board.id, row))

    by_suite = {suite: [task for task in table.tasks if task.suite == suite] for suite in SUITES}
    html = frame.render(
        "board.html.j2", path, board.title, board=board, table=table, groups=table_groups(columns_of(table)),
        families={key: family.title for key, family in board.families.items()}, address=address,
        tunings=sorted({row.region.tuning for row in table.rows}),
        plots=plot_contents(table.rows), kinds=kinds_of(table.rows), unpinned=board.unpinned(),
        suites={suite: tasks for suite, tasks in by_suite.items() if tasks},
        verdicts={row.key: {verdict.claim.text: verdict.verdict for verdict in row.verdicts} for row in table.rows},
        task_page=lambda task: pages.relative(path, pages.task_page(board.id, task)),
    )  # fmt: skip
    return _BETWEEN_CELLS.sub("", html)


def tables(content: BoardContent) -> Iterator[tuple[str, str]]:
    """Yield the table as files: CSV, a line a submission, and leaderboard.json."""
    yield pages.csv_file(content.board.id), csv_text(content.table)
    yield pages.json_file(content.board.id), content.table.json_text


def csv_text(table: Leaderboard) -> str:
    """Return a header and one line a row, in the table's order; no cell is a formula to a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = columns_of(table)
    rows = [csv_cells(row, columns) for row in table.rows]
    writer.writerow(rows[0] if rows else ["org", "name", "revision"])
    writer.writerows([csv_cell(value) for value in cells.values()] for cells in rows)
    return stream.getvalue()
