"""Many submissions examined in several processes, each with its baseline; what comes back is small."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Run
from vrbench.leaderboard.check import Examined, Examiner
from vrbench.leaderboard.rows import standing_of
from vrbench.leaderboard.schema import Standing
from vrbench.leaderboard.submission import SUBMISSION_FILE, Submission, path_of
from vrbench.leaderboard.text import parts_of
from vrbench.leaderboard.untrusted_input import quoted, read_record

FEWEST_SHARED = 8
"""Submissions from which on further processes are worth their start."""


@dataclass(frozen=True)
class Looked:
    """What was found of a submission: its row, or the reasons against it."""

    folder: Path
    row: Standing | None
    reasons: tuple[str, ...]


def look_at(examiner: Examiner, root: Path, folders: Sequence[Path], jobs: int) -> list[Looked]:
    """Examine submissions, in the given order.

    Args:
        root: folder of all boards.
        folders: of the submissions; their baselines are looked at whether they are among them or not.
        jobs: processes.

    Raises:
        VrbenchError: a process died, for want of memory for instance.
    """
    found = {folder: examiner.examine(folder, None) for folder in baselines(examiner, root, folders)}
    runs = {look.submission.reference: look.run for look in found.values() if look.submission and look.run}
    known = {folder: _looked(examiner, look, look.run) for folder, look in found.items()}
    others = [folder for folder in folders if folder not in known]
    known |= {look.folder: look for look in _in_processes(_State(examiner, runs), others, jobs)}
    return [known[folder] for folder in folders]


def baselines(examiner: Examiner, root: Path, folders: Sequence[Path]) -> list[Path]:
    """Where the board's baselines lie, and the submissions among those given that call themselves one."""
    named = [family.baseline for family in examiner.board.families.values() if family.baseline]
    there = [root / path_of(examiner.board.id, *parts_of(reference)) for reference in named]
    own = [folder for folder in folders if _is_baseline(folder)]
    return list(dict.fromkeys([*(folder for folder in there if folder.is_dir()), *own]))


def _is_baseline(folder: Path) -> bool:
    try:
        return read_record(folder / SUBMISSION_FILE, Submission).is_baseline
    except VrbenchError:  # told when it is examined
        return False


@dataclass(frozen=True)
class _State:
    """What every process needs; `runs` are those of the baselines that were taken, by reference."""

    examiner: Examiner
    runs: Mapping[str, Run]

    def look(self, folder: Path) -> Looked:
        baseline = None
        try:
            baseline = self.runs.get(read_record(folder / SUBMISSION_FILE, Submission).baseline)
        except VrbenchError:
            pass  # told when it is examined
        return _looked(self.examiner, self.examiner.examine(folder, baseline), baseline)


def _looked(examiner: Examiner, look: Examined, baseline: Run | None) -> Looked:
    if look.reasons or look.submission is None or look.run is None or baseline is None:
        return Looked(look.folder, None, look.reasons)
    try:
        return Looked(look.folder, standing_of(examiner.board, look.submission, look.run, baseline), ())
    except Exception as error:  # one submission never stops the others from being looked at
        os_errors.reraise_os_error(error)
        return Looked(look.folder, None, (f"its row cannot be made: {type(error).__name__} {quoted(str(error), 200)}",))


_state: _State | None = None
"""Set before processes are forked, which then share it."""


def _in_processes(state: _State, folders: Sequence[Path], jobs: int) -> list[Looked]:
    """By forked processes, which share the tasks that were built; one process where none can be forked."""
    global _state
    forks = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    if jobs < 2 or len(folders) < FEWEST_SHARED or not forks:
        return [state.look(folder) for folder in folders]
    _state = state
    try:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _settle) as pool:
            return list(pool.map(_look, folders, chunksize=2))
    except BrokenProcessPool as error:
        raise VrbenchError(
            "a process that scored answers died, perhaps for want of memory; try fewer --jobs"
        ) from error
    finally:
        _state = None


def _settle() -> None:
    """Leave what was built before the fork out of the collecting of garbage, which would walk through it for ever."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)


def _look(folder: Path) -> Looked:
    assert _state is not None
    return _state.look(folder)
