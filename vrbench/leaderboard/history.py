"""Earlier states of a board: its stored `leaderboard.json`, and the submissions of an earlier commit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.leaderboard.mismatches import differences
from vrbench.leaderboard.schema import SUBMISSIONS, Leaderboard, LeaderboardRow, submission_path
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.parsing import read_record
from vrbench.leaderboard.untrusted_input.text import sanitize_for_message

LEADERBOARD_FILE = "leaderboard.json"

_MUTABLE_FIELDS: Any = {
    "description": True,
    "status": True,
    "submitted": True,
    "verdicts": {"__all__": {"n_needed", "reason"}},
}
"""Fields of a row that are not values, or that follow from the last digits of an interval."""


def read_leaderboard(folder: Path) -> Leaderboard:
    """Read a board's `leaderboard.json`.

    Raises:
        VrbenchError: it is missing or not valid.
    """
    return read_record(folder / LEADERBOARD_FILE, Leaderboard, limits.BOARD_BYTES, limits.BOARD_VALUES)


def validate_stored(
    folder: Path, stored: Leaderboard, new: Leaderboard, submissions: Sequence[Path]
) -> dict[str, list[str]]:
    """Return where `leaderboard.json` contradicts the recomputed board: path -> why, one message each.

    Args:
        folder: the board's.
        stored: the content of `leaderboard.json`.
        new: from the submissions that were accepted.
        submissions: folders of all submissions; nothing is reported for those that were refused.
    """
    rows = {row.key: row for row in new.rows}
    present = {place.relative_to(folder.parent).as_posix() for place in submissions}
    found: dict[str, list[str]] = {}
    for row in stored.rows:
        path = submission_path(folder.name, row.org, row.name, row.revision).as_posix()
        if row.key in rows:
            found[path] = list(_changed_figures(row, rows[row.key]))
        elif path not in present:
            found[path] = [f"{row.key} is in {LEADERBOARD_FILE}, but its submission is gone"]
    return {path: errors for path, errors in found.items() if errors}


def keep_stored_figures(stored: Leaderboard, rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """Return the rows, those that did not change with the values of `leaderboard.json`.

    Another version of numpy draws other intervals; what was published once stays to the last digit.
    """
    before = {row.key: row for row in stored.rows}
    return [
        before[row.key].model_copy(update={name: getattr(row, name) for name in ("description", "status", "submitted")})
        if row.key in before and not list(_changed_figures(before[row.key], row))
        else row
        for row in rows
    ]


def _changed_figures(before: LeaderboardRow, now: LeaderboardRow) -> Iterator[str]:
    """Yield an error for each value of a row that changed; ranks may change, since rows are added."""
    dumps = (row.model_dump(exclude=_MUTABLE_FIELDS) for row in (before, now))
    different = [found for found in differences(*dumps) if "rank" not in found[0].split(".")]
    if different:
        name, old, new = map(sanitize_for_message, different[0])
        more = f", and {len(different) - 1:,} more of its values" if len(different) > 1 else ""
        yield f"its stored {name} changed: {LEADERBOARD_FILE} has {old}, its answers give {new}{more}"


def changed_submissions(root: Path, against: str) -> dict[str, list[str]]:
    """Return the submissions of an earlier commit that were changed or removed since: path -> why.

    Args:
        root: folder of all boards, within a git checkout.
        against: commit or branch; what was added there after the two diverged is ignored.

    Raises:
        VrbenchError: no git, no checkout, or no such commit.
    """
    if against.startswith("-"):
        raise VrbenchError(f"{against!r} is not a commit or branch")
    base = _git(root, "merge-base", against, "HEAD").strip()
    changes = _git(root, "diff", "--name-status", "--no-renames", "-z", "--relative", base, "--", ".").split("\0")
    found: dict[str, list[str]] = {}
    for status, name in zip(changes[::2], changes[1::2], strict=False):
        parts = PurePosixPath(name).parts
        if status == "A" or len(parts) < 5 or parts[1] != SUBMISSIONS:
            continue
        path = "/".join(parts[:4])
        if _git(root, "ls-tree", "--name-only", base, f"./{path}").strip():
            file, verb = sanitize_for_message("/".join(parts[4:])), "removed" if status == "D" else "changed"
            reason = f"{file} was {verb} since {against}; a submission is never changed: submit a new revision"
            found.setdefault(path, []).append(reason)
    return found


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, check=True, encoding="utf-8",
            errors="backslashreplace",  # a name in an untrusted commit may be any bytes
        )  # fmt: skip
    except OSError as error:
        raise VrbenchError(f"git cannot be run: {error.strerror}; leave --against out") from error
    except subprocess.CalledProcessError as error:
        raise VrbenchError(f"git {words[0]} failed in {str(root)!r}: {' '.join(error.stderr.split())}") from error
    return done.stdout
