"""A board: which tasks at which versions and digests, which settings, whose baselines, and which claims are judged.

A board is a folder with `board.yaml`; its digests are written by `vrbench.leaderboard.pin`, never by hand.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import digest_of
from vrbench.core.schemas import Record, Sample
from vrbench.leaderboard.text import Digest, Line, Name, Paragraph, Reference, Task
from vrbench.leaderboard.untrusted_input import quoted, read_yaml_record
from vrbench.statistics.claims import parse_all

BOARD_SCHEMA_VERSION = 1
BOARD_FILE = "board.yaml"
Dtype = Literal["float32", "bfloat16"]


class BoardTask(Record):
    """One task of a board; what is null is not pinned yet, and nothing can be submitted before it is."""

    version: str = Field(min_length=1, max_length=32, description="Version of the task's definition.")
    n: int = Field(ge=1, description="Items of the full set; all of them are answered.")
    data_digest: Digest | None = Field(default=None, description="sha256 over the items used, as in a run's results.")
    definition_digest: Digest | None = Field(default=None, description="sha256 over prompt, generation and scoring.")


class Means(Record):
    """Which tasks make the two means of a row; a task without a 0-100 score is in none of them, as in `compare`."""

    visual: tuple[str, ...] = Field(default=(), description="Tasks of the visual mean.")
    text: tuple[str, ...] = Field(default=(), description="Tasks of the text mean.")


class BoardSettings(Record):
    """The options that a submission is run with."""

    limit: None = Field(default=None, description="Always null: every item is answered.")
    dtypes: tuple[Dtype, ...] = Field(min_length=1, description="Compute types; a submission has its baseline's.")


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
    """`board.yaml`: what is asked of every submission to one table."""

    schema_version: int = Field(default=BOARD_SCHEMA_VERSION, description="Version of this layout.")
    id: Name = Field(description="The folder's name.")
    title: Line = Field(min_length=1, description="Name on the page.")
    description: Paragraph = Field(description="What is compared, in a few sentences.")
    tasks: dict[Task, BoardTask] = Field(min_length=1, description="Task id -> what it is held to.")
    suites: Means = Field(description="Which tasks make the visual and the text mean.")
    settings: BoardSettings = Field(description="Which options it may be run with.")
    averaging: Literal["mean of tasks"] = Field(description="How a suite's figure is made.")
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
        means = [*self.suites.visual, *self.suites.text]
        named = {"suites": means, "shown": [*self.shown]}
        named |= {f"families.{key}.prompts": [*family.prompts] for key, family in self.families.items()}
        times = Counter(means)
        odd = [f"suites: {task} is in them more than once" for task in sorted(times) if times[task] > 1]
        odd += [f"tasks: {task} is in no suite" for task in self.tasks if task not in times]
        odd += [
            f"{at}: {t} is no task of the board" for at, tasks in named.items() for t in tasks if t not in self.tasks
        ]
        odd += [f"shown: says nothing of {task}" for task in self.tasks if task not in self.shown]
        if odd:
            raise ValueError("; ".join(odd))
        return self

    def unpinned(self) -> list[str]:
        """What is not pinned yet, one sentence each; submissions can be validated when there is none."""
        open_data = [task for task, held in self.tasks.items() if held.data_digest is None]
        open_definitions = [task for task, held in self.tasks.items() if held.definition_digest is None]
        said = [f"the data of {', '.join(open_data)} are not pinned yet"] if open_data else []
        said += [f"the definitions of {', '.join(open_definitions)} are not pinned yet"] if open_definitions else []
        for key, family in self.families.items():
            said += [f"family {key} has no baseline yet"] if family.baseline is None else []
            silent = [task for task in self.tasks if family.prompts.get(task) is None]
            said += [f"the prompts of family {key} for {', '.join(silent)} are not pinned yet"] if silent else []
        return [f"board {self.id}: {sentence}" for sentence in said]


def prompts_digest(samples: Iterable[Sample]) -> str:
    """sha256 over the prompt digests of a task's items, in the order of the samples."""
    return digest_of([sample.prompt_digest for sample in samples])


HOW = (
    f"a board is a folder with {BOARD_FILE}; name the folder of all boards with --boards FOLDER, such as "
    "`leaderboards` in a checkout of vrbench"
)
"""How to point to a board."""


def load_board(folder: str | Path) -> Board:
    """Read `board.yaml` of a board's folder.

    Raises:
        VrbenchError: there is none, or it is no board; every fault at once.
    """
    file = Path(folder) / BOARD_FILE
    if file.parent.is_symlink():
        raise VrbenchError(f"{quoted(str(folder), 200)} is a link; a board is a folder of its own")
    if not file.is_file():
        raise VrbenchError(f"there is no board at {str(folder)!r}; {_where(Path(folder))}")
    board = read_yaml_record(file, Board)
    if board.id != file.parent.resolve().name:
        raise VrbenchError(f"{file}: id is {board.id!r}, but the folder is {file.parent.name!r}; make them equal")
    return board


def boards(root: str | Path) -> dict[str, Board]:
    """All boards under a folder, by id.

    Raises:
        VrbenchError: there is none, or some cannot be read; every fault at once.
    """
    found: dict[str, Board] = {}
    faults: list[str] = []
    for file in sorted(Path(root).glob(f"*/{BOARD_FILE}")):
        try:
            board = load_board(file.parent)
            found[board.id] = board
        except VrbenchError as error:
            faults += error_messages(error)
    raise_errors(faults)
    if not found:
        raise VrbenchError(f"there is no board under {str(root)!r}; {HOW}")
    return found


def _where(folder: Path) -> str:
    """What boards there are beside one that is not there, the nearest name first, or how to point to one."""
    others = sorted(file.parent.name for file in folder.parent.glob(f"*/{BOARD_FILE}"))
    near = difflib.get_close_matches(folder.name, others, n=1, cutoff=0.5)
    if others:
        return f"did you mean {near[0]}?" if near else f"there are {', '.join(others)}"
    return HOW
