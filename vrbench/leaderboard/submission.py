"""Reading submissions: the files of an untrusted folder, each once, within the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import raise_errors
from vrbench.core.schemas import Run
from vrbench.leaderboard.schema import Submission
from vrbench.leaderboard.untrusted_input import files
from vrbench.leaderboard.untrusted_input.files import attempt, quote_path
from vrbench.leaderboard.untrusted_input.parsing import read_record
from vrbench.leaderboard.untrusted_input.run_folder import read_recipe, read_run_record, read_samples


@dataclass(frozen=True)
class SubmissionContent:
    """The content of a submission's folder; none of it is verified yet.

    Attributes:
        recipe: text of recipe.yaml, to be shown and never run; empty if there is none.
    """

    folder: Path
    submission: Submission
    run: Run
    recipe: str


def read_submission(
    folder: Path, max_rows: Mapping[str, int] | None = None, with_samples: bool = True
) -> SubmissionContent:
    """Read a submission as `try_read_submission` does; raise a VrbenchError with all errors if there are any."""
    content, errors = try_read_submission(folder, max_rows, with_samples)
    raise_errors(errors)
    assert content is not None  # else there were errors
    return content


def try_read_submission(
    folder: Path, max_rows: Mapping[str, int] | None = None, with_samples: bool = True
) -> tuple[SubmissionContent | None, list[str]]:
    """Read a submission's folder, each file once, within the limits; return what could be read, and all errors.

    Args:
        folder: `<org>__<name>/<revision>`; whether its name follows from its content is not checked.
        max_rows: task -> samples that there may be, such as the board's number of items.
        with_samples: whether to read the samples.

    Returns:
        The content, which may lack samples; None without its two records.
    """
    errors: list[str] = []
    there = attempt(lambda: files.submission_files(folder), errors)
    if there is None:
        return None, errors
    submission = attempt(lambda: read_record(there[files.SUBMISSION_FILE], Submission), errors)
    found = attempt(lambda: read_run_record(there), errors)
    samples = read_samples(found[0], there, max_rows or {}, errors) if found and with_samples else {}
    recipe = attempt(lambda: read_recipe(there[files.RECIPE_FILE]) if files.RECIPE_FILE in there else "", errors)
    if submission is None or found is None:
        return None, errors
    record, digest = found
    if digest != submission.run_digest:
        name = quote_path(there[files.RUN_FILE])
        errors.append(f"{name} is not the one that {files.SUBMISSION_FILE} names: its sha256 differs")
    return SubmissionContent(folder, submission, Run(record=record, samples=samples, path=folder), recipe or ""), errors
