"""A run looked at as a submission: what it would say, its files, and every fault that is seen without scoring."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from vrbench.checkpoints.lineage import origins, read_lineage
from vrbench.checkpoints.locate import PREFIX, find
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.io import gzip_text
from vrbench.core.run_storage import load_run, samples_to_jsonl
from vrbench.core.schemas import CheckpointRef, Lineage, Run, RunRecord
from vrbench.core.version import __version__
from vrbench.leaderboard import requirements
from vrbench.leaderboard.board import Board, load_board
from vrbench.leaderboard.part import part_of
from vrbench.leaderboard.submission import RECIPE_FILE, Submission, path_of
from vrbench.leaderboard.text import parts_of
from vrbench.leaderboard.untrusted_input import limits, parse_yaml, quoted, read_record, read_text
from vrbench.leaderboard.untrusted_input.parsing import told

Made = TypeVar("Made")


@dataclass(frozen=True)
class About:
    """What a submitter says.

    Attributes:
        name: "org/name".
        board: the board's id.
        family: key of the board's family; found by the baseline where none is given.
        description: what was done, in a sentence or two.
        url: where the checkpoint is.
        paper: where it is written up.
        code: where its code is.
        licence: of the checkpoint; none for that of its lineage.
        checkpoint: its folder, for the recipe; none to look for it by the checkpoint's id.
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
class Prepared:
    """A submission that is not written yet.

    Attributes:
        submission: what `submission.json` will say.
        files: name of every other file within its folder -> its bytes.
        root: the folder of all boards.
        rows: task -> its items on the board.
    """

    submission: Submission
    files: dict[str, bytes]
    root: Path
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The folder that it goes into."""
        return self.root / self.submission.path


@dataclass(frozen=True)
class Look:
    """What was found: a submission, unless a fault stood against making one, and every fault."""

    prepared: Prepared | None
    faults: list[str]


def look(run: str | Path, baseline: str | Path, about: About, root: str | Path = "leaderboards") -> Look:
    """Look at all that is seen of a submission without scoring.

    Args:
        run: folder of the run that is handed in; of its tasks those of the board are.
        baseline: folder of a run of the baseline, whose checkpoint must be on the board; that of the same checkpoint
            hands in a baseline.
        about: names, and what is said of it.
        root: the folder of all boards.
    """
    faults: list[str] = []
    board = tried(lambda: load_board(Path(root) / about.board), faults)
    whole = tried(lambda: load_run(run), faults)
    base = whole if Path(run).resolve() == Path(baseline).resolve() else tried(lambda: load_run(baseline), faults)
    named = about.name.count("/") == 1
    if not named:
        faults.append(f"name {about.name!r} is not ORG/NAME, such as 'my-lab/region-8'")
    if board is None or whole is None or base is None or not named:
        return Look(None, faults)
    ours = tried(lambda: part_of(whole, board.tasks), faults)
    if ours is None:
        return Look(None, faults)
    files = run_files(ours, faults)
    if recipe := tried(lambda: _recipe(ours.record.checkpoint, about.checkpoint), faults):
        files[RECIPE_FILE] = recipe.encode()
    key = _family(board, base, about.family, faults)
    if key is None:
        return Look(None, faults)
    reference, record = _baseline(board, key, ours, base, about, Path(root), faults)
    submission = _submission(ours, about, key, reference, files, faults)
    if submission is None:
        return Look(None, faults)
    faults += requirements.faults(board, submission, ours.record, ours.samples, record)
    rows = {task: held.n for task, held in board.tasks.items()}
    return Look(Prepared(submission, files, Path(root), rows), list(dict.fromkeys(faults)))


def tried(make: Callable[[], Made], faults: list[str]) -> Made | None:
    """What a function gives, or none with its faults among the others."""
    try:
        return make()
    except VrbenchError as error:
        faults += error_messages(error)
        return None


def run_files(run: Run, faults: list[str]) -> dict[str, bytes]:
    """run.json and the compressed samples, by name."""
    files = {"run.json": (run.record.model_dump_json(indent=1) + "\n").encode()}
    old = requirements.outdated(run.record, run.samples)
    for result in run.record.results:
        text = samples_to_jsonl(run.samples.get(result.task, ()))
        if result.status != "ok":
            continue
        if hashlib.sha256(text.encode()).hexdigest() != result.samples_digest and result.task not in old:
            faults.append(f"{result.task}: its samples are written as another vrbench does; run it again with this one")
        files[f"samples/{result.task}.jsonl.gz"] = gzip_text(text)
    return files


def _recipe(ref: CheckpointRef, folder: Path | None) -> str:
    """The recipe in a checkpoint's folder; empty when there is none, or no folder of this checkpoint is found."""
    if folder is not None and not folder.is_dir():
        raise VrbenchError(f"--ckpt {str(folder)!r} is not a folder")
    try:
        place = folder or (find(ref.id, offline=True).folder if ref.id.startswith(PREFIX) else None)
        lineage = read_lineage(place) if place else None
    except VrbenchError:
        if folder is not None:
            raise
        return ""
    if place is None or lineage is None or not ref.lineage or not _same(lineage, ref.lineage[0]):
        if folder is not None:
            raise VrbenchError(f"--ckpt {str(folder)!r} is not the checkpoint that was run, {ref.id}; give its folder")
        return ""
    if not (place / RECIPE_FILE).is_file():
        return ""
    text = read_text(place / RECIPE_FILE, limits.YAML_BYTES)
    parse_yaml(text, quoted(str(place / RECIPE_FILE)))
    return text


def _same(lineage: Lineage, other: Lineage) -> bool:
    return (lineage.id, lineage.steps, lineage.weights) == (other.id, other.steps, other.weights)


def _family(board: Board, base: Run, given: str | None, faults: list[str]) -> str | None:
    """The board's family: the one given, else the one of this baseline, else the only one of this architecture."""
    if given is not None:
        if given not in board.families:
            faults.append(f"family {given!r} is not on board {board.id}; there are {', '.join(board.families)}")
            return None
        return given
    ref = base.record.checkpoint
    revision = ref.digest[:16]
    found = [key for key, f in board.families.items() if f.baseline and parts_of(f.baseline)[2] == revision]
    found = found or [k for k, f in board.families.items() if (f.model, f.depth) == (ref.family, _first_depth(ref))]
    if len(found) != 1:
        faults.append(
            f"the baseline {ref.id} ({ref.family}, {_first_depth(ref)} decoder layers) does not tell the family on "
            f"board {board.id}; name it with --family, one of {', '.join(found or board.families)}"
        )
        return None
    return found[0]


def _first_depth(ref: CheckpointRef) -> int:
    try:
        return origins(ref.lineage, ref.depth).first_depth
    except VrbenchError:  # told by the rules
        return ref.depth


def _baseline(
    board: Board, key: str, ours: Run, base: Run, about: About, root: Path, faults: list[str]
) -> tuple[str, RunRecord | None]:
    """The baseline's reference, and its record on the board."""
    digest = base.record.checkpoint.digest
    if ours.record.checkpoint.digest == digest:
        return f"{about.name}@{digest[:16]}", ours.record
    reference = board.families[key].baseline
    if reference is None:
        return f"{about.name}@{digest[:16]}", None  # which the rules refuse
    if parts_of(reference)[2] != digest[:16]:
        faults.append(
            f"the baseline given is {base.record.checkpoint.id} ({digest[:16]}); family {key} of board {board.id} is "
            f"compared with {reference}"
        )
        return reference, None
    file = root / path_of(board.id, *parts_of(reference)) / "run.json"
    if not file.is_file():
        faults.append(
            f"the baseline {reference} is not on board {board.id} yet; hand it in first, with its own run as --baseline"
        )
        return reference, None
    return reference, tried(lambda: read_record(file, RunRecord), faults)


def _submission(
    run: Run, about: About, key: str, baseline: str, files: dict[str, bytes], faults: list[str]
) -> Submission | None:
    org, _, name = about.name.partition("/")
    lineage = run.record.checkpoint.lineage
    try:
        return Submission(
            board=about.board, org=org, name=name, revision=run.record.checkpoint.digest[:16], family=key,
            baseline=baseline, description=about.description, url=about.url, paper=about.paper, code=about.code,
            licence=(lineage[0].licence if lineage else "") if about.licence is None else about.licence,
            submitted=datetime.now(timezone.utc).date().isoformat(), vrbench=__version__,
            run_digest=hashlib.sha256(files["run.json"]).hexdigest(),
        )  # fmt: skip
    except ValidationError as error:
        faults += told(error)
        return None
