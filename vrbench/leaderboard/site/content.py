"""The content of the pages: boards, their `leaderboard.json`, and the records of every submission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import VrbenchError, collect_errors, raise_errors
from vrbench.core.schemas import RunRecord
from vrbench.leaderboard.board import Board, boards
from vrbench.leaderboard.history import LEADERBOARD_FILE, read_leaderboard
from vrbench.leaderboard.rows import build_leaderboard
from vrbench.leaderboard.schema import SUBMISSIONS, Leaderboard, LeaderboardRow, LeaderboardTask
from vrbench.leaderboard.submission import SubmissionContent, read_submission
from vrbench.leaderboard.untrusted_input.files import quote_path, submission_folders
from vrbench.tasks.spec import TaskSpec

WRITE_HINT = "`vrbench leaderboard validate --write` writes it"


@dataclass(frozen=True)
class BoardEntry(SubmissionContent):
    """One submission, without its samples, and its row of the table."""

    row: LeaderboardRow

    @property
    def record(self) -> RunRecord:
        """Its run.json."""
        return self.run.record


@dataclass(frozen=True)
class BoardContent:
    """One board with its submissions.

    Attributes:
        board: `board.yaml`.
        table: `leaderboard.json`.
        entries: in the order of the table's rows.
    """

    board: Board
    table: Leaderboard
    entries: tuple[BoardEntry, ...]

    def baseline_of(self, entry: BoardEntry) -> BoardEntry | None:
        """Return what an entry is compared with; None for a baseline, or if it is not on the board."""
        if entry.row.is_baseline:
            return None
        return next((other for other in self.entries if other.row.key == entry.row.baseline), None)

    def shown_tasks(self, entry: BoardEntry) -> list[LeaderboardTask]:
        """Return the tasks whose samples may be shown and that a submission has answered."""
        answered = {result.task for result in entry.record.results if result.status == "ok"}
        return [task for task in self.table.tasks if self.board.shown.get(task.id) and task.id in answered]


def load_content(root: Path, specs: Mapping[str, TaskSpec]) -> tuple[BoardContent, ...]:
    """Read all boards in a folder, those with most submissions first.

    Args:
        specs: task -> its definition, for boards without submissions.

    Raises:
        VrbenchError: a board, a submission or a leaderboard.json that cannot be read, or rows that are not those of
            the submissions; all errors at once.
    """
    found: list[BoardContent] = []
    errors: list[str] = []
    for board in boards(root).values():
        with collect_errors(errors):
            found.append(_load_board(board, root / board.id, specs))
    raise_errors(errors)
    return tuple(sorted(found, key=lambda content: (-len(content.entries), content.board.id)))


def _load_board(board: Board, folder: Path, specs: Mapping[str, TaskSpec]) -> BoardContent:
    places, errors = submission_folders(folder / SUBMISSIONS)
    table = _load_table(board, folder, specs, bool(places))
    rows = {(f"{row.org}__{row.name}", row.revision): row for row in table.rows}
    entries: dict[str, BoardEntry] = {}
    for place in places:
        row = rows.pop((place.parent.name, place.name), None)
        if row is None:
            errors.append(f"{quote_path(place)} has no row in {LEADERBOARD_FILE}; {WRITE_HINT}")
            continue
        with collect_errors(errors):
            found = read_submission(place, with_samples=False)
            if found.run.record.checkpoint.digest != row.digest or found.submission.reference != row.key:
                errors.append(f"{quote_path(place)} is not what {LEADERBOARD_FILE} says of {row.key}; {WRITE_HINT}")
            entries[row.key] = BoardEntry(**vars(found), row=row)
    errors += [
        f"{LEADERBOARD_FILE} of {board.id}: {row.key}, which was not submitted; {WRITE_HINT}" for row in rows.values()
    ]
    raise_errors(errors)
    return BoardContent(board, table, tuple(entries[row.key] for row in table.rows))


def _load_table(board: Board, folder: Path, specs: Mapping[str, TaskSpec], has_submissions: bool) -> Leaderboard:
    if not (folder / LEADERBOARD_FILE).exists():
        if has_submissions:
            raise VrbenchError(f"board {board.id} has submissions and no {LEADERBOARD_FILE}; {WRITE_HINT}")
        return build_leaderboard(board, {task: specs[task] for task in board.tasks if task in specs}, [])
    try:
        return read_leaderboard(folder)
    except VrbenchError as error:
        raise VrbenchError(f"{error}; {WRITE_HINT}") from error
