"""The page of a task: what is asked, how it is scored, and every submission's figure on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vrbench.leaderboard.schema import LeaderboardRow, LeaderboardTask, RowTaskScores
from vrbench.leaderboard.site import drawings, layout
from vrbench.leaderboard.site.content import BoardContent
from vrbench.leaderboard.site.pages import Frame, Place
from vrbench.tasks.spec import TaskSpec


def pages(
    content: BoardContent, frame: Frame, specs: Mapping[str, TaskSpec], samples: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, str]]:
    """Every task's page.

    Args:
        specs: task -> its definition, where this installation has it.
        samples: row key -> task -> path of its sample browser within the site.
    """
    for task in content.table.tasks:
        path = layout.task_page(content.board.id, task.id)
        yield path, _page(content, task, frame, path, specs.get(task.id), samples)


def _page(
    content: BoardContent,
    task: LeaderboardTask,
    frame: Frame,
    path: str,
    spec: TaskSpec | None,
    samples: Mapping[str, Mapping[str, str]],
) -> str:
    board = content.board
    lines = sorted(_lines(content, task), key=lambda line: _order(line[1], task))
    browsers = {key: found[task.id] for key, found in samples.items() if task.id in found}
    return frame.render(
        "task.html.j2", path, task.id, (Place(board.title, layout.board_page(board.id)),), board=board, task=task,
        spec=spec, pinned=board.tasks.get(task.id), lines=lines, browsers=browsers,
        score_scale=drawings.scale_of((line.score for _, line in lines), task.chance),
        kept_scale=drawings.scale_of((line.retention for _, line in lines), 100.0),
        address=lambda row: layout.relative(path, layout.submission_page(board.id, row)),
    )  # fmt: skip


def _lines(content: BoardContent, task: LeaderboardTask) -> Iterator[tuple[LeaderboardRow, RowTaskScores]]:
    for row in content.table.rows:
        yield from ((row, line) for line in row.tasks if line.task == task.id)


def _order(line: RowTaskScores, task: LeaderboardTask) -> float:
    """The best first, those without a figure last."""
    if line.score.value is None:
        return float("inf")
    return -line.score.value if task.higher_is_better else line.score.value
