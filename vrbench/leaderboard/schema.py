"""The records of a leaderboard: submission.json, reproduction.json and leaderboard.json."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import SCHEMA_VERSION, Record
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.text import (
    NAME_PATTERN,
    TASK_PATTERN,
    safe_name,
    safe_revision,
    safe_task,
    safe_url,
    unsafe_characters,
)
from vrbench.statistics import bootstrap
from vrbench.statistics.schema import Claim, Verdict

SUBMISSIONS = "submissions"
"""Folder of a board that holds its submissions."""


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """Return a validator whose `VrbenchError` pydantic reports with those of the other fields."""

    def validate(text: str) -> str:
        try:
            check(text)
        except VrbenchError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(validate)


def _one_line(text: str) -> None:
    unsafe = unsafe_characters(text) + [name for name, c in (("a line feed", "\n"), ("a tab", "\t")) if c in text]
    if unsafe:
        raise VrbenchError(f"it has {', '.join(unsafe[:5])}; write one line of plain text")
    if text != text.strip():
        raise VrbenchError("it begins or ends with a space")


def _reference(text: str) -> None:
    org, name, revision = parse_reference(text)
    safe_name(org, "organisation")
    safe_name(name)
    safe_revision(revision)


def _calendar_day(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise VrbenchError(f"{text} is not a calendar date") from error


def parse_reference(reference: str) -> tuple[str, str, str]:
    """Return organisation, name and revision of a reference such as 'lab/region@0123456789abcdef'.

    Raises:
        VrbenchError: it has other parts.
    """
    named, at, revision = reference.partition("@")
    org, slash, name = named.partition("/")
    if not at or not slash:
        raise VrbenchError(f"a submission is named ORG/NAME@REVISION, such as 'lab/region@{'0' * 16}'")
    return org, name, revision


Name = Annotated[str, Field(json_schema_extra={"pattern": f"^{NAME_PATTERN}$"}), _checked(safe_name)]
TaskId = Annotated[str, Field(json_schema_extra={"pattern": f"^{TASK_PATTERN}$"}), _checked(safe_task)]
Revision = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Reference = Annotated[
    str,
    Field(
        max_length=2 * limits.NAME + 18,
        json_schema_extra={"pattern": f"^{NAME_PATTERN}/{NAME_PATTERN}@[0-9a-f]{{16}}$"},
    ),
    _checked(_reference),
]
Day = Annotated[str, Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), _checked(_calendar_day)]
Line = Annotated[str, Field(max_length=100), _checked(_one_line)]
Paragraph = Annotated[str, Field(max_length=1000), _checked(_one_line)]
Url = Annotated[str, Field(max_length=limits.URL), _checked(safe_url)]


class Submission(Record):
    """`submission.json`: who submits which run, against which baseline."""

    schema_version: int = Field(default=1, description="Version of this layout.")
    board: Name = Field(description="The board's id.")
    org: Name = Field(description="Who submits.")
    name: Name = Field(description="What the checkpoint is called.")
    revision: Revision = Field(description="The first 16 hex digits of the checkpoint's digest.")
    family: Name = Field(description="Key of the board's family.")
    baseline: Reference = Field(description="'org/name@revision' it is compared with; itself for a baseline.")
    description: Paragraph = Field(default="", description="What was done, in a sentence or two.")
    url: Url = Field(default="", description="Where the checkpoint is.")
    paper: Url = Field(default="", description="Where it is written up.")
    code: Url = Field(default="", description="Where its code is.")
    licence: Line = Field(default="", description="Of the checkpoint, SPDX name.")
    submitted: Day = Field(description="When it was packed, ISO date, UTC.")
    vrbench: Line = Field(min_length=1, description="Version of vrbench that packed it.")
    run_digest: Digest = Field(description="sha256 of run.json.")

    @property
    def reference(self) -> str:
        """'org/name@revision'."""
        return f"{self.org}/{self.name}@{self.revision}"

    @property
    def path(self) -> PurePosixPath:
        """Its folder, relative to the folder of all boards; path and content must agree."""
        return submission_path(self.board, self.org, self.name, self.revision)

    @property
    def is_baseline(self) -> bool:
        """Whether it is compared with itself."""
        return self.baseline == self.reference


def submission_path(board: str, org: str, name: str, revision: str) -> PurePosixPath:
    """Return the folder of a submission, relative to the folder of all boards."""
    return PurePosixPath(board, SUBMISSIONS, f"{org}__{name}", revision)


class Reproduction(Record):
    """`reproduction.json`: who ran a submitted checkpoint again, and when; the run is stored beside it."""

    schema_version: int = Field(default=1, description="Version of this layout.")
    by: Line = Field(min_length=1, description="One of the board's maintainers.")
    date: Day = Field(description="ISO date, UTC.")


class Rank(Record):
    """The places that a row may have, 1 for the best: where intervals overlap the order is not known."""

    best: int = Field(ge=1, description="1 + number of rows whose interval is entirely above.")
    worst: int = Field(ge=1, description="Number of rows whose interval is not entirely below, itself included.")


class ScoreWithCI(Record):
    """One number of a row with its 95 % confidence interval and its rank on the board."""

    value: float | None = Field(description="Estimate; null where it is not defined.")
    low: float | None = Field(default=None, description="Lower end of its 95 % interval; null if it has none.")
    high: float | None = Field(default=None, description="Upper end of its 95 % interval.")
    rank: Rank | None = Field(default=None, description="Among the board's rows; null without an interval.")


class SuiteMean(Record):
    """The mean over the tasks of one suite of the board."""

    tasks: tuple[str, ...] = Field(description="Tasks in the mean: percentages of which more is better.")
    n: int = Field(description="Items scored in all of them.")
    score: ScoreWithCI = Field(description="Mean of the tasks' scores, 0 to 100.")
    retention: ScoreWithCI = Field(description="Percent of the baseline's mean; 100 for the baseline itself.")


class RowTaskScores(Record):
    """One row's scores on one task."""

    task: str = Field(description="Task id.")
    n: int = Field(description="Items scored.")
    n_unscored: int = Field(default=0, description="Items that could not be scored.")
    clusters: int = Field(description="Independent clusters among them.")
    score: ScoreWithCI = Field(description="The task's metric: 0 to 100, or a perplexity.")
    difference: ScoreWithCI = Field(description="Minus the baseline's score, in the metric's unit.")
    retention: ScoreWithCI = Field(description="Percent of the baseline's score; for perplexity baseline / candidate.")


class LayerRegion(Record):
    """Which decoder layers were tuned and which removed, by the checkpoint's lineage."""

    depth: int = Field(description="Decoder layers before any was removed.")
    tuning: str = Field(description="How: 'none', 'lora', 'weights', ...")
    tuned: str = Field(description="Layers whose weights the tuning changed, as `LayerSet` text over `depth`.")
    tuned_share: float = Field(ge=0, le=1, description="Share of `depth`.")
    removed: str = Field(description="Layers that were removed, as `LayerSet` text over `depth`.")
    removed_share: float = Field(ge=0, le=1, description="Share of `depth`.")
    healed: bool = Field(description="Whether it was trained again after layers had been removed.")


class RowCost(Record):
    """What making or running a checkpoint cost."""

    seconds: float | None = Field(default=None, description="Training of the LLM's layers, as the lineage notes it.")
    device: str = Field(default="", description="Where it was trained.")
    items_per_second: float | None = Field(default=None, description="Items answered and scored in a second.")
    measured_on: str = Field(default="", description="Where it was measured.")


class VerificationStatus(Record):
    """How far a row was verified."""

    kind: Literal["rescored", "reproduced"] = Field(
        description="'rescored': every figure follows from the submitted answers. 'reproduced': a maintainer's own run "
        "of the same weights gave scores within the intervals too."
    )
    by: str = Field(description="Who: vrbench and its version for 'rescored', the maintainer for 'reproduced'.")
    date: str = Field(description="When, ISO date: of the submission, or of the maintainer's run.")


class LeaderboardRow(Record):
    """One submission's row."""

    org: str = Field(description="Who submitted it.")
    name: str = Field(description="Name of the checkpoint.")
    revision: str = Field(description="First 16 hex digits of the checkpoint's digest.")
    description: str = Field(default="", description="In the submitter's words.")
    family: str = Field(description="Key of the board's families.")
    baseline: str = Field(description="'org/name@revision' of what it is compared with; itself for a baseline.")
    is_baseline: bool = Field(description="Whether it is its family's baseline.")
    checkpoint: str = Field(description="Checkpoint id.")
    digest: str = Field(description="Its digest.")
    dtype: str = Field(description="Compute type of the run.")
    submitted: str = Field(description="ISO date.")
    region: LayerRegion = Field(description="Layers tuned and removed.")
    cost: RowCost = Field(description="Of training and of answering.")
    visual: SuiteMean | None = Field(description="Mean of the visual tasks; null for a board without any.")
    text: SuiteMean | None = Field(description="Mean of the text tasks; null for a board without any.")
    verdicts: tuple[Verdict, ...] = Field(description="One per claim of the board; none for a baseline.")
    tasks: tuple[RowTaskScores, ...] = Field(description="In the board's order.")
    status: VerificationStatus = Field(description="How far it was verified.")

    @property
    def key(self) -> str:
        """'org/name@revision', which names a submission within its board."""
        return f"{self.org}/{self.name}@{self.revision}"


class LeaderboardTask(Record):
    """What a reader needs to know of a task of the board."""

    id: str = Field(description="Task id.")
    suite: str = Field(description="'visual' or 'text'; empty for one in no mean.")
    title: str = Field(description="What is asked.")
    metric: str = Field(description="Key of `METRICS`.")
    unit: Literal["percent", "perplexity"] = Field(description="Scale of its score.")
    higher_is_better: bool = Field(description="Direction of the metric.")
    chance: float | None = Field(description="Score of guessing.")
    n: int = Field(description="Items.")
    version: str = Field(description="Version of the task's definition.")


class Leaderboard(Record):
    """`leaderboard.json`: generated, never written by hand; the same submissions give the same bytes."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    board: str = Field(description="Board id.")
    title: str = Field(description="Its title.")
    claims: tuple[Claim, ...] = Field(description="What the verdicts are on.")
    draws: int = Field(default=bootstrap.DRAWS, description="Bootstrap draws of every interval.")
    seed: int = Field(default=0, description="Seed of the draws.")
    tasks: tuple[LeaderboardTask, ...] = Field(description="In the board's order.")
    rows: tuple[LeaderboardRow, ...] = Field(description="By visual score, best first; then by name.")

    @property
    def json_text(self) -> str:
        """The content of leaderboard.json."""
        return self.model_dump_json(indent=1) + "\n"
