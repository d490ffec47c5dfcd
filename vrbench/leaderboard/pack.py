"""A run made into a submission: looked at first, with every fault told, then written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vrbench.core.errors import raise_errors
from vrbench.core.io import write_atomically
from vrbench.leaderboard.board import load_board
from vrbench.leaderboard.publish import About as About
from vrbench.leaderboard.publish import Prepared, look, tried
from vrbench.leaderboard.submission import SUBMISSION_FILE, Submission, path_of
from vrbench.leaderboard.submitted import read_submission
from vrbench.leaderboard.text import parts_of
from vrbench.leaderboard.untrusted_input import read_bytes, read_record, submission_files

MARK = ".packing-"
"""What the name of a half-made submission begins with; its folder is beside `submissions`."""

MOVING = ("submitted", "vrbench")
"""Fields of a submission that differ when the same one is packed on another day."""


@dataclass(frozen=True)
class Packed:
    """Where a submission lies, and whether it was written now or lay there already."""

    path: Path
    is_new: bool


def pack(run: str | Path, baseline: str | Path, about: About, root: str | Path = "leaderboards") -> Packed:
    """Write `<board>/submissions/<org>__<name>/<revision>/`, whole or not at all.

    Args:
        run: folder of the run that is handed in.
        baseline: folder of a run of the baseline, whose checkpoint must be on the board; the run itself to hand in a
            baseline.
        about: names, and what is said of it.
        root: the folder of all boards.

    Returns:
        Where it lies. The same submission again changes nothing.

    Raises:
        VrbenchError: all that the board would refuse without scoring, at once; or another submission of the same name
            and revision.
    """
    found = look(run, baseline, about, root)
    if found.prepared is not None:
        found.faults.extend(differences(found.prepared))
    raise_errors(found.faults)
    assert found.prepared is not None  # else there were faults
    return write(found.prepared)


def write(prepared: Prepared) -> Packed:
    """Write a prepared submission in one step, so that a folder of that name is a whole submission.

    Raises:
        VrbenchError: what was written would be refused when it is read; nothing is left of it then.
    """
    target = prepared.path
    if target.is_dir():
        raise_errors(differences(prepared))
        return Packed(target, is_new=False)
    files = {SUBMISSION_FILE: (prepared.submission.model_dump_json(indent=1) + "\n").encode(), **prepared.files}
    board = prepared.root / prepared.submission.board
    write_folder(target, files, board, lambda half: read_submission(half, prepared.rows))
    return Packed(target, is_new=True)


def write_folder(target: Path, files: Mapping[str, bytes], board: Path, check: Callable[[Path], object]) -> None:
    """Write a folder that appears with all its files or not at all.

    Args:
        files: path within the folder -> content.
        board: folder of the board, where the half-made one is kept.
        check: reads the folder before it gets its name, and raises if it may not.
    """
    half = Path(tempfile.mkdtemp(prefix=MARK, dir=board))
    try:
        for name, content in files.items():
            write_atomically(half / name, content)
        os.chmod(half, 0o755)
        check(half)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(half, target)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        with contextlib.suppress(OSError):
            target.parent.rmdir()  # which fails unless it is empty
        raise


def differences(prepared: Prepared) -> list[str]:
    """Why a prepared submission is not the one that lies at its path; none when nothing or the same one lies there."""
    if not os.path.lexists(prepared.path):
        return []
    faults: list[str] = []
    there = tried(lambda: read_record(prepared.path / SUBMISSION_FILE, Submission), faults)
    files = tried(lambda: submission_files(prepared.path), faults)
    if there is None or files is None:
        return faults
    odd = [name for name in there.model_dump(exclude=set(MOVING)) if _field(there, name) != _field(prepared, name)]
    odd += _changed_files(prepared, {name: path for name, path in files.items() if name != SUBMISSION_FILE})
    if not odd:
        return []
    reference = prepared.submission.reference
    return [
        f"{prepared.path} holds {reference} already, with other {', '.join(odd)}; what was handed in is not changed: "
        "hand in another checkpoint, or the same under another name"
    ]


def _field(of: Submission | Prepared, name: str) -> object:
    return getattr(of.submission if isinstance(of, Prepared) else of, name)


def _changed_files(prepared: Prepared, there: dict[str, Path]) -> list[str]:
    names = sorted(prepared.files.keys() | there.keys())
    return [name for name in names if name not in there or prepared.files.get(name) != read_bytes(there[name], 2**30)]


def check(
    run: str | Path,
    baseline: str | Path,
    about: About,
    root: str | Path = "leaderboards",
    data_root: str | Path | None = None,
    include_path: str | Path | None = None,
) -> list[str]:
    """All that would be refused, without writing anything: what `pack` tells, and what scoring the answers again does.

    Args:
        data_root: folder with the hub's data sets, for boards whose tasks are not generated.
        include_path: folder with task files of one's own, for boards that have such tasks.

    Returns:
        One sentence for each fault; empty for a submission that would be taken.
    """
    found = look(run, baseline, about, root)
    if found.prepared is None:
        return found.faults
    faults = [*found.faults, *differences(found.prepared)]
    with tempfile.TemporaryDirectory(prefix="vrbench-submit-") as alone:
        scored = _scored(found.prepared, Path(alone), data_root, include_path)
        faults += (fault.replace(alone, str(root)) for fault in scored)
    return list(dict.fromkeys(faults))


def _scored(
    prepared: Prepared, alone: Path, data_root: str | Path | None, include_path: str | Path | None
) -> list[str]:
    """What is said of a submission when its answers are scored again, packed into an empty folder."""
    from vrbench.leaderboard.check import Examiner  # imports the harnesses

    submission = prepared.submission
    board = load_board(prepared.root / submission.board)
    (alone / submission.board).mkdir()
    faults: list[str] = []
    packed = tried(lambda: write(replace(prepared, root=alone)), faults)
    examiner = tried(lambda: Examiner(board, data_root, include_path), faults)
    if packed is None or examiner is None:
        return faults
    place = prepared.root / path_of(board.id, *parts_of(submission.baseline))
    there = not submission.is_baseline and place.is_dir()
    baseline = tried(lambda: read_submission(place, prepared.rows).run, faults) if there else None
    return faults + list(examiner.examine(packed.path, baseline).reasons)
