"""Packing a run as a submission: all errors are reported before anything is written, and it is written whole or not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from vrbench.checkpoints.lineage import layer_origins, read_lineage
from vrbench.checkpoints.locate import PREFIX, locate_checkpoint
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.run_storage import load_run
from vrbench.core.schemas import CheckpointRef, Run, RunRecord
from vrbench.core.version import __version__
from vrbench.leaderboard.board import Board, load_board
from vrbench.leaderboard.packing import PackedFolder, changed_files, part_of, run_files, write_folder
from vrbench.leaderboard.requirements import validate_requirements
from vrbench.leaderboard.schema import Submission, parse_reference, submission_path
from vrbench.leaderboard.submission import read_submission, try_read_submission
from vrbench.leaderboard.untrusted_input.files import RECIPE_FILE, RUN_FILE, SUBMISSION_FILE, attempt, submission_files
from vrbench.leaderboard.untrusted_input.parsing import read_record, validation_messages
from vrbench.leaderboard.untrusted_input.run_folder import read_recipe

if TYPE_CHECKING:
    from vrbench.leaderboard.check import SubmissionChecker


@dataclass(frozen=True)
class SubmissionMetadata:
    """Metadata that a submitter gives; what is not named here is as in `Submission`.

    Attributes:
        name: "org/name".
        family: key of the board's family; None to find it by the baseline.
        licence: of the checkpoint; None for that of its lineage.
        checkpoint: its folder, for the recipe; None to find it by the checkpoint's id.
    """

    name: str
    board: str = "pocket"
    family: str | None = None
    description: str = ""
    url: str = ""
    paper: str = ""
    code: str = ""
    licence: str | None = None
    checkpoint: Path | None = None


@dataclass(frozen=True)
class PreparedSubmission:
    """A submission that is not written yet.

    Attributes:
        board: what it is submitted to.
        root: the folder of all boards.
        submission: the content of `submission.json`.
        files: name of every file within its folder -> its bytes.
    """

    board: Board
    root: Path
    submission: Submission
    files: dict[str, bytes]

    @property
    def path(self) -> Path:
        """The folder that it is written to."""
        return self.root / self.submission.path


def pack(
    run: str | Path,
    baseline: str | Path,
    metadata: SubmissionMetadata,
    root: str | Path = "leaderboards",
    make_checker: Callable[[Board], SubmissionChecker] | None = None,
    dry_run: bool = False,
) -> PackedFolder:
    """Write `<board>/submissions/<org>__<name>/<revision>/`, whole or not at all.

    Args:
        run: folder of the run that is submitted; of its tasks those of the board are packed.
        baseline: folder of a run of the baseline, whose checkpoint must be on the board; the run itself to submit a
            baseline.
        metadata: names, and what is said of it.
        root: the folder of all boards.
        make_checker: builds what scores the answers again, as the board does; None to check only what the files show.
        dry_run: whether to check everything and to write nothing.

    Returns:
        Its folder. The same submission again changes nothing.

    Raises:
        VrbenchError: all that the board would refuse, at once; or another submission of the same name and revision.
    """
    prepared, errors = prepare(run, baseline, metadata, root)

    def check(folder: Path) -> None:
        found = errors + conflicts(prepared)
        if make_checker is not None or not found:
            found += _check_written(prepared, folder, make_checker)
        raise_errors(found)

    return write_folder(prepared.path, prepared.files, check, dry_run)


def _check_written(
    prepared: PreparedSubmission, folder: Path, make_checker: Callable[[Board], SubmissionChecker] | None
) -> list[str]:
    """Return the errors found when a written submission is read back, and optionally scored again."""
    board, reference = prepared.board, prepared.submission.baseline
    if make_checker is None:
        return try_read_submission(folder, board.n_items)[1]
    errors: list[str] = []
    checker = attempt(lambda: make_checker(board), errors)
    if checker is None:
        return errors
    place, baselines = prepared.root / submission_path(board.id, *parse_reference(reference)), {}
    if not prepared.submission.is_baseline and place.is_dir():
        stored = attempt(lambda: read_submission(place, board.n_items), errors)
        baselines = {reference: stored.run} if stored else {}
    return errors + list(checker.check(folder, baselines).reasons)


def prepare(
    run: str | Path, baseline: str | Path, metadata: SubmissionMetadata, root: str | Path = "leaderboards"
) -> tuple[PreparedSubmission, list[str]]:
    """Return a run as a submission, and every error that its files show; the arguments are those of `pack`.

    Raises:
        VrbenchError: errors that make it impossible; all at once.
    """
    errors: list[str] = []
    board = attempt(lambda: load_board(Path(root) / metadata.board), errors)
    whole = attempt(lambda: load_run(run), errors)
    base = whole if Path(run).resolve() == Path(baseline).resolve() else attempt(lambda: load_run(baseline), errors)
    if metadata.name.count("/") != 1:
        errors.append(f"name {metadata.name!r} is not ORG/NAME, such as 'my-lab/region-8'")
    raise_errors(errors)
    assert board is not None and whole is not None and base is not None  # else there were errors
    ours = part_of(whole, board.tasks)
    files = run_files(ours, errors)
    if recipe := attempt(lambda: _recipe(ours.record.checkpoint, metadata.checkpoint), errors):
        files[RECIPE_FILE] = recipe.encode()
    family = _family(board, base, metadata.family, errors)
    reference, record = _baseline(board, family, ours, base, metadata, Path(root), errors)
    submission = _submission(ours, metadata, family, reference, files, errors)
    errors += validate_requirements(board, submission, ours.record, ours.samples, record)
    files[SUBMISSION_FILE] = (submission.model_dump_json(indent=1) + "\n").encode()
    return PreparedSubmission(board, Path(root), submission, files), list(dict.fromkeys(errors))


def conflicts(prepared: PreparedSubmission) -> list[str]:
    """Return why a prepared submission is not the one at its path; empty if nothing or the same one is there."""
    if not os.path.lexists(prepared.path):
        return []
    errors: list[str] = []
    there = attempt(lambda: read_record(prepared.path / SUBMISSION_FILE, Submission), errors)
    files = attempt(lambda: submission_files(prepared.path), errors)
    if there is None or files is None:
        return errors
    ours = prepared.submission
    fields = there.model_dump(exclude={"submitted", "vrbench"})  # they differ when it is packed on another day
    other = [name for name, value in fields.items() if value != getattr(ours, name)]
    other += [name for name in changed_files(prepared.files, files) if name != SUBMISSION_FILE]
    if not other:
        return []
    return [
        f"{prepared.path} holds {ours.reference} already, with other {', '.join(other)}; a submission is never "
        "changed: submit another checkpoint, or the same under another name"
    ]


def _recipe(ref: CheckpointRef, folder: Path | None) -> str:
    """Return the recipe in a checkpoint's folder; empty if there is none, or no folder of this checkpoint is found."""
    if folder is not None and not folder.is_dir():
        raise VrbenchError(f"--ckpt {str(folder)!r} is not a folder")
    errors: list[str] = []
    place = folder
    if folder is None and ref.id.startswith(PREFIX):
        place = attempt(lambda: locate_checkpoint(ref.id, offline=True).folder, errors)
    found = attempt(lambda: read_lineage(place), errors) if place else None
    fields = ("id", "steps", "weights")
    same = found and ref.lineage and all(getattr(found, name) == getattr(ref.lineage[0], name) for name in fields)
    if not same and not errors:
        errors.append(f"--ckpt {str(folder)!r} is not the checkpoint that was run, {ref.id}; give its folder")
    if folder is not None:
        raise_errors(errors)
    if place is None or errors or not (place / RECIPE_FILE).is_file():
        return ""
    return read_recipe(place / RECIPE_FILE)


def _family(board: Board, base: Run, given: str | None, errors: list[str]) -> str:
    """Return the board's family: as given, else that of this baseline, else the only one of this architecture."""
    if given is not None and given not in board.families:
        known = ", ".join(board.families)
        raise_errors([*errors, f"family {given!r} is not on board {board.id}; there are {known}"])
    if given is not None:
        return given
    ref = base.record.checkpoint
    found = attempt(lambda: layer_origins(ref.lineage, ref.depth), [])  # an inconsistent lineage is reported later
    depth = found.first_depth if found else ref.depth
    digest = ref.digest[:16]
    keys = [key for key, f in board.families.items() if f.baseline and parse_reference(f.baseline)[2] == digest]
    keys = keys or [key for key, f in board.families.items() if (f.model, f.depth) == (ref.family, depth)]
    if len(keys) != 1:
        known = ", ".join(keys or board.families)
        baseline = f"the baseline {ref.id} ({ref.family}, {depth} decoder layers)"
        advice = f"name it with --family, one of {known}"
        raise_errors([*errors, f"{baseline} does not determine the family on board {board.id}; {advice}"])
    return keys[0]


def _baseline(
    board: Board, key: str, ours: Run, base: Run, metadata: SubmissionMetadata, root: Path, errors: list[str]
) -> tuple[str, RunRecord | None]:
    """Return the baseline's reference, and its record on the board."""
    revision = base.record.checkpoint.digest[:16]
    own, reference = f"{metadata.name}@{revision}", board.families[key].baseline
    if ours.record.checkpoint.digest == base.record.checkpoint.digest:
        return own, ours.record
    if reference is None:
        return own, None  # which the requirements refuse
    if parse_reference(reference)[2] != revision:
        errors.append(
            f"the baseline given is {base.record.checkpoint.id} ({revision}); family {key} of board {board.id} is "
            f"compared with {reference}"
        )
        return reference, None
    file = root / submission_path(board.id, *parse_reference(reference)) / RUN_FILE
    if not file.is_file():
        advice = "submit it first, with its own run as --baseline"
        errors.append(f"the baseline {reference} is not on board {board.id} yet; {advice}")
        return reference, None
    return reference, attempt(lambda: read_record(file, RunRecord), errors)


def _submission(
    run: Run, metadata: SubmissionMetadata, family: str, baseline: str, files: dict[str, bytes], errors: list[str]
) -> Submission:
    org, _, name = metadata.name.partition("/")
    lineage = run.record.checkpoint.lineage
    try:
        return Submission(
            board=metadata.board, org=org, name=name, revision=run.record.checkpoint.digest[:16], family=family,
            baseline=baseline, description=metadata.description, url=metadata.url, paper=metadata.paper,
            code=metadata.code,
            licence=(lineage[0].licence if lineage else "") if metadata.licence is None else metadata.licence,
            submitted=datetime.now(timezone.utc).date().isoformat(), vrbench=__version__,
            run_digest=hashlib.sha256(files[RUN_FILE]).hexdigest(),
        )  # fmt: skip
    except ValidationError as error:
        raise_errors([*errors, *validation_messages(error)])
        raise
