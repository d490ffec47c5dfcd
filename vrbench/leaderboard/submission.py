"""Reading submissions: the files of an untrusted folder, each once, within the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import raise_errors
from vrbench.core.schemas import Run
from vrbench.leaderboard.schema import Submission
from vrbench.leaderboard.untrusted_input.files import (
    RECIPE_FILE,
    RUN_FILE,
    SUBMISSION_FILE,
    attempt,
    quote_path,
    submission_files,
)
from vrbench.leaderboard.untrusted_input.parsing import read_record
from vrbench.leaderboard.untrusted_input.run_folder import read_recipe, read_run_record, read_samples


@dataclass(frozen=True)
class SubmissionContent:
    """The content of a submission's folder; none of it is verified yet."""

    folder: Path
    submission: Submission
    run: Run
    recipe: str
    """Text of recipe.yaml, to be shown and never run; empty if there is none."""


def read_submission(
    folder: Path, max_rows: Mapping[str, int] | None = None, with_samples: bool = True
) -> SubmissionContent:
    """Read a submission's folder, each file once, within the limits.

    Args:
        folder: `<org>__<name>/<revision>`; whether its name follows from its content is not checked.
        max_rows: task -> samples that there may be, such as the board's number of items.
        with_samples: whether to read the samples.

    Raises:
        VrbenchError: all errors of all files at once.
    """
    content, errors = try_read_submission(folder, max_rows, with_samples)
    raise_errors(errors)
    assert content is not None  # else there were errors
    return content


def try_read_submission(
    folder: Path, max_rows: Mapping[str, int] | None = None, with_samples: bool = True
) -> tuple[SubmissionContent | None, list[str]]:
    """Read a submission as `read_submission` does; return what could be read, and the errors.

    The content is None without its two records; it may lack samples.
    """
    errors: list[str] = []
    files = attempt(lambda: submission_files(folder), errors)
    if files is None:
        return None, errors
    submission = attempt(lambda: read_record(files[SUBMISSION_FILE], Submission), errors)
    found = attempt(lambda: read_run_record(files), errors)
    run = Run(record=found[0], samples={}, path=folder) if found else None
    if run is not None and with_samples:
        run = run.model_copy(update={"samples": read_samples(run.record, files, max_rows or {}, errors)})
    recipe = attempt(lambda: read_recipe(files[RECIPE_FILE]) if RECIPE_FILE in files else "", errors)
    if submission and found and found[1] != submission.run_digest:
        name = quote_path(files[RUN_FILE])
        errors.append(f"{name} is not the one that {SUBMISSION_FILE} names: its sha256 differs")
    if submission is None or run is None:
        return None, errors
    return SubmissionContent(folder, submission, run, recipe or ""), errors
