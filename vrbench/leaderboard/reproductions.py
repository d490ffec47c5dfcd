"""A maintainer's own runs of submitted checkpoints: a row whose scores agree with one is 'reproduced'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from vrbench.errors import VrbenchError, sentences
from vrbench.leaderboard.examine import Examiner
from vrbench.leaderboard.reading import quoted, read_record, read_run, submission_files, submission_folders
from vrbench.leaderboard.standing import Standing, Status
from vrbench.leaderboard.text import Day, Line
from vrbench.records import Record, Run

REPRODUCTIONS = "reproductions"
REPRODUCTION_FILE = "reproduction.json"
REPRODUCTION_SCHEMA_VERSION = 1


class Reproduction(Record):
    """`reproduction.json`: who ran a submitted checkpoint again, and when; the run lies beside it."""

    schema_version: int = Field(default=REPRODUCTION_SCHEMA_VERSION, description="Version of this layout.")
    by: Line = Field(min_length=1, description="One of the board's maintainers.")
    date: Day = Field(description="ISO date, UTC.")


@dataclass(frozen=True)
class Reproduced:
    """What the reproductions say.

    Attributes:
        rows: key -> the row with its status, of those that were reproduced.
        faults: folder -> why its run reproduces nothing, one sentence each.
    """

    rows: Mapping[str, Standing]
    faults: Mapping[Path, list[str]]


def reproduced(examiner: Examiner, folder: Path, rows: Mapping[str, Standing]) -> Reproduced:
    """Look at all reproductions of a board, `reproductions/<org>__<name>/<revision>/`.

    Args:
        folder: the board's.
        rows: key -> the row of every submission that was taken.
    """
    lying, odd = submission_folders(folder / REPRODUCTIONS)
    faults: dict[Path, list[str]] = {folder / REPRODUCTIONS: odd} if odd else {}
    found: dict[str, Standing] = {}
    by_place = {(f"{row.org}__{row.name}", row.revision): row for row in rows.values()}
    for place in lying:
        row = by_place.get((place.parent.name, place.name))
        if row is None:
            faults[place] = ["it belongs to no submission that was taken"]
            continue
        try:
            told, run = _read(examiner, place)
        except VrbenchError as error:
            faults[place] = sentences(error)
            continue
        rebuilt, wrong = examiner.rescored(run)
        wrong += _faults(examiner, told, run, row)
        wrong += _disagreements(rebuilt, row) if rebuilt is not None else ["it lacks tasks of the board"]
        if wrong:
            faults[place] = wrong
        else:
            status = Status(kind="reproduced", by=told.by, date=told.date)
            found[row.key] = row.model_copy(update={"status": status})
    return Reproduced(found, faults)


def _read(examiner: Examiner, place: Path) -> tuple[Reproduction, Run]:
    needed = ("run.json", REPRODUCTION_FILE)
    files = submission_files(place, needed, needed)
    rows = {task: held.n for task, held in examiner.board.tasks.items()}
    return read_record(files[REPRODUCTION_FILE], Reproduction), read_run(files, rows)


def _faults(examiner: Examiner, told: Reproduction, run: Run, row: Standing) -> Iterator[str]:
    board, digest = examiner.board, run.record.checkpoint.digest
    if told.by not in board.maintainers:
        yield f"{quoted(told.by)} is no maintainer of board {board.id}; those are {', '.join(board.maintainers)}"
    if digest != row.digest:
        yield f"it is a run of another checkpoint: sha256 {digest[:12]} against {row.digest[:12]}"
    if run.record.settings.limit is not None:
        yield f"it was run with limit {run.record.settings.limit}"
    if run.record.settings.dtype != row.dtype:
        yield f"it was computed in {run.record.settings.dtype}, the submission in {row.dtype}"


def _disagreements(run: Run, row: Standing) -> Iterator[str]:
    """Tasks on which one of the two scores lies outside the other's interval."""
    for task in row.tasks:
        again, stored = run.result(task.task).score, task.score
        if again is None or stored.value is None or stored.low is None or stored.high is None:
            yield f"{task.task}: there is no score to compare"
        elif not (stored.low <= again.value <= stored.high and again.low <= stored.value <= again.high):
            yield (
                f"{task.task}: it scores {again.value:.2f} [{again.low:.2f}, {again.high:.2f}], the submission "
                f"{stored.value:.2f} [{stored.low:.2f}, {stored.high:.2f}]"
            )
