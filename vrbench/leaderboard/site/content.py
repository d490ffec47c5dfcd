"""What the pages are made from: boards, their `leaderboard.json`, and the record and recipe of every submission."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.schemas import RunRecord
from vrbench.leaderboard.board import Board, boards
from vrbench.leaderboard.rows import build_leaderboard
from vrbench.leaderboard.schema import SUBMISSIONS, Leaderboard, LeaderboardRow, Submission
from vrbench.leaderboard.untrusted_input.files import (
    RECIPE_FILE,
    SUBMISSION_FILE,
    read_bytes,
    read_text,
    submission_files,
    submission_folders,
)
from vrbench.leaderboard.untrusted_input.limits import BOARD_BYTES, BOARD_VALUES, YAML_BYTES
from vrbench.leaderboard.untrusted_input.parsing import read_record
from vrbench.leaderboard.untrusted_input.text import sanitize_for_message
from vrbench.tasks.spec import TaskSpec

LEADERBOARD_FILE = "leaderboard.json"
ADVICE = "`vrbench leaderboard validate --write` writes it anew"


@dataclass(frozen=True)
class Entry:
    """One submission: its row, and what it was made from."""

    row: LeaderboardRow
    """Its figures, recomputed by `validate`."""
    submission: Submission
    """What it says of itself."""
    record: RunRecord
    """Its run."""
    recipe: str
    """Text of recipe.yaml; empty when there is none."""
    folder: Path
    """Where it lies."""


@dataclass(frozen=True)
class BoardContent:
    """One board with its submissions."""

    board: Board
    """`board.yaml`."""
    table: Leaderboard
    """`leaderboard.json`."""
    entries: tuple[Entry, ...]
    """In the order of the table's rows."""
    folder: Path
    """The board's folder."""

    def baseline_of(self, entry: Entry) -> Entry | None:
        """What an entry is compared with; none for a baseline, or where it is not on the board."""
        if entry.row.is_baseline:
            return None
        return next((other for other in self.entries if other.row.key == entry.row.baseline), None)


def load_content(root: Path, specs: Mapping[str, TaskSpec]) -> tuple[BoardContent, ...]:
    """All boards under a folder, those with most submissions first.

    Args:
        specs: task -> its definition, for boards without submissions.

    Raises:
        VrbenchError: a board, a submission or a leaderboard.json that cannot be read, or rows that are not those of
            the submissions; every fault at once.
    """
    found: list[BoardContent] = []
    faults: list[str] = []
    for board in boards(root).values():
        try:
            found.append(_board(board, root / board.id, specs))
        except VrbenchError as error:
            faults += error_messages(error)
    raise_errors(faults)
    return tuple(sorted(found, key=lambda content: (-len(content.entries), content.board.id)))


def _board(board: Board, folder: Path, specs: Mapping[str, TaskSpec]) -> BoardContent:
    places, faults = submission_folders(folder / SUBMISSIONS)
    table = _table(board, folder / LEADERBOARD_FILE, specs, bool(places))
    rows = {(f"{row.org}__{row.name}", row.revision): row for row in table.rows}
    entries: dict[str, Entry] = {}
    for place in places:
        row = rows.pop((place.parent.name, place.name), None)
        if row is None:
            faults.append(f"{sanitize_for_message(str(place), 200)} has no row in {LEADERBOARD_FILE}; {ADVICE}")
            continue
        try:
            entries[row.key] = _entry(row, place)
        except VrbenchError as error:
            faults += error_messages(error)
    faults += [f"{LEADERBOARD_FILE} of {board.id} has {row.key}, which was not submitted; {ADVICE}"
               for row in rows.values()]  # fmt: skip
    raise_errors(faults)
    return BoardContent(board, table, tuple(entries[row.key] for row in table.rows), folder)


def _table(board: Board, file: Path, specs: Mapping[str, TaskSpec], needed: bool) -> Leaderboard:
    if not file.exists() and not needed:
        return build_leaderboard(board, {task: specs[task] for task in board.tasks if task in specs}, [])
    if not file.exists():
        raise VrbenchError(f"board {board.id} has submissions and no {LEADERBOARD_FILE}; {ADVICE}")
    try:
        return read_record(file, Leaderboard, BOARD_BYTES, BOARD_VALUES)
    except VrbenchError as error:
        raise VrbenchError(f"{error}; {ADVICE}") from error


def _entry(row: LeaderboardRow, folder: Path) -> Entry:
    files = submission_files(folder)
    submission = read_record(files[SUBMISSION_FILE], Submission)
    record = read_record(files["run.json"], RunRecord)
    name = sanitize_for_message(str(folder), 200)
    faults = []
    if hashlib.sha256(read_bytes(files["run.json"])).hexdigest() != submission.run_digest:
        faults.append(f"{name} has a run.json that is not the one {SUBMISSION_FILE} names: its sha256 differs")
    if record.checkpoint.digest != row.digest or submission.reference != row.key:
        faults.append(f"{name} is not what {LEADERBOARD_FILE} says of {row.key}; {ADVICE}")
    raise_errors(faults)
    recipe = read_text(files[RECIPE_FILE], YAML_BYTES) if RECIPE_FILE in files else ""
    return Entry(row, submission, record, recipe, folder)
