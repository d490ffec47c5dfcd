"""Checking submissions: every rule of the board, and every value recomputed from the answers."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.schemas import Run, RunRecord, Sample, TaskResult
from vrbench.data.locate import MissingDataError, missing_messages
from vrbench.evaluation.inputs_digest import inputs_digest
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import PlannedTask, plan_task
from vrbench.leaderboard.board import Board
from vrbench.leaderboard.mismatches import ONLY_IN_RUN, validate_result, validate_samples
from vrbench.leaderboard.requirements import validate_requirements
from vrbench.leaderboard.rescore import Rescorer
from vrbench.leaderboard.rows import leaderboard_row
from vrbench.leaderboard.schema import LeaderboardRow, parse_reference, submission_path
from vrbench.leaderboard.submission import try_read_submission
from vrbench.leaderboard.untrusted_input.text import sanitize_for_message
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

MAX_SECONDS = 600.0
"""Longest time that scoring one submission's answers to one task may take."""

MIN_FORKED = 8
"""Submissions from which on further processes are worth their start."""


@dataclass(frozen=True)
class RowOrRejection:
    """The result of checking one submission: its row, or the reasons why it is refused.

    Attributes:
        folder: of the submission.
        reasons: why it is refused, one message each; empty if it is accepted.
        row: its row, without ranks; None if it is refused.
        run: its record with every value recomputed, and its samples; None if it is refused.
    """

    folder: Path
    reasons: tuple[str, ...] = ()
    row: LeaderboardRow | None = None
    run: Run | None = None


class SubmissionChecker:
    """Checks submissions to one board; the board's tasks are built once."""

    def __init__(
        self, board: Board, data_root: str | Path | None = None, include_path: str | Path | None = None
    ) -> None:
        """Load the tasks' data and build what scores answers to them.

        Raises:
            VrbenchError: tasks or data that are missing, or are not those of the board; all at once.
        """
        self.board = board
        self.specs = _task_specs(board, registry.load(include_path))
        errors: list[str] = []
        absent: list[MissingDataError] = []
        jobs = {}
        for task, spec in self.specs.items():
            try:
                jobs[task] = plan_task(spec, RunConfig(data_root=data_root))
                errors += _validate_job(board, jobs[task])
            except MissingDataError as error:
                absent.append(error)
            except VrbenchError as error:
                errors += error_messages(error)
        raise_errors([*errors, *missing_messages(absent)])
        self.rescorers = {task: Rescorer(job) for task, job in jobs.items()}

    def check(self, folder: Path, baselines: Mapping[str, Run]) -> RowOrRejection:
        """Check the submission in a folder, `<board>/submissions/<org>__<name>/<revision>`, and make its row.

        Args:
            baselines: reference -> run of each baseline that was accepted; a baseline itself needs none.
        """
        content, errors = try_read_submission(folder, self.board.n_items)
        if content is None:
            return RowOrRejection(folder, tuple(dict.fromkeys(errors)))
        submission, run = content.submission, content.run
        expected = submission.path.parts
        if (given := folder.absolute().parts[-len(expected) :]) != expected:
            errors.append(f"it is at {'/'.join(given)}, but by its content belongs at {'/'.join(expected)}")
        baseline = run if submission.is_baseline else baselines.get(submission.baseline)
        if baseline is None:
            errors.append(f"its baseline {submission.baseline} is not on the board, or was refused")
        record = baseline.record if baseline else None
        errors += validate_requirements(self.board, submission, run.record, run.samples, record)
        rescored, more = self.rescore(run)
        errors += more
        if not errors and rescored is not None and baseline is not None:
            with _collect_any_error(errors, "its row cannot be made"):
                compared = rescored if submission.is_baseline else baseline
                row = leaderboard_row(self.board, submission, rescored, compared)
                return RowOrRejection(folder, row=row, run=rescored)
        return RowOrRejection(folder, tuple(dict.fromkeys(errors)))

    def rescore(self, run: Run) -> tuple[Run | None, list[str]]:
        """Recompute a run from its responses; return it and everything in it that they do not give.

        The run is None if a task of the board could not be scored.
        """
        errors = list(self._validate_inputs_digest(run.record))
        results: list[TaskResult] = []
        samples: dict[str, tuple[Sample, ...]] = {}
        for stored in run.record.results:
            if stored.task not in self.rescorers or stored.task not in run.samples:
                continue  # reported with the requirements, or when it was read
            given = run.samples[stored.task]
            task_errors: list[str] = []
            with _collect_any_error(task_errors, "its answers cannot be scored"), time_limit(MAX_SECONDS):
                seed, digest = run.record.settings.seed, stored.samples_digest
                result, samples[stored.task] = self.rescorers[stored.task].score(given, seed, digest)
                results.append(result.model_copy(update={name: getattr(stored, name) for name in ONLY_IN_RUN}))
                task_errors += validate_result(stored, result)
                if result.samples_digest != digest:
                    task_errors += validate_samples(given, samples[stored.task])
            errors += [f"{stored.task}: {error}" for error in task_errors]
        if samples.keys() != self.rescorers.keys():
            return None, errors
        record = run.record.model_copy(update={"results": tuple(results)})
        return Run(record=record, samples=samples, path=run.path), errors

    def _validate_inputs_digest(self, record: RunRecord) -> Iterator[str]:
        """Yield an error if the inputs digest is not that of the run's checkpoint, tasks and settings.

        The versions of vrbench's code are those in the record: older answers are scored by today's code here, and their
        stored scores are compared with that.
        """
        if {result.task for result in record.results} != self.rescorers.keys():
            return
        code = {result.task: result.code for result in record.results}
        tasks = {t: rescorer.job.inputs(code[t]) for t, rescorer in self.rescorers.items()}
        expected = inputs_digest(record.checkpoint.digest, tasks, record.settings)
        if record.inputs_digest != expected:
            given = record.inputs_digest[:12]
            yield f"inputs_digest is {given}; checkpoint, tasks, harnesses and settings give {expected[:12]}"


def _task_specs(board: Board, known: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    errors = []
    for task, pinned in board.tasks.items():
        spec = known.get(task)
        if spec is None:
            errors.append(f"board {board.id} has the task {task}, for which there is no task file here")
        elif spec.version != pinned.version:
            version = f"{task} at version {pinned.version}; its task file has version {spec.version}"
            errors.append(f"board {board.id} has {version}")
        elif spec.n != pinned.n:
            errors.append(f"board {board.id} has {pinned.n:,} items of {task}; its task file has {spec.n:,}")
    raise_errors(errors)
    return {task: known[task] for task in board.tasks}


def _validate_job(board: Board, job: PlannedTask) -> Iterator[str]:
    """Yield an error where a task's definition or data here are not those of the board."""
    task, pinned = job.spec.id, board.tasks[job.spec.id]
    if pinned.definition_digest not in (None, job.definition_digest):
        yield f"board {board.id} has {task} with another prompt, generation or scoring than its task file"
    if pinned.data_digest not in (None, job.digest):
        yield (
            f"the data of {task} here ({job.origin}) are not those of board {board.id}: sha256 {job.digest[:12]} "
            f"against {str(pinned.data_digest)[:12]}" + (f"; {job.spec.note}" if job.spec.note else "")
        )


@contextlib.contextmanager
def _collect_any_error(errors: list[str], what: str) -> Iterator[None]:
    """Add any error to a list: a harness may raise anything for an untrusted answer; other submissions go on."""
    try:
        yield
    except VrbenchError as error:
        errors += error_messages(error)
    except Exception as error:
        os_errors.reraise_os_error(error)
        errors.append(f"{what}: {type(error).__name__} {sanitize_for_message(str(error), 200)}")


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
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


def check_submissions(
    checker: SubmissionChecker, root: Path, folders: Sequence[Path], jobs: int
) -> list[RowOrRejection]:
    """Check submissions and make their rows, in the given order; each folder is read once.

    Args:
        root: folder of all boards.
        folders: of the submissions; the board's baselines are checked whether they are among them or not.
        jobs: processes.

    Raises:
        VrbenchError: a process died, such as for lack of memory.
    """
    references = [family.baseline for family in checker.board.families.values() if family.baseline]
    places = [root / submission_path(checker.board.id, *parse_reference(reference)) for reference in references]
    found = {folder: checker.check(folder, {}) for folder in dict.fromkeys(places) if folder.is_dir()}
    baselines = {one.row.key: one.run for one in found.values() if one.row and one.run}
    others = [folder for folder in folders if folder not in found]
    forks = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    if jobs < 2 or len(others) < MIN_FORKED or not forks:
        found |= {folder: checker.check(folder, baselines) for folder in others}
    else:
        found |= {one.folder: one for one in _check_in_processes(checker, baselines, others, jobs)}
    return [found[folder] for folder in folders]


def _check_in_processes(
    checker: SubmissionChecker, baselines: Mapping[str, Run], folders: Sequence[Path], jobs: int
) -> Iterator[RowOrRejection]:
    """Check submissions in forked processes, which share the tasks that were built."""
    context = multiprocessing.get_context("fork")
    running = []
    try:
        for worker in range(jobs):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_worker, args=(checker, baselines, folders[worker::jobs], sender))
            process.start()
            sender.close()  # so that the end of the process is the end of the pipe
            running.append((process, receiver))
        for _, receiver in running:
            found = receiver.recv()
            if isinstance(found, Exception):
                raise found
            yield from found
    except EOFError as error:
        raise VrbenchError("a process that scored answers died, perhaps of lack of memory; try fewer --jobs") from error
    finally:
        for process, _ in running:
            process.terminate()
            process.join()


def _worker(checker: SubmissionChecker, baselines: Mapping[str, Run], folders: Sequence[Path], to: Connection) -> None:
    gc.freeze()  # else the garbage collector walks through, and so copies, all that was built before the fork
    gc.set_threshold(50_000, 50, 1000)
    try:
        to.send([replace(checker.check(folder, baselines), run=None) for folder in folders])
    except Exception as error:
        to.send(error)
