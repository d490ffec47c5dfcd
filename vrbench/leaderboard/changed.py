"""What a change does to the boards: rows that came, went or moved, as Markdown; and what may not be changed at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tabulate import tabulate

from vrbench.errors import VrbenchError, raise_all, sentences
from vrbench.leaderboard.board import BOARD_FILE
from vrbench.leaderboard.reading import limits, markdown_code, read_bytes, read_record, submission_files
from vrbench.leaderboard.reading.files import submission_folders
from vrbench.leaderboard.standing import Figure, Leaderboard, Mean, Standing
from vrbench.leaderboard.submission import SUBMISSIONS
from vrbench.report.cells import interval

LEADERBOARD_FILE = "leaderboard.json"
MOST_BYTES = 256 * 2**20
"""Of one leaderboard.json, or of one file of a submission."""

HEADERS = ("submission", "", "visual", "visual kept, %", "text", "text kept, %", "verdicts", "status")


def moved(before: str | Path, after: str | Path) -> list[str]:
    """Submissions that were changed or removed, one sentence a file; what was handed in stays as it was.

    Args:
        before: folder of all boards as they were.
        after: the same as they are to be.
    """
    found: list[str] = []
    for name in _boards(Path(before)):
        for folder in submission_folders(Path(before) / name / SUBMISSIONS)[0]:
            inner = folder.relative_to(before)
            differing = _differing(folder, Path(after) / inner)
            found += [f"{inner}{file} was {how}; what was handed in stays as it was" for file, how in differing]
    return found


def markdown(before: str | Path, after: str | Path, gone: Sequence[str] = ()) -> str:
    """The rows of every board that differ, as Markdown tables; a board without `leaderboard.json` has no rows.

    Args:
        before: folder of all boards as they were.
        after: the same as they are to be.
        gone: what `moved` says of them, which comes first.

    Raises:
        VrbenchError: every `leaderboard.json` that cannot be read.
    """
    parts = ["\n".join(f"- {markdown_code(sentence, 400)}" for sentence in gone)] if gone else []
    faults: list[str] = []
    for name in sorted({*_boards(Path(before)), *_boards(Path(after))}):
        old, new = (_rows(Path(root) / name / LEADERBOARD_FILE, faults) for root in (before, after))
        keys = [key for key in [*new, *(key for key in old if key not in new)] if old.get(key) != new.get(key)]
        said = [f"### Board {markdown_code(name)}"]
        if _bytes(Path(before) / name / BOARD_FILE) != _bytes(Path(after) / name / BOARD_FILE):
            said.append(f"**`{BOARD_FILE}` differs**: what is asked of every submission changes, so look at it first.")
        lines = [_line(key, old.get(key), new.get(key)) for key in keys]
        said.append(tabulate(lines, HEADERS, "pipe", disable_numparse=True) if lines else "No row differs.")
        parts.append("\n\n".join(said))
    raise_all(faults)
    return "\n\n".join(parts) + "\n"


def _boards(root: Path) -> list[str]:
    return sorted(file.parent.name for file in root.glob(f"*/{BOARD_FILE}"))


def _bytes(file: Path) -> bytes:
    return read_bytes(file, MOST_BYTES) if file.is_file() else b""


def _differing(folder: Path, other: Path) -> Iterator[tuple[str, str]]:
    """Files of a submission that are not the same in another folder, and what became of them."""
    if not other.is_dir():
        yield "", "removed"
        return
    try:
        old, new = submission_files(folder), submission_files(other)
    except VrbenchError as error:
        yield "", f"changed ({error})"
        return
    for file in sorted({*old, *new}):
        if file not in new or file not in old:
            yield f"/{file}", "removed" if file in old else "added"
        elif _bytes(old[file]) != _bytes(new[file]):
            yield f"/{file}", "changed"


def _rows(file: Path, faults: list[str]) -> dict[str, Standing]:
    """Reference -> row, in the order of the board."""
    if not file.is_file():
        return {}
    try:
        return {row.key: row for row in read_record(file, Leaderboard, limits.BOARD_BYTES, limits.BOARD_VALUES).rows}
    except VrbenchError as error:
        faults += sentences(error)
        return {}


def _line(key: str, old: Standing | None, new: Standing | None) -> tuple[str, ...]:
    """One row of the table: what it is now, and what it was where that differs."""
    what = "new" if old is None else "removed" if new is None else "moved"
    cells = [_moved(tell, old, new) for tell in (_score("visual"), _kept("visual"), _score("text"), _kept("text"))]
    return (markdown_code(key), what, *cells, _moved(_verdicts, old, new), _moved(_status, old, new))


def _moved(tell: Callable[[Standing], str], old: Standing | None, new: Standing | None) -> str:
    texts = list(dict.fromkeys(tell(row) for row in (old, new) if row is not None))
    return " → ".join(texts)


def _score(suite: str) -> Callable[[Standing], str]:
    return lambda row: _figure(getattr(row, suite), "score")


def _kept(suite: str) -> Callable[[Standing], str]:
    return lambda row: _figure(getattr(row, suite), "retention")


def _figure(mean: Mean | None, name: str) -> str:
    if mean is None:
        return "-"
    figure: Figure = getattr(mean, name)
    return interval(figure.value, figure.low, figure.high, 1)


def _verdicts(row: Standing) -> str:
    return ", ".join(f"{found.claim.text} {found.verdict}" for found in row.verdicts) or "-"


def _status(row: Standing) -> str:
    return row.status.kind
