"""A maintainer's own run of a submitted checkpoint: what is said of it, and how it is packed and read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from pydantic import Field

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.run_storage import load_run
from vrbench.core.schemas import Record, Run, RunRecord
from vrbench.leaderboard.board import Board, load_board
from vrbench.leaderboard.pack import Packed, write_folder
from vrbench.leaderboard.part import part_of
from vrbench.leaderboard.publish import run_files
from vrbench.leaderboard.requirements import checkout_faults
from vrbench.leaderboard.submission import SUBMISSIONS
from vrbench.leaderboard.text import Day, Line
from vrbench.leaderboard.untrusted_input import (
    quoted,
    read_bytes,
    read_record,
    read_run,
    submission_files,
    submission_folders,
)

REPRODUCTIONS = "reproductions"
REPRODUCTION_FILE = "reproduction.json"
REPRODUCTION_SCHEMA_VERSION = 1
FILES = ("run.json", REPRODUCTION_FILE)
"""What lies beside samples/."""


class Reproduction(Record):
    """`reproduction.json`: who ran a submitted checkpoint again, and when; the run lies beside it."""

    schema_version: int = Field(default=REPRODUCTION_SCHEMA_VERSION, description="Version of this layout.")
    by: Line = Field(min_length=1, description="One of the board's maintainers.")
    date: Day = Field(description="ISO date, UTC.")


def faults(told: Reproduction, board: Board, record: RunRecord) -> Iterator[str]:
    """What a board has against a reproduction before the submission is looked at."""
    if told.by not in board.maintainers:
        yield f"{quoted(told.by)} is no maintainer of board {board.id}; those are {', '.join(board.maintainers)}"
    if record.settings.limit is not None:
        yield f"it was run with limit {record.settings.limit}"
    yield from checkout_faults(record)
    if lacking := sorted(set(board.tasks) - {result.task for result in record.results if result.status == "ok"}):
        yield f"it lacks {', '.join(lacking)}"


def read_reproduction(place: Path, board: Board) -> tuple[Reproduction, Run]:
    """What lies in the folder of a reproduction.

    Raises:
        VrbenchError: a file is missing, too many, or not what it should be.
    """
    files = submission_files(place, FILES, FILES)
    rows = {task: held.n for task, held in board.tasks.items()}
    return read_record(files[REPRODUCTION_FILE], Reproduction), read_run(files, rows)


def pack_reproduction(
    run: str | Path, by: str, board: str = "pocket", root: str | Path = "leaderboards"
) -> list[Packed]:
    """Write `<board>/reproductions/<org>__<name>/<revision>/` for each submission of the checkpoint that was run.

    Whether the two agree is said by validating the board.

    Args:
        run: folder of the maintainer's run; of its tasks those of the board are packed.
        by: one of the board's maintainers.

    Returns:
        Where they lie, at least one. The same run again changes nothing.

    Raises:
        VrbenchError: all that stands against it, at once.
    """
    held, folder = load_board(Path(root) / board), Path(root) / board
    ours = part_of(load_run(run), held.tasks)
    told = Reproduction(by=by, date=datetime.now(timezone.utc).date().isoformat())
    found = list(faults(told, held, ours.record))
    revision = ours.record.checkpoint.digest[:16]
    submitted = [place for place in submission_folders(folder / SUBMISSIONS)[0] if place.name == revision]
    if not submitted:
        found.append(f"{ours.record.checkpoint.id} ({revision}) was not submitted to board {board}")
    files = run_files(ours, found)
    raise_errors(found)
    files[REPRODUCTION_FILE] = (told.model_dump_json(indent=1) + "\n").encode()
    return [_write(folder / REPRODUCTIONS / place.parent.name / revision, files, held) for place in submitted]


def _write(target: Path, files: dict[str, bytes], board: Board) -> Packed:
    if not target.is_dir():
        write_folder(target, files, target.parents[2], lambda half: read_reproduction(half, board))
        return Packed(target, is_new=True)
    there = submission_files(target, FILES, FILES)
    compared = files.keys() - {REPRODUCTION_FILE}  # which has the day
    if there.keys() != files.keys() or any(read_bytes(there[name], 2**30) != files[name] for name in compared):
        raise VrbenchError(f"{target} holds another run already; remove it to put this one in its place")
    return Packed(target, is_new=False)
