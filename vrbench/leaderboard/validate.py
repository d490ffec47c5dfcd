"""All submissions of all boards looked at: which are taken, which are refused and why, and the boards that follow.

Importing this module is cheap; validating imports the harnesses, needs no model and no card, and computes in several
processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.leaderboard import history
from vrbench.leaderboard.board import BOARD_FILE, Board, boards, load_board
from vrbench.leaderboard.check import Examiner
from vrbench.leaderboard.looking import look_at
from vrbench.leaderboard.reproductions import reproduced
from vrbench.leaderboard.schema import BoardTask, Leaderboard, Standing, ranked
from vrbench.leaderboard.submission import SUBMISSIONS
from vrbench.leaderboard.untrusted_input import submission_folders
from vrbench.statistics.claims import parse_all
from vrbench.tasks.metrics import METRICS
from vrbench.tasks.registry import TaskSpec


@dataclass(frozen=True)
class Refusal:
    """What is refused, and every reason.

    Attributes:
        board: id of the board.
        path: of a submission, a reproduction or a board's file, relative to the folder of all boards.
        reasons: one sentence each.
    """

    board: str
    path: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Validation:
    """What was found.

    Attributes:
        root: the folder of all boards.
        refusals: by path; empty when everything is taken.
        boards: id -> the board as it follows from what was taken; none of boards of which one submission was looked at.
        taken: paths of the submissions that were taken, relative to the root.
        rows: their rows, in the same order; with ranks in `boards` only.
        known: 'org/name@revision' of the rows that `leaderboard.json` has already.
        notes: what a maintainer should know and is no fault.
    """

    root: Path
    refusals: tuple[Refusal, ...] = ()
    boards: Mapping[str, Leaderboard] = field(default_factory=dict)
    taken: tuple[str, ...] = ()
    rows: tuple[Standing, ...] = ()
    known: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class How:
    """How to look.

    Attributes:
        data_root: folder with the hub's data sets, for boards whose tasks are not generated.
        jobs: processes; 0 for one a core.
        include_path: folder of the task files of boards whose tasks are not this package's own.
    """

    data_root: str | Path | None = None
    jobs: int = 0
    include_path: str | Path | None = None


def validate(
    path: str | Path = "leaderboards",
    data_root: str | Path | None = None,
    jobs: int = 0,
    include_path: str | Path | None = None,
    against: str | None = None,
) -> list[Refusal]:
    """The refusals of `validation`; empty when everything is taken."""
    return list(validation(path, How(data_root, jobs, include_path), against).refusals)


def validation(path: str | Path = "leaderboards", how: How | None = None, against: str | None = None) -> Validation:
    """Score all answers of all submissions again, and hold them to their boards.

    Args:
        path: the folder of all boards, a board's folder, or one submission's, which is looked at with its baseline.
        how: data, processes and tasks.
        against: commit or branch whose submissions must not have been changed.

    Raises:
        VrbenchError: there is no board, or the commit cannot be compared with.
    """
    root, known, submission = _meant(Path(path))
    found = Validation(root)
    for board in known.values():
        found = _joined(found, _of_board(root, board, submission, how or How()))
    if against is not None:
        odd = history.changed(root, against)
        refusals = tuple(Refusal(path.split("/")[0], path, tuple(why)) for path, why in odd.items())
        found = _joined(found, Validation(root, refusals))
    return found


def write(found: Validation) -> list[Path]:
    """Write `leaderboard.json` of every board that was looked at as a whole; returns the files.

    Raises:
        VrbenchError: something was refused.
    """
    raise_errors(f"{refusal.path}: {reason}" for refusal in found.refusals for reason in refusal.reasons)
    return [history.write(found.root / board, made) for board, made in found.boards.items()]


def _meant(path: Path) -> tuple[Path, dict[str, Board], Path | None]:
    """What a path means: the folder of all boards, the boards that are looked at, and the one submission if it is one.

    Raises:
        VrbenchError: it is none of these.
    """
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


def _of_board(root: Path, board: Board, submission: Path | None, how: How) -> Validation:
    """One board: its submissions, then its reproductions, then what it said before."""
    folder = root / board.id
    lying, odd = submission_folders(folder / SUBMISSIONS)
    found = Validation(root)
    if odd and submission is None:
        found = _refused(found, board, {folder / SUBMISSIONS: odd})
    if not lying:
        return replace(found, notes=tuple(_notes_of_empty(board)))
    try:
        examiner = Examiner(board, how.data_root, how.include_path)
    except VrbenchError as error:
        return _refused(found, board, {folder / BOARD_FILE: error_messages(error)})
    looks = look_at(examiner, root, lying if submission is None else [submission], how.jobs or cores())
    found = _refused(found, board, {look.folder: look.reasons for look in looks if look.row is None})
    rows = {look.folder: look.row for look in looks if look.row is not None}
    found = replace(found, taken=tuple(_relative(root, place) for place in rows), rows=tuple(rows.values()))
    found = replace(found, known=history.known(folder))
    if submission is not None:
        return found
    again = reproduced(examiner, folder, {row.key: row for row in rows.values()})
    now = history.kept(folder, [again.rows.get(row.key, row) for row in rows.values()])
    made = leaderboard_of(board, examiner.specs, now)
    found = replace(_refused(found, board, again.faults), boards={board.id: made})
    before = {root / path: why for path, why in history.moved(folder, made, lying).items()}
    stale = f"{board.id}/{history.LEADERBOARD_FILE} is not what its submissions give; make it anew with --write"
    return replace(_refused(found, board, before), notes=(stale,) if history.is_stale(folder, made) else ())


def _notes_of_empty(board: Board) -> Iterator[str]:
    open_ones = board.unpinned()
    if open_ones:
        more = f", and {len(open_ones) - 1:,} more like it" if len(open_ones) > 1 else ""
        yield f"{open_ones[0]}{more}"
    yield f"board {board.id}: there is no submission yet"


def _refused(found: Validation, board: Board, faults: Mapping[Path, Sequence[str]]) -> Validation:
    """What was found, with more that is refused; what is refused twice has its reasons together."""
    reasons = {refusal.path: refusal for refusal in found.refusals}
    for place, why in faults.items():
        path = _relative(found.root, place)
        before = reasons[path].reasons if path in reasons else ()
        reasons[path] = Refusal(board.id, path, tuple(dict.fromkeys((*before, *why))))
    return replace(found, refusals=tuple(reasons[path] for path in sorted(reasons)))


def _joined(a: Validation, b: Validation) -> Validation:
    reasons = {refusal.path: refusal for refusal in a.refusals}
    for refusal in b.refusals:
        before = reasons[refusal.path].reasons if refusal.path in reasons else ()
        reasons[refusal.path] = replace(refusal, reasons=tuple(dict.fromkeys((*before, *refusal.reasons))))
    refusals = tuple(reasons[path] for path in sorted(reasons))
    taken, rows, notes = (*a.taken, *b.taken), (*a.rows, *b.rows), (*a.notes, *b.notes)
    return Validation(a.root, refusals, {**a.boards, **b.boards}, taken, rows, a.known | b.known, notes)


def _relative(root: Path, place: Path) -> str:
    return place.relative_to(root).as_posix()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leaderboard_of(board: Board, specs: Mapping[str, TaskSpec], rows: Sequence[Standing]) -> Leaderboard:
    """A board's `leaderboard.json`: the rows with their ranks, and what a reader needs to know of the tasks."""
    suites = {task: "visual" for task in board.suites.visual} | {task: "text" for task in board.suites.text}
    tasks = tuple(
        BoardTask(
            id=task,
            suite=suites.get(task, ""),
            title=spec.title,
            metric=spec.metric,
            unit=METRICS[spec.metric].kind,
            higher_is_better=spec.higher_is_better,
            chance=spec.chance,
            n=spec.n,
            version=spec.version,
        )
        for task, spec in specs.items()
    )
    claims = parse_all(board.claims)
    return Leaderboard(board=board.id, title=board.title, claims=claims, tasks=tasks, rows=ranked(rows, tasks))
