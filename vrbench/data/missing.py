"""Tasks whose data are not on this machine: told in one line a cause, or left out where the user asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import VrbenchError, error_messages
from vrbench.data import loading
from vrbench.data.loading import MissingDataError
from vrbench.tasks.registry import TaskSpec


@dataclass(frozen=True)
class LocatedData:
    """What was found of some tasks' data; no row was read.

    Attributes:
        there: tasks whose data are there, or could be fetched.
        missing: one a task whose data are not there.
        faults: what is wrong with data that are there.
    """

    there: tuple[TaskSpec, ...]
    missing: tuple[MissingDataError, ...]
    faults: tuple[str, ...]

    def skipped(self) -> dict[str, str]:
        """Task -> why it can be left out."""
        return {one.task: f"data set {one.data_set} is not {one.cause}" for one in self.missing}


def locate_all(specs: Iterable[TaskSpec], data_root: str | Path | None) -> LocatedData:
    """Look where tasks' data are and what the ends of their files tell."""
    there: list[TaskSpec] = []
    missing: list[MissingDataError] = []
    faults: list[str] = []
    for spec in specs:
        try:
            faults += loading.file_faults(spec, loading.locate(spec, data_root))
            there.append(spec)
        except MissingDataError as error:
            missing.append(error)
        except VrbenchError as error:
            faults += error_messages(error)
    return LocatedData(tuple(there), tuple(missing), tuple(faults))


def told(missing: Sequence[MissingDataError], advice: str = "") -> list[str]:
    """One sentence a cause, with the tasks that it concerns.

    Args:
        advice: what else can be done about it; put behind the remedy.
    """
    causes: dict[tuple[str, str], list[MissingDataError]] = {}
    for one in missing:
        causes.setdefault((one.cause, one.remedy), []).append(one)
    said = []
    for (cause, remedy), tasks in causes.items():
        if len(tasks) == 1:
            said.append(f"{tasks[0]}{advice}")
            continue
        sets = ", ".join(f"{one.task} ({one.data_set})" for one in tasks)
        said.append(f"the data sets of {len(tasks)} tasks are not {cause}: {sets}; {remedy}{advice}")
    return said


def skipped_note(skipped: dict[str, str]) -> str:
    """What a reader is told of tasks that were left out: all of them, and why."""
    reasons: dict[str, list[str]] = {}
    for task, reason in skipped.items():
        reasons.setdefault(reason.partition(" is not ")[2] or reason, []).append(task)
    listed = "; ".join(f"{', '.join(tasks)} (not {reason})" for reason, tasks in reasons.items())
    return f"left out by --skip-missing, since their data are not there: {listed}"
