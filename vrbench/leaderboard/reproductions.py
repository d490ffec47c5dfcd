"""A maintainer's own runs of submitted checkpoints: packed, read and compared with the submissions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.run_storage import load_run
from vrbench.core.schemas import Run, RunRecord
from vrbench.leaderboard.board import Board, load_board
from vrbench.leaderboard.check import SubmissionChecker
from vrbench.leaderboard.packing import PackedFolder, changed_files, part_of, run_files, write_folder
from vrbench.leaderboard.requirements import validate_checkout
from vrbench.leaderboard.schema import SUBMISSIONS, LeaderboardRow, Reproduction, VerificationStatus
from vrbench.leaderboard.untrusted_input.files import RUN_FILE, submission_files, submission_folders
from vrbench.leaderboard.untrusted_input.parsing import read_record
from vrbench.leaderboard.untrusted_input.run_folder import read_run_record, read_samples
from vrbench.leaderboard.untrusted_input.text import sanitize_for_message

REPRODUCTIONS = "reproductions"
REPRODUCTION_FILE = "reproduction.json"
FILES = (RUN_FILE, REPRODUCTION_FILE)
"""Files of a reproduction, besides samples/."""


def read_reproduction(folder: Path, board: Board) -> tuple[Reproduction, Run]:
    """Read the folder of a reproduction.

    Raises:
        VrbenchError: a file is missing, unknown or not valid.
    """
    files = submission_files(folder, FILES, ())
    reproduction = read_record(files[REPRODUCTION_FILE], Reproduction)
    record, _ = read_run_record(files)
    errors: list[str] = []
    samples = read_samples(record, files, board.n_items, errors)
    raise_errors(errors)
    return reproduction, Run(record=record, samples=samples, path=folder)


def pack_reproduction(
    run: str | Path, by: str, board: str = "pocket", root: str | Path = "leaderboards"
) -> list[PackedFolder]:
    """Write `<board>/reproductions/<org>__<name>/<revision>/` for each submission of the checkpoint that was run.

    Validating the board then compares the two.

    Args:
        run: folder of the maintainer's run; of its tasks those of the board are packed.
        by: one of the board's maintainers.

    Returns:
        The folders, at least one. The same run again changes nothing.

    Raises:
        VrbenchError: all errors at once.
    """
    held, folder = load_board(Path(root) / board), Path(root) / board
    ours = part_of(load_run(run), held.tasks)
    reproduction = Reproduction(by=by, date=datetime.now(timezone.utc).date().isoformat())
    errors = list(_validate_requirements(reproduction, held, ours.record))
    revision = ours.record.checkpoint.digest[:16]
    submitted = [place for place in submission_folders(folder / SUBMISSIONS)[0] if place.name == revision]
    if not submitted:
        errors.append(f"{ours.record.checkpoint.id} ({revision}) was not submitted to board {board}")
    files = run_files(ours, errors)
    raise_errors(errors)
    files[REPRODUCTION_FILE] = (reproduction.model_dump_json(indent=1) + "\n").encode()
    found = []
    for place in submitted:
        target = folder / REPRODUCTIONS / place.parent.name / revision
        if target.is_dir() and set(changed_files(files, submission_files(target, FILES, ()))) - {REPRODUCTION_FILE}:
            raise VrbenchError(f"{target} holds another run already; remove it to put this one in its place")
        found.append(write_folder(target, files, lambda half: read_reproduction(half, held)))
    return found


def check_reproductions(
    checker: SubmissionChecker, folder: Path, rows: Mapping[str, LeaderboardRow]
) -> tuple[dict[str, VerificationStatus], dict[Path, list[str]]]:
    """Check all reproductions of a board.

    Args:
        folder: the board's.
        rows: key -> the row of every submission that was accepted.

    Returns:
        Key -> status of each row that was reproduced; and folder -> why its run reproduces nothing, one message each.
    """
    present, unexpected = submission_folders(folder / REPRODUCTIONS)
    refused: dict[Path, list[str]] = {folder / REPRODUCTIONS: unexpected} if unexpected else {}
    found: dict[str, VerificationStatus] = {}
    by_place = {(f"{row.org}__{row.name}", row.revision): row for row in rows.values()}
    for place in present:
        row = by_place.get((place.parent.name, place.name))
        if row is None:
            refused[place] = ["it belongs to no submission that was accepted"]
            continue
        try:
            reproduction, run = read_reproduction(place, checker.board)
        except VrbenchError as error:
            refused[place] = error_messages(error)
            continue
        rescored, errors = checker.rescore(run)
        errors += _validate_requirements(reproduction, checker.board, run.record)
        errors += _compare(run.record, rescored, row)
        if errors:
            refused[place] = errors
        else:
            found[row.key] = VerificationStatus(kind="reproduced", by=reproduction.by, date=reproduction.date)
    return found, refused


def _validate_requirements(reproduction: Reproduction, board: Board, record: RunRecord) -> Iterator[str]:
    """Yield an error for each requirement of a board that a reproduction does not meet, whatever the submission."""
    if reproduction.by not in board.maintainers:
        by, known = sanitize_for_message(reproduction.by), ", ".join(board.maintainers)
        yield f"{by} is not a maintainer of board {board.id}; those are {known}"
    if record.settings.limit is not None:
        yield f"it was run with limit {record.settings.limit}"
    yield from validate_checkout(record)
    if lacking := sorted(set(board.tasks) - {result.task for result in record.results if result.status == "ok"}):
        yield f"it lacks {', '.join(lacking)}"


def _compare(record: RunRecord, rescored: Run | None, row: LeaderboardRow) -> Iterator[str]:
    """Yield differences: weights, compute type, and tasks on which one score is outside the other's interval."""
    digest, dtype = record.checkpoint.digest, record.settings.dtype
    if digest != row.digest:
        yield f"it is a run of another checkpoint: sha256 {digest[:12]} against {row.digest[:12]}"
    if dtype != row.dtype:
        yield f"it was computed in {dtype}, the submission in {row.dtype}"
    if rescored is None:
        yield "it lacks tasks of the board"
        return
    for task in row.tasks:
        ours, theirs = rescored.result(task.task).score, task.score
        if ours is None or theirs.value is None or theirs.low is None or theirs.high is None:
            yield f"{task.task}: there is no score to compare"
        elif not (theirs.low <= ours.value <= theirs.high and ours.low <= theirs.value <= ours.high):
            yield (
                f"{task.task}: it scores {ours.value:.2f} [{ours.low:.2f}, {ours.high:.2f}], the submission "
                f"{theirs.value:.2f} [{theirs.low:.2f}, {theirs.high:.2f}]"
            )
