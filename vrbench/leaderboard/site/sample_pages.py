"""The sample browser: of a submission and a task every item with its images, question, right answer, and the answers of
the submission and its baseline.

There is one for every task whose samples the board allows to be shown (`shown` of board.yaml). The items come from the
task's data and its harness, which is imported only when a page is built; the answers from the submissions' files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.leaderboard.schema import LeaderboardTask
from vrbench.leaderboard.site import layout
from vrbench.leaderboard.site.content import BoardContent, BoardEntry
from vrbench.leaderboard.site.pages import Frame, PageLink
from vrbench.leaderboard.site.sample_scripts import NAMESPACE, VALIDATE, answers_file, answers_name, task_files
from vrbench.leaderboard.submission import read_submission
from vrbench.leaderboard.untrusted_input.files import quote_path
from vrbench.tasks.spec import TaskSpec

RIGHT = 0.5
"""Score from which an answer is called right, where a task gives parts of a point."""

ItemTargets = list[tuple[str, str]]
"""Id and right answer of each item of a task."""


def browsers(content: BoardContent) -> dict[str, dict[str, str]]:
    """Return row key -> task -> path of its sample browser within the site; nothing is read."""
    board = content.board.id
    return {
        entry.row.key: {task.id: layout.samples_page(board, entry.row, task.id) for task in _shown(content, entry)}
        for entry in content.entries
    }


def files(
    content: BoardContent, frame: Frame, specs: Mapping[str, TaskSpec], data_root: str | Path | None = None
) -> Iterator[tuple[str, str | bytes]]:
    """Yield path and content of every file of a board's sample browsers: pages, the scripts that they read, and images.

    Args:
        specs: task -> its definition.
        data_root: folder with the hub's data sets, for tasks of the hub.

    Raises:
        VrbenchError: samples that cannot be read or are not the task's, data that are missing or are not the board's.
    """
    board = content.board
    shown = dict.fromkeys(task.id for entry in content.entries for task in _shown(content, entry))
    advice = "but there is no task file of it; give --include-path"
    raise_errors(f"samples of {task} may be shown, {advice}" for task in shown if task not in specs)
    items: dict[str, ItemTargets] = {}
    for entry in content.entries:
        tasks = _shown(content, entry)
        samples = read_submission(entry.folder, board.n_items).run.samples if tasks else {}
        for task in tasks:
            found = [(sample.id, sample.target) for sample in samples[task.id]]
            if items.setdefault(task.id, found) != found:
                name = quote_path(entry.folder)
                raise VrbenchError(f"{name}: its samples of {task.id} have other ids or targets; {VALIDATE}")
            yield answers_file(layout.samples_folder(board.id, task.id), entry.row, samples[task.id])
            path = layout.samples_page(board.id, entry.row, task.id)
            yield path, _page(content, entry, task, frame, path)
    for name, answered in items.items():
        yield from _items(content, specs[name], answered, data_root)


def _page(content: BoardContent, entry: BoardEntry, task: LeaderboardTask, frame: Frame, path: str) -> str:
    row, board = entry.row, content.board
    baseline = content.baseline_of(entry)
    if baseline is not None and task not in _shown(content, baseline):
        baseline = None
    trail = (
        PageLink(board.title, layout.board_page(board.id)),
        PageLink(f"{row.org}/{row.name}", layout.submission_page(board.id, row)),
    )
    return frame.render(
        "samples.html.j2", path, f"{task.id}, samples", trail, row=row, task=task, baseline=baseline, right=RIGHT,
        place=layout.samples_folder(board.id, task.id), namespace=NAMESPACE, ours=answers_name(row),
        theirs=answers_name(baseline.row) if baseline else "", task_page=layout.task_page(board.id, task.id),
        submission_page=layout.submission_page(board.id, row),
    )  # fmt: skip


def _shown(content: BoardContent, entry: BoardEntry) -> list[LeaderboardTask]:
    """The tasks whose samples may be shown and that a submission has answered."""
    answered = {result.task for result in entry.record.results if result.status == "ok"}
    return [task for task in content.table.tasks if content.board.shown.get(task.id) and task.id in answered]


def _items(
    content: BoardContent, spec: TaskSpec, answered: ItemTargets, data_root: str | Path | None
) -> Iterator[tuple[str, str | bytes]]:
    """The items as they are asked, from the task's data, which must be the board's and have the items answered."""
    from vrbench.evaluation.item_preview import preview_items
    from vrbench.evaluation.run_config import RunConfig
    from vrbench.evaluation.run_plan import plan_task

    job = plan_task(spec, RunConfig(data_root=data_root))
    pinned, board = content.board.tasks[spec.id].data_digest, content.board.id
    if pinned is not None and job.digest != pinned:
        digests = f"their digest is {job.digest[:16]}, the board's is {pinned[:16]}"
        raise VrbenchError(f"the data of {spec.id} are not those of board {board}: {digests}")
    ids, targets = ([pair[place] for pair in answered] for place in (0, 1))
    yield from task_files(layout.samples_folder(board, spec.id), preview_items(job), targets, ids)
