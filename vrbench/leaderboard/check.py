"""One submission looked at: everything in its folder, every rule of its board, and every figure made anew."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.schemas import Run, RunRecord, Sample, TaskResult
from vrbench.data import missing
from vrbench.data.loading import MissingDataError
from vrbench.evaluation import run_plan
from vrbench.leaderboard import requirements
from vrbench.leaderboard.board import Board
from vrbench.leaderboard.mismatches import HOW_IT_RAN, result_faults, sample_faults
from vrbench.leaderboard.rescore import Rescorer
from vrbench.leaderboard.submission import Submission
from vrbench.leaderboard.submitted import read_what_can_be
from vrbench.leaderboard.untrusted_input import quoted
from vrbench.tasks import registry
from vrbench.tasks.registry import TaskSpec

MOST_SECONDS = 600.0
"""Longest time that scoring one submission's answers to one task may take."""


@dataclass(frozen=True)
class Examined:
    """What was found of one submission.

    Attributes:
        folder: where it lies.
        submission: what it says of itself; none where that cannot be read.
        run: its record with every figure made anew, and its samples; none where there are reasons against it.
        reasons: why it is refused, one sentence each; empty when it is taken.
    """

    folder: Path
    submission: Submission | None
    run: Run | None
    reasons: tuple[str, ...]


class Examiner:
    """Looks at submissions to one board; its tasks are built once."""

    def __init__(
        self, board: Board, data_root: str | Path | None = None, include_path: str | Path | None = None
    ) -> None:
        """Load the tasks' data and build what scores answers to them.

        Raises:
            VrbenchError: tasks or data that are not here, or are not those of the board; all at once.
        """
        self.board = board
        self.specs = _specs(board, registry.load(include_path))
        faults: list[str] = []
        absent: list[MissingDataError] = []
        jobs = {}
        for task, spec in self.specs.items():
            try:
                jobs[task] = run_plan.plan_task(spec, run_plan.RunConfig(data_root=data_root))
                faults += _job_faults(board, jobs[task])
            except MissingDataError as error:
                absent.append(error)
            except VrbenchError as error:
                faults += error_messages(error)
        raise_errors([*faults, *missing.told(absent)])
        self.rescorers = {task: Rescorer(job) for task, job in jobs.items()}

    def examine(self, folder: Path, baseline: Run | None) -> Examined:
        """Look at the submission in a folder, `<board>/submissions/<org>__<name>/<revision>`.

        Args:
            baseline: the run that its family's baseline was found to be; none for a baseline itself, or where that is
                not there or was refused.
        """
        rows = {task: held.n for task, held in self.board.tasks.items()}
        found, faults = read_what_can_be(folder, rows)
        if found is None:
            return Examined(folder, None, None, tuple(dict.fromkeys(faults)))
        submission, run = found.submission, found.run
        faults += _path_faults(folder, submission)
        if not submission.is_baseline and baseline is None:
            faults.append(f"its baseline {submission.baseline} is not on the board, or was refused")
        known = run.record if submission.is_baseline else baseline.record if baseline else None
        faults += requirements.faults(self.board, submission, run.record, run.samples, known)
        rebuilt, more = self.rescored(run)
        faults += more
        return Examined(folder, submission, rebuilt if not faults else None, tuple(dict.fromkeys(faults)))

    def rescored(self, run: Run) -> tuple[Run | None, list[str]]:
        """A run with every figure made anew from its responses, and everything in it that is not what they give.

        Returns:
            The run that its answers make; none where a task of the board could not be scored.
        """
        faults = list(self._inputs_faults(run.record))
        results: dict[str, TaskResult] = {}
        samples: dict[str, tuple[Sample, ...]] = {}
        for stored in run.record.results:
            if stored.task not in self.rescorers or stored.task not in run.samples:
                continue  # which the rules or the reading have told
            found, more = self._task(stored, run.samples[stored.task], run.record.settings.seed)
            faults += [f"{stored.task}: {fault}" for fault in more]
            if found is not None:
                results[stored.task], samples[stored.task] = found
        if results.keys() != self.rescorers.keys():
            return None, faults
        kept = tuple(_kept(stored, results[stored.task]) for stored in run.record.results if stored.task in results)
        record = run.record.model_copy(update={"results": kept})
        return Run(record=record, samples=samples, path=run.path), faults

    def _task(
        self, stored: TaskResult, samples: Sequence[Sample], seed: int
    ) -> tuple[tuple[TaskResult, tuple[Sample, ...]] | None, list[str]]:
        """One task scored again, and what of it was stored otherwise."""
        try:
            with within(MOST_SECONDS):
                result, rows = self.rescorers[stored.task].score(samples, seed, stored.samples_digest)
        except VrbenchError as error:
            return None, error_messages(error)
        except Exception as error:  # a harness may raise anything over a stranger's answer
            os_errors.reraise_os_error(error)
            return None, [f"its answers cannot be scored: {type(error).__name__} {quoted(str(error), 200)}"]
        faults = list(result_faults(stored, result))
        if result.samples_digest != stored.samples_digest:
            faults += sample_faults(samples, rows)
        return (result, rows), faults

    def _inputs_faults(self, record: RunRecord) -> Iterator[str]:
        """Whether the digest that names the run's folder is that of its checkpoint, tasks and settings.

        The versions of vrbench's code are those that the record names: older answers are scored by today's code here,
        and what they are worth is held against their scores.
        """
        if {result.task for result in record.results} != self.rescorers.keys():
            return
        code = {result.task: result.code for result in record.results}
        tasks = {task: run_plan.with_code(rescorer.decides, code[task]) for task, rescorer in self.rescorers.items()}
        expected = run_plan.inputs_digest(record.checkpoint.digest, tasks, record.settings)
        if record.inputs_digest != expected:
            yield (
                f"inputs_digest is {record.inputs_digest[:12]}; checkpoint, tasks, harnesses and settings give "
                f"{expected[:12]}"
            )


def _kept(stored: TaskResult, rebuilt: TaskResult) -> TaskResult:
    """The rebuilt result, with what only the run could know."""
    return rebuilt.model_copy(update={name: getattr(stored, name) for name in HOW_IT_RAN})


def _specs(board: Board, known: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """The definitions of a board's tasks.

    Raises:
        VrbenchError: tasks that this vrbench does not have, or has at another version or number of items.
    """
    faults = []
    for task, held in board.tasks.items():
        spec = known.get(task)
        if spec is None:
            faults.append(f"board {board.id} has the task {task}, for which there is no task file here")
        elif spec.version != held.version:
            faults.append(
                f"board {board.id} holds {task} at version {held.version}; its task file has version {spec.version}"
            )
        elif spec.n != held.n:
            faults.append(f"board {board.id} holds {held.n:,} items of {task}; its task file has {spec.n:,}")
    raise_errors(faults)
    return {task: known[task] for task in board.tasks}


def _job_faults(board: Board, job: run_plan.PlannedTask) -> Iterator[str]:
    """Whether a task's definition and data here are those of the board."""
    task, held = job.spec.id, board.tasks[job.spec.id]
    if held.definition_digest not in (None, job.definition_digest):
        yield f"board {board.id} holds {task} with another prompt, generation or scoring than its task file has"
    if held.data_digest not in (None, job.digest):
        yield (
            f"the data of {task} here ({job.origin}) are not those of board {board.id}: sha256 {job.digest[:12]} "
            f"against {str(held.data_digest)[:12]}" + (f"; {job.spec.note}" if job.spec.note else "")
        )


def _path_faults(folder: Path, submission: Submission) -> Iterator[str]:
    """Where it lies must follow from what it says."""
    wanted = submission.path.parts
    given = folder.absolute().parts[-len(wanted) :]
    if given != wanted:
        yield f"it lies at {'/'.join(given)}, but what it says belongs at {'/'.join(wanted)}"


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise a VrbenchError in what takes longer, where the system has timers (not on Windows, nor in a thread)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise VrbenchError(f"scoring its answers takes more than {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
