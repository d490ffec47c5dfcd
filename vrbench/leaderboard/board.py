"""A board: its tasks at versions and digests, settings, baselines, and the claims that are judged.

A board is a folder with `board.yaml`; its digests are written by `vrbench leaderboard pin`, never by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vrbench.core.errors import VrbenchError, collect_errors, error_messages, raise_errors, suggest_names
from vrbench.core.io import digest_of
from vrbench.core.schemas import Record, Sample
from vrbench.leaderboard.schema import Digest, Line, Name, Paragraph, Reference, TaskId
from vrbench.leaderboard.untrusted_input.files import quote_path
from vrbench.leaderboard.untrusted_input.parsing import read_yaml_record
from vrbench.statistics.claims import parse_all

BOARD_FILE = "board.yaml"
BOARD_HINT = (
    f"a board is a folder with {BOARD_FILE}; name the folder of all boards with --boards FOLDER, such as "
    "`leaderboards` in a checkout of vrbench"
)


class PinnedTask(Record):
    """One task of a board; what is null is not pinned yet, and nothing can be submitted before it is."""

    version: str = Field(min_length=1, max_length=32, description="Version of the task's definition.")
    n: int = Field(ge=1, description="Items of the full set; all of them are answered.")
    data_digest: Digest | None = Field(default=None, description="sha256 over the items used, as in a run's results.")
    definition_digest: Digest | None = Field(default=None, description="sha256 over prompt, generation and scoring.")


class BoardSuites(Record):
    """Which tasks make the two means of a row; a task without a 0-100 score is part of neither, as in `compare`."""

    visual: tuple[str, ...] = Field(default=(), description="Tasks of the visual mean.")
    text: tuple[str, ...] = Field(default=(), description="Tasks of the text mean.")


class BoardSettings(Record):
    """The options that a submission is run with."""

    limit: None = Field(default=None, description="Always null: every item is answered.")
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = Field(
        min_length=1, description="Compute types; a submission has its baseline's."
    )


class BoardFamily(Record):
    """Models that share architecture, prompts and baseline."""

    title: Line = Field(min_length=1, description="Name on the page.")
    model: str = Field(pattern="^[a-z0-9_]+$", description="Model family, as in a run's checkpoint: 'llava'.")
    depth: int = Field(ge=1, description="Decoder layers before any was removed.")
    baseline: Reference | None = Field(default=None, description="'org/name@revision' of the fully tuned one.")
    prompts: dict[str, Digest | None] = Field(
        default={},
        description="Task id -> sha256 over its items' prompt digests, in order (`prompts_digest`).",
    )


class Board(Record):
    """`board.yaml`: what is required of every submission to one table."""

    schema_version: int = Field(default=1, description="Version of this layout.")
    id: Name = Field(description="The folder's name.")
    title: Line = Field(min_length=1, description="Name on the page.")
    description: Paragraph = Field(description="What is compared, in a few sentences.")
    tasks: dict[TaskId, PinnedTask] = Field(min_length=1, description="Task id -> its version and digests.")
    suites: BoardSuites = Field(description="Which tasks make the visual and the text mean.")
    settings: BoardSettings = Field(description="Which options it may be run with.")
    averaging: Literal["mean of tasks"] = Field(description="How a suite's mean is computed.")
    claims: tuple[str, ...] = Field(min_length=1, description="What is judged of each row: 'visual>=99%', 'text>=-1'.")
    families: dict[Name, BoardFamily] = Field(min_length=1, description="Key -> models with one baseline.")
    shown: dict[str, bool] = Field(description="Task id -> whether its samples may be shown on the page.")
    maintainers: tuple[Line, ...] = Field(min_length=1, description="Who may reproduce a submission.")

    @field_validator("claims")
    @classmethod
    def _are_claims(cls, claims: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(claim.text for claim in parse_all(claims))
        except VrbenchError as error:
            raise ValueError("; ".join(error_messages(error))) from error

    @model_validator(mode="after")
    def _names_its_own_tasks(self) -> Board:
        in_means = [*self.suites.visual, *self.suites.text]
        named = {"suites": in_means, "shown": [*self.shown]}
        named |= {f"families.{key}.prompts": [*family.prompts] for key, family in self.families.items()}
        times = Counter(in_means)
        errors = [f"suites: {task} is in them more than once" for task in sorted(times) if times[task] > 1]
        errors += [f"tasks: {task} is in no suite" for task in self.tasks if task not in times]
        errors += [
            f"{where}: {task} is not a task of the board"
            for where, tasks in named.items()
            for task in tasks
            if task not in self.tasks
        ]
        errors += [f"shown: {task} is missing" for task in self.tasks if task not in self.shown]
        if errors:
            raise ValueError("; ".join(errors))
        return self

    @property
    def n_items(self) -> dict[str, int]:
        """Task -> number of its items, which limits how many samples are read."""
        return {task: pinned.n for task, pinned in self.tasks.items()}

    def unpinned(self) -> list[str]:
        """Return what is not pinned yet, one message each; submissions can be validated when there is none."""
        found = []
        for what, field in (("data", "data_digest"), ("definitions", "definition_digest")):
            if open_tasks := [task for task, pinned in self.tasks.items() if getattr(pinned, field) is None]:
                found.append(f"the {what} of {', '.join(open_tasks)} are not pinned yet")
        for key, family in self.families.items():
            if family.baseline is None:
                found.append(f"family {key} has no baseline yet")
            if open_tasks := [task for task in self.tasks if family.prompts.get(task) is None]:
                found.append(f"the prompts of family {key} for {', '.join(open_tasks)} are not pinned yet")
        return [f"board {self.id}: {message}" for message in found]


def prompts_digest(samples: Iterable[Sample]) -> str:
    """Return the sha256 over the prompt digests of a task's items, in the order of the samples."""
    return digest_of([sample.prompt_digest for sample in samples])


def load_board(folder: str | Path) -> Board:
    """Read `board.yaml` of a board's folder.

    Raises:
        VrbenchError: there is none, or it is not valid; all errors at once.
    """
    file = Path(folder) / BOARD_FILE
    if file.parent.is_symlink():
        raise VrbenchError(f"{quote_path(file.parent)} is a link; a board is a folder of its own")
    if not file.is_file():
        raise VrbenchError(f"there is no board at {str(folder)!r}; {_suggestion(file.parent)}")
    board = read_yaml_record(file, Board)
    if board.id != file.parent.resolve().name:
        raise VrbenchError(f"{file}: id is {board.id!r}, but the folder is {file.parent.name!r}; make them equal")
    return board


def boards(root: str | Path) -> dict[str, Board]:
    """Read all boards in a folder; return them by id.

    Raises:
        VrbenchError: there is none, or some cannot be read; all errors at once.
    """
    errors: list[str] = []
    found: dict[str, Board] = {}
    for file in sorted(Path(root).glob(f"*/{BOARD_FILE}")):
        with collect_errors(errors):
            found[file.parent.name] = load_board(file.parent)
    raise_errors(errors)
    if not found:
        raise VrbenchError(f"there is no board in {str(root)!r}; {BOARD_HINT}")
    return found


def _suggestion(folder: Path) -> str:
    """Return a hint for a missing board: the boards beside it, the nearest name first, or how to give one."""
    others = sorted(file.parent.name for file in folder.parent.glob(f"*/{BOARD_FILE}"))
    return suggest_names(folder.name, others) if others else BOARD_HINT
