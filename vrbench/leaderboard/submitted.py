"""A submission as it lies in its folder, read as a stranger's: its record, its run and its recipe, or every fault."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.schemas import Run
from vrbench.leaderboard.submission import RECIPE_FILE, SUBMISSION_FILE, Submission
from vrbench.leaderboard.untrusted_input import (
    parse_yaml,
    quoted,
    read_bytes,
    read_record,
    read_run,
    read_text,
    submission_files,
)
from vrbench.leaderboard.untrusted_input.limits import YAML_BYTES

T = TypeVar("T")


@dataclass(frozen=True)
class Submitted:
    """What lies in a submission's folder; nothing of it is believed yet."""

    folder: Path
    """Where it lies."""
    submission: Submission
    """Who hands in what."""
    run: Run
    """The run as it was saved, with its samples."""
    recipe: str
    """Text of recipe.yaml, to be shown and never run; empty when there is none."""


def read_submission(folder: Path, rows: Mapping[str, int] | None = None) -> Submitted:
    """Read a submission's folder within bounds.

    Args:
        folder: `<org>__<name>/<revision>`; whether it is named as its content says is not looked at here.
        rows: task -> samples that there may be, such as the board's number of items.

    Raises:
        VrbenchError: all faults of all its files at once, as `submission_files`, `read_record`, `read_run` and
            `parse_yaml` tell them; or a run.json that is not the one that submission.json names.
    """
    found, faults = read_what_can_be(folder, rows)
    raise_errors(faults)
    assert found is not None  # else there were faults
    return found


def read_what_can_be(folder: Path, rows: Mapping[str, int] | None = None) -> tuple[Submitted | None, list[str]]:
    """`read_submission`, with its faults given instead of raised.

    Returns:
        What could be read, which may lack samples; none without its two records. And every fault.
    """
    faults: list[str] = []
    files = _told(faults, lambda: submission_files(folder))
    if files is None:
        return None, faults
    submission = _told(faults, lambda: read_record(files[SUBMISSION_FILE], Submission))
    run = _told(faults, lambda: read_run(files, rows, faults))
    recipe = _told(faults, lambda: _recipe(files[RECIPE_FILE]) if RECIPE_FILE in files else "")
    if submission and hashlib.sha256(read_bytes(files["run.json"])).hexdigest() != submission.run_digest:
        faults.append(
            f"{quoted(str(files['run.json']), 200)} is not the one that {SUBMISSION_FILE} names: its sha256 differs"
        )
    if submission is None or run is None:
        return None, faults
    return Submitted(folder=folder, submission=submission, run=run, recipe=recipe or ""), faults


def _told(faults: list[str], read: Callable[[], T]) -> T | None:
    """What was read, or nothing and its faults among the others."""
    try:
        return read()
    except VrbenchError as error:
        faults += error_messages(error)
        return None


def _recipe(path: Path) -> str:
    text = read_text(path, YAML_BYTES)
    parse_yaml(text, quoted(str(path), 200))
    return text
