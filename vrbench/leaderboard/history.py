"""What a board said before: `leaderboard.json` as it lies there, and the submissions of an earlier commit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.io import write_atomically
from vrbench.leaderboard.mismatches import differences
from vrbench.leaderboard.schema import Leaderboard, Standing, text_of
from vrbench.leaderboard.submission import SUBMISSIONS, path_of
from vrbench.leaderboard.untrusted_input import limits, quoted, read_bytes, read_record

LEADERBOARD_FILE = "leaderboard.json"

_MOVING: Any = {
    "description": True,
    "status": True,
    "submitted": True,
    "verdicts": {"__all__": {"n_needed", "reason"}},
}
"""Fields of a row that are no figures, or that follow from an interval's last digits."""


def known(folder: Path) -> frozenset[str]:
    """'org/name@revision' of the rows of a board's `leaderboard.json`; none where it is not there or unreadable."""
    try:
        return frozenset(row.key for row in _before(folder).rows)
    except VrbenchError:  # `moved` tells it
        return frozenset()


def moved(folder: Path, made: Leaderboard, there: Sequence[Path]) -> dict[str, list[str]]:
    """What `leaderboard.json` says otherwise than the board that was made anew: path -> why, one sentence each.

    Args:
        folder: the board's.
        made: from the submissions that were taken.
        there: folders of all submissions; of those that were refused nothing is said here.
    """
    file = folder / LEADERBOARD_FILE
    if not file.exists():
        return {}
    try:
        before = _before(folder)
    except VrbenchError as error:
        return {f"{folder.name}/{LEADERBOARD_FILE}": error_messages(error)}
    rows = {row.key: row for row in made.rows}
    lying = {place.relative_to(folder.parent).as_posix() for place in there}
    found: dict[str, list[str]] = {}
    for row in before.rows:
        path = path_of(folder.name, row.org, row.name, row.revision).as_posix()
        if row.key in rows:
            found[path] = list(_moved(row, rows[row.key]))
        elif path not in lying:
            found[path] = [f"{row.key} is in {LEADERBOARD_FILE}, but its submission is gone"]
    return {path: faults for path, faults in found.items() if faults}


def kept(folder: Path, rows: Sequence[Standing]) -> list[Standing]:
    """The rows, those that did not move with the figures that `leaderboard.json` has.

    Another version of numpy draws other intervals; what was published once stays to the last digit.
    """
    try:
        before = {row.key: row for row in _before(folder).rows}
    except VrbenchError:  # not there, or `moved` tells why
        return list(rows)
    return [
        before[row.key].model_copy(update={name: getattr(row, name) for name in ("description", "status", "submitted")})
        if row.key in before and not list(_moved(before[row.key], row))
        else row
        for row in rows
    ]


def _before(folder: Path) -> Leaderboard:
    return read_record(folder / LEADERBOARD_FILE, Leaderboard, limits.BOARD_BYTES, limits.BOARD_VALUES)


def _moved(before: Standing, now: Standing) -> Iterator[str]:
    """Figures of a row that moved; a rank may, since other rows come."""
    a, b = (_without_ranks(row.model_dump(exclude=_MOVING)) for row in (before, now))
    odd = differences(a, b)
    if odd:
        name, old, new = odd[0]
        more = f", and {len(odd) - 1:,} more of its figures" if len(odd) > 1 else ""
        yield (
            f"its stored {quoted(name)} moved: {LEADERBOARD_FILE} has {quoted(old)}, its answers give "
            f"{quoted(new)}{more}"
        )


def _without_ranks(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _without_ranks(inner) for name, inner in value.items() if name != "rank"}
    return [_without_ranks(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def is_stale(folder: Path, made: Leaderboard) -> bool:
    """Whether `leaderboard.json` is not the one that was made anew."""
    try:
        return read_bytes(folder / LEADERBOARD_FILE, limits.BOARD_BYTES) != text_of(made).encode()
    except VrbenchError:  # not there, or `moved` tells why
        return True


def write(folder: Path, made: Leaderboard) -> Path:
    """Write `leaderboard.json`; returns the file."""
    file = folder / LEADERBOARD_FILE
    write_atomically(file, text_of(made))
    return file


def changed(root: Path, against: str) -> dict[str, list[str]]:
    """Submissions of an earlier commit that were changed or removed since: path -> why.

    Args:
        root: folder of all boards, within a git checkout.
        against: commit or branch; what was added there after the two parted is left out.

    Raises:
        VrbenchError: no git, no checkout, or no such commit.
    """
    if against.startswith("-"):
        raise VrbenchError(f"{against!r} is no commit or branch")
    base = _git(root, "merge-base", against, "HEAD").strip()
    told = _git(root, "diff", "--name-status", "--no-renames", "-z", "--relative", base, "--", ".").split("\0")
    found: dict[str, list[str]] = {}
    for status, name in zip(told[::2], told[1::2], strict=False):
        place = PurePosixPath(name)
        if status == "A" or len(place.parts) < 5 or place.parts[1] != SUBMISSIONS:
            continue
        path = PurePosixPath(*place.parts[:4])
        was = _git(root, "ls-tree", "--name-only", base, f"./{path}").strip()
        if not was:
            continue
        rest = PurePosixPath(*place.parts[4:])
        verb = "removed" if status == "D" else "changed"
        found.setdefault(str(path), []).append(f"{quoted(str(rest))} was {verb} since {against}; {_NEVER}")
    return found


_NEVER = "what was handed in is never changed: hand in a new revision"


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, check=True, encoding="utf-8",
            errors="backslashreplace",  # a name in a stranger's commit may be any bytes
        )  # fmt: skip
    except OSError as error:
        raise VrbenchError(f"git cannot be run: {error.strerror}; leave --against out") from error
    except subprocess.CalledProcessError as error:
        raise VrbenchError(f"git {words[0]} failed in {str(root)!r}: {' '.join(error.stderr.split())}") from error
    return done.stdout
