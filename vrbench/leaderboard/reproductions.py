"""A maintainer's own runs of submitted checkpoints: a row whose scores agree with one is 'reproduced'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.schemas import Run
from vrbench.leaderboard.board import Board
from vrbench.leaderboard.check import Examiner
from vrbench.leaderboard.own_run import REPRODUCTIONS, Reproduction, faults, read_reproduction
from vrbench.leaderboard.schema import Standing, Status
from vrbench.leaderboard.untrusted_input import submission_folders


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
    refused: dict[Path, list[str]] = {folder / REPRODUCTIONS: odd} if odd else {}
    found: dict[str, Standing] = {}
    by_place = {(f"{row.org}__{row.name}", row.revision): row for row in rows.values()}
    for place in lying:
        row = by_place.get((place.parent.name, place.name))
        if row is None:
            refused[place] = ["it belongs to no submission that was taken"]
            continue
        try:
            told, run = read_reproduction(place, examiner.board)
        except VrbenchError as error:
            refused[place] = error_messages(error)
            continue
        rebuilt, wrong = examiner.rescored(run)
        wrong += _faults(told, examiner.board, run, row)
        wrong += _disagreements(rebuilt, row) if rebuilt is not None else ["it lacks tasks of the board"]
        if wrong:
            refused[place] = wrong
        else:
            status = Status(kind="reproduced", by=told.by, date=told.date)
            found[row.key] = row.model_copy(update={"status": status})
    return Reproduced(found, refused)


def _faults(told: Reproduction, board: Board, run: Run, row: Standing) -> Iterator[str]:
    yield from faults(told, board, run.record)
    digest = run.record.checkpoint.digest
    if digest != row.digest:
        yield f"it is a run of another checkpoint: sha256 {digest[:12]} against {row.digest[:12]}"
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
