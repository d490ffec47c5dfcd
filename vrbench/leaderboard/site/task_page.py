"""The page of a task: its definition, how it is scored, and every submission's score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vrbench.leaderboard.schema import LeaderboardTask, RowTaskScores
from vrbench.leaderboard.site import pages
from vrbench.leaderboard.site.content import BoardContent
from vrbench.leaderboard.site.drawings import bar_scale
from vrbench.leaderboard.site.pages import Frame, PageLink
from vrbench.tasks.spec import TaskSpec


def task_pages(
    content: BoardContent, frame: Frame, specs: Mapping[str, TaskSpec], browsers: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, str]]:
    """Yield path and content of every task's page.

    Args:
        specs: task -> its definition, if this installation has it.
        browsers: row key -> task -> path of its sample browser within the site.
    """
    for task in content.table.tasks:
        path = pages.task_page(content.board.id, task.id)
        yield path, _page(content, task, frame, path, specs.get(task.id), browsers)


def _page(
    content: BoardContent,
    task: LeaderboardTask,
    frame: Frame,
    path: str,
    spec: TaskSpec | None,
    browsers: Mapping[str, Mapping[str, str]],
) -> str:
    board = content.board
    lines = [(row, scores) for row in content.table.rows for scores in row.tasks if scores.task == task.id]
    lines.sort(key=lambda line: _order(line[1], task))
    return frame.render(
        "task.html.j2", path, task.id, (PageLink(board.title, pages.board_page(board.id)),), board=board, task=task,
        spec=spec, pinned=board.tasks.get(task.id), lines=lines,
        browsers={key: paths[task.id] for key, paths in browsers.items() if task.id in paths},
        score_scale=bar_scale((scores.score for _, scores in lines), task.chance),
        kept_scale=bar_scale((scores.retention for _, scores in lines), 100.0),
        address=lambda row: pages.relative(path, pages.submission_page(board.id, row)),
    )  # fmt: skip


def _order(scores: RowTaskScores, task: LeaderboardTask) -> float:
    """Return the sort key of a row: best score first, rows without a score last."""
    value = scores.score.value
    return float("inf") if value is None else -value if task.higher_is_better else value
