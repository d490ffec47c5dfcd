"""Validating whole boards: which submissions are accepted, which are refused and why, and the tables that follow.

Importing this module is cheap; validating imports the harnesses, needs no model and no GPU, and uses several processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vrbench.core.cpu_count import usable_cores
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import write_atomically
from vrbench.leaderboard import history
from vrbench.leaderboard.board import BOARD_FILE, Board, boards, load_board
from vrbench.leaderboard.check import SubmissionChecker, check_submissions
from vrbench.leaderboard.history import LEADERBOARD_FILE
from vrbench.leaderboard.reproductions import check_reproductions
from vrbench.leaderboard.rows import build_leaderboard
from vrbench.leaderboard.schema import SUBMISSIONS, Leaderboard, LeaderboardRow
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.files import attempt, read_bytes, submission_folders


@dataclass
class Validation:
    """The result of validating boards.

    Attributes:
        root: the folder of all boards.
        reasons: path of a submission, a reproduction or a board's file, relative to the root -> why it is refused, one
            message each; empty if everything is accepted.
        boards: id -> the recomputed board; none of boards of which a single submission was validated.
        accepted: paths of the submissions that were accepted, relative to the root.
        rows: their rows, in the same order; with ranks in `boards` only.
        known: 'org/name@revision' of the rows that `leaderboard.json` has already.
        notes: what a maintainer should know and is not an error.
    """

    root: Path
    reasons: dict[str, list[str]] = field(default_factory=dict)
    boards: dict[str, Leaderboard] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    rows: list[LeaderboardRow] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def rejections(self) -> dict[str, list[str]]:
        """Path, in alphabetical order -> every reason once."""
        return {path: list(dict.fromkeys(reasons)) for path, reasons in sorted(self.reasons.items())}

    def refuse(self, place: Path, reasons: Sequence[str]) -> None:
        """Add reasons why a submission, a reproduction or a board's file is refused."""
        self.reasons.setdefault(place.relative_to(self.root).as_posix(), []).extend(reasons)


def validate(
    path: str | Path = "leaderboards",
    data_root: str | Path | None = None,
    jobs: int = 0,
    include_path: str | Path | None = None,
    against: str | None = None,
) -> Validation:
    """Score all answers of all submissions again, and check them against their boards.

    Args:
        path: the folder of all boards, a board's folder, or one submission's, which is checked with its baseline.
        data_root: folder with the hub's data sets, for boards whose tasks are not generated.
        jobs: processes; 0 for one a core.
        include_path: folder of the task files of boards whose tasks are not this package's own.
        against: commit or branch whose submissions must not have been changed.

    Raises:
        VrbenchError: there is no board, or the commit cannot be compared with.
    """
    root, found_boards, submission = _resolve(Path(path))
    found = Validation(root)
    for board in found_boards.values():
        present, unexpected = submission_folders(root / board.id / SUBMISSIONS)
        if unexpected and submission is None:
            found.refuse(root / board.id / SUBMISSIONS, unexpected)
        if not present:
            found.notes += _notes_of_empty(board)
            continue
        try:
            checker = SubmissionChecker(board, data_root, include_path)
        except VrbenchError as error:
            found.refuse(root / board.id / BOARD_FILE, error_messages(error))
            continue
        _validate_board(found, checker, present, submission, jobs or usable_cores())
    if against is not None:
        for changed, reasons in history.changed_submissions(root, against).items():
            found.refuse(root / changed, reasons)
    return found


def write_leaderboards(found: Validation) -> list[Path]:
    """Write `leaderboard.json` of every board that was validated as a whole; return the files.

    Raises:
        VrbenchError: something was refused.
    """
    raise_errors(f"{path}: {reason}" for path, reasons in found.rejections.items() for reason in reasons)
    files = {found.root / board / LEADERBOARD_FILE: new.json_text for board, new in found.boards.items()}
    for file, text in files.items():
        write_atomically(file, text)
    return list(files)


def _resolve(path: Path) -> tuple[Path, dict[str, Board], Path | None]:
    """Return the folder of all boards, the boards to validate, and the one submission if the path is that of one."""
    path = path.absolute()
    if (path / BOARD_FILE).is_file():
        board = load_board(path)
        return path.parent, {board.id: board}, None
    if len(path.parents) > 3 and path.parents[1].name == SUBMISSIONS and (path.parents[2] / BOARD_FILE).is_file():
        board = load_board(path.parents[2])
        return path.parents[3], {board.id: board}, path
    if not path.is_dir():
        raise VrbenchError(
            f"{str(path)!r} is not a folder; give that of all boards (`leaderboards` in a checkout of vrbench), of one "
            "board or of one submission"
        )
    return path, boards(path), None


def _validate_board(
    found: Validation, checker: SubmissionChecker, present: Sequence[Path], submission: Path | None, jobs: int
) -> None:
    """Validate a board's submissions, then its reproductions, then its stored values; or one submission alone."""
    board, folder = checker.board.id, found.root / checker.board.id
    rows: dict[str, LeaderboardRow] = {}
    for one in check_submissions(checker, found.root, present if submission is None else [submission], jobs):
        if one.row is None:
            found.refuse(one.folder, one.reasons)
        else:
            rows[one.row.key] = one.row
            found.accepted.append(one.folder.relative_to(found.root).as_posix())
    found.rows += rows.values()
    errors: list[str] = []
    file = folder / LEADERBOARD_FILE
    stored = attempt(lambda: history.read_leaderboard(folder), errors) if file.exists() else None
    found.known |= {row.key for row in stored.rows} if stored else set()
    if submission is not None:
        return
    status, refused = check_reproductions(checker, folder, rows)
    for place, reasons in (refused | ({file: errors} if errors else {})).items():
        found.refuse(place, reasons)
    verified = [row.model_copy(update={"status": status.get(key, row.status)}) for key, row in rows.items()]
    kept = history.keep_stored_figures(stored, verified) if stored else verified
    new = found.boards[board] = build_leaderboard(checker.board, checker.specs, kept)
    for path, reasons in history.validate_stored(folder, stored, new, present).items() if stored else ():
        found.refuse(found.root / path, reasons)
    if attempt(lambda: read_bytes(file, limits.BOARD_BYTES), []) != new.json_text.encode():
        found.notes.append(f"{board}/{LEADERBOARD_FILE} is not what its submissions give; write it with --write")


def _notes_of_empty(board: Board) -> Iterator[str]:
    if unpinned := board.unpinned():
        more = f", and {len(unpinned) - 1:,} more like it" if len(unpinned) > 1 else ""
        yield f"{unpinned[0]}{more}"
    yield f"board {board.id}: there is no submission yet"
