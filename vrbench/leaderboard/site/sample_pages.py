"""The sample browser: of a submission and a task every item with its picture, question, right answer, and what the
submission and its baseline answered.

There is one for every task whose samples the board lets be shown (`shown` of board.yaml). The items come from the
task's data and its harness, which is imported only when a page is made; the answers from the submissions' files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.schemas import Sample
from vrbench.leaderboard.schema import LeaderboardTask
from vrbench.leaderboard.site import layout
from vrbench.leaderboard.site.content import BoardContent, Entry
from vrbench.leaderboard.site.pages import Frame, Place
from vrbench.leaderboard.site.sample_scripts import NAMESPACE, VALIDATE, answers_file, answers_name, folder, task_files
from vrbench.leaderboard.untrusted_input.files import submission_files
from vrbench.leaderboard.untrusted_input.submission import read_run
from vrbench.leaderboard.untrusted_input.text import sanitize_for_message
from vrbench.tasks.spec import TaskSpec

Browsers = Mapping[str, Mapping[str, str]]
"""Row key -> task -> path of its sample browser within the site."""

RIGHT = 0.5
"""Score from which on an answer is called right, where a task gives parts of a point."""


@dataclass
class _Known:
    """What all submissions to a task agree on."""

    ids: list[str]
    targets: list[str]


def browsers(content: BoardContent) -> Browsers:
    """Where every sample browser of a board will lie; nothing is read or made."""
    return {
        entry.row.key: {
            task.id: layout.samples_page(content.board.id, entry.row, task.id) for task in _shown(content, entry)
        }
        for entry in content.entries
    }


def files(
    content: BoardContent, frame: Frame, specs: Mapping[str, TaskSpec], data_root: str | Path | None = None
) -> Iterator[tuple[str, str | bytes]]:
    """Every file of a board's sample browsers: pages, the scripts that they read, and pictures.

    Args:
        specs: task -> its definition.
        data_root: folder with the hub's data sets, for tasks of the hub.

    Returns:
        Path within the site and content, one by one.

    Raises:
        VrbenchError: samples that cannot be read or that are not the task's, data that are not here or that are not
            those of the board.
    """
    shown = {task.id: None for entry in content.entries for task in _shown(content, entry)}
    raise_errors(
        f"samples of {task} may be shown, but there is no task file of it; give --include-path"
        for task in shown
        if task not in specs
    )
    known: dict[str, _Known] = {}
    for entry in content.entries:
        tasks = _shown(content, entry)
        run = read_run(submission_files(entry.folder), _rows(content)) if tasks else None
        for task in tasks:
            samples = run.samples[task.id] if run else ()
            _must_agree(known, task.id, samples, entry)
            yield answers_file(folder(content.board.id, task.id), entry.row, samples)
            path = layout.samples_page(content.board.id, entry.row, task.id)
            yield path, page(content, entry, task, frame, path)
    for name, agreed in known.items():
        yield from _items(content, specs[name], agreed, data_root)


def page(content: BoardContent, entry: Entry, task: LeaderboardTask, frame: Frame, path: str) -> str:
    """The browser of one submission's samples of one task.

    Args:
        path: where it will lie within the site.
    """
    row, board = entry.row, content.board
    baseline = content.baseline_of(entry)
    if baseline is not None and task not in _shown(content, baseline):
        baseline = None
    trail = (
        Place(board.title, layout.board_page(board.id)),
        Place(f"{row.org}/{row.name}", layout.submission_page(board.id, row)),
    )
    place = folder(board.id, task.id)
    return frame.render(
        "samples.html.j2", path, f"{task.id}, samples", trail, board=board, row=row, task=task, baseline=baseline,
        place=place, namespace=NAMESPACE, ours=answers_name(row),
        theirs=answers_name(baseline.row) if baseline else "", right=RIGHT,
        task_page=layout.task_page(board.id, task.id), submission_page=layout.submission_page(board.id, row),
    )  # fmt: skip


def _shown(content: BoardContent, entry: Entry) -> list[LeaderboardTask]:
    """The tasks whose samples may be shown and that a submission has answered."""
    answered = {result.task for result in entry.record.results if result.status == "ok"}
    return [task for task in content.table.tasks if content.board.shown.get(task.id) and task.id in answered]


def _rows(content: BoardContent) -> dict[str, int]:
    return {task: held.n for task, held in content.board.tasks.items() if held.n is not None}


def _must_agree(known: dict[str, _Known], task: str, samples: Sequence[Sample], entry: Entry) -> None:
    """All submissions to a task have the same items and right answers, as `validate` sees to."""
    found = _Known([sample.id for sample in samples], [sample.target for sample in samples])
    if known.setdefault(task, found) != found:
        name = sanitize_for_message(str(entry.folder), 200)
        raise VrbenchError(f"{name}: its samples of {task} have other ids or targets than the others; {VALIDATE}")


def _items(
    content: BoardContent, spec: TaskSpec, agreed: _Known, data_root: str | Path | None
) -> Iterator[tuple[str, str | bytes]]:
    """What is asked, from the task's own data, which must be those of the board and have the items answered."""
    from vrbench.evaluation.item_preview import preview_items
    from vrbench.evaluation.run_config import RunConfig
    from vrbench.evaluation.run_plan import plan_task

    job = plan_task(spec, RunConfig(data_root=data_root))
    pinned = content.board.tasks[spec.id].data_digest
    if pinned is not None and job.digest != pinned:
        raise VrbenchError(
            f"the data of {spec.id} are not those of board {content.board.id}: their digest is {job.digest[:16]}, the "
            f"board's is {pinned[:16]}"
        )
    yield from task_files(folder(content.board.id, spec.id), preview_items(job), agreed.targets, agreed.ids)
