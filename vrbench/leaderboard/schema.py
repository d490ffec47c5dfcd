"""The rows of a board: `leaderboard.json`, its record types, and ranks that say no more than the intervals do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import Field

from vrbench.core.schemas import SCHEMA_VERSION, Record
from vrbench.statistics import bootstrap
from vrbench.statistics.claims import Claim, Verdict


class Rank(Record):
    """The places that a row may have, 1 for the best: where intervals overlap the order is not known."""

    best: int = Field(ge=1, description="1 + number of rows whose interval lies wholly above.")
    worst: int = Field(ge=1, description="Number of rows whose interval does not lie wholly below, itself included.")


class Figure(Record):
    """One number of a row with its interval and its rank in the board."""

    value: float | None = Field(description="Best estimate; none where it is not defined.")
    low: float | None = Field(default=None, description="Lower end of its 95 % interval; none if it has none.")
    high: float | None = Field(default=None, description="Upper end of its 95 % interval.")
    rank: Rank | None = Field(default=None, description="Among the board's rows; none without an interval.")


class Mean(Record):
    """The mean over the tasks of one suite of the board: what a row sees, or what it can read."""

    tasks: tuple[str, ...] = Field(description="Tasks in the mean: percentages of which more is better.")
    n: int = Field(description="Items scored in all of them.")
    score: Figure = Field(description="Mean of the tasks' scores, 0 to 100.")
    retention: Figure = Field(description="Percent of the baseline's mean; 100 for the baseline itself.")


class TaskStanding(Record):
    """One row's figures on one task."""

    task: str = Field(description="Task id.")
    n: int = Field(description="Items scored.")
    n_unscored: int = Field(default=0, description="Items that could not be scored.")
    clusters: int = Field(description="Independent clusters among them.")
    score: Figure = Field(description="The task's metric: 0 to 100, or a perplexity.")
    difference: Figure = Field(description="Minus the baseline's score, in the metric's unit.")
    retention: Figure = Field(description="Percent of the baseline's score kept; for perplexity baseline / candidate.")


class Region(Record):
    """Which decoder layers were tuned and which removed, by the checkpoint's lineage."""

    depth: int = Field(description="Decoder layers before any was removed.")
    tuning: str = Field(description="How: 'none', 'lora', 'weights', ...")
    tuned: str = Field(description="Layers whose weights the tuning changed, as `LayerSet` text over `depth`.")
    tuned_share: float = Field(ge=0, le=1, description="Share of `depth`.")
    removed: str = Field(description="Layers that were removed, as `LayerSet` text over `depth`.")
    removed_share: float = Field(ge=0, le=1, description="Share of `depth`.")
    healed: bool = Field(description="Whether it was trained again after layers had been removed.")


class Cost(Record):
    """What making or running it cost."""

    seconds: float | None = Field(default=None, description="Training of the LLM's layers, as the lineage notes it.")
    device: str = Field(default="", description="Where it was trained.")
    items_per_second: float | None = Field(default=None, description="Items answered and scored in a second.")
    measured_on: str = Field(default="", description="Where it was measured.")


class Status(Record):
    """How far a row was checked."""

    kind: Literal["rescored", "reproduced"] = Field(
        description="'rescored': every figure follows from the answers handed in. 'reproduced': a maintainer's own run "
        "of the same weights gave scores within the intervals too."
    )
    by: str = Field(description="Who: vrbench and its version for 'rescored', the maintainer for 'reproduced'.")
    date: str = Field(description="When, ISO date: of the submission, or of the maintainer's run.")


class Standing(Record):
    """One submission's row."""

    org: str = Field(description="Who handed it in.")
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
    region: Region = Field(description="Layers tuned and removed.")
    cost: Cost = Field(description="Of training and of answering.")
    visual: Mean | None = Field(description="What it sees; none for a board without visual tasks.")
    text: Mean | None = Field(description="What it can read; none for a board without text tasks.")
    verdicts: tuple[Verdict, ...] = Field(description="One a claim of the board; none for a baseline.")
    tasks: tuple[TaskStanding, ...] = Field(description="In the board's order.")
    status: Status = Field(description="How far it was checked.")

    @property
    def key(self) -> str:
        """'org/name@revision', which names a submission within its board."""
        return f"{self.org}/{self.name}@{self.revision}"


class BoardTask(Record):
    """What a reader needs to know of a task of the board."""

    id: str = Field(description="Task id.")
    suite: str = Field(description="'visual' or 'text'; empty for one in no mean.")
    title: str = Field(description="What is asked.")
    metric: str = Field(description="Key of `vrbench.tasks.metrics.METRICS`.")
    unit: Literal["percent", "perplexity"] = Field(description="Scale of its score.")
    higher_is_better: bool = Field(description="Direction of the metric.")
    chance: float | None = Field(description="Score of guessing.")
    n: int = Field(description="Items.")
    version: str = Field(description="Version of the task's definition.")


Ranked = TypeVar("Ranked", Mean, TaskStanding)


class Leaderboard(Record):
    """`leaderboard.json`: generated, never written by hand; the same submissions give the same bytes."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    board: str = Field(description="Board id.")
    title: str = Field(description="Its title.")
    claims: tuple[Claim, ...] = Field(description="What the verdicts are on.")
    draws: int = Field(default=bootstrap.DRAWS, description="Bootstrap draws of every interval.")
    seed: int = Field(default=0, description="Seed of the draws.")
    tasks: tuple[BoardTask, ...] = Field(description="In the board's order.")
    rows: tuple[Standing, ...] = Field(description="By visual score, best first; then by name.")


def ranks(figures: Sequence[Figure], higher_is_better: bool = True) -> list[Rank | None]:
    """The places that each figure may have among all, in the given order.

    A figure is better than another only where the whole of its interval is, so that rows whose intervals overlap share
    places. Figures without an interval get no rank and count for none.
    """
    sign = 1.0 if higher_is_better else -1.0
    ends = [_ends(figure, sign) for figure in figures]
    known = [pair for pair in ends if pair is not None]
    return [
        None
        if pair is None
        else Rank(
            best=1 + sum(low > pair[1] for low, _ in known),
            worst=sum(high >= pair[0] for _, high in known),
        )
        for pair in ends
    ]


def _ends(figure: Figure, sign: float) -> tuple[float, float] | None:
    if figure.low is None or figure.high is None:
        return None
    low, high = sorted((sign * figure.low, sign * figure.high))
    return low, high


def ranked(rows: Sequence[Standing], tasks: Sequence[BoardTask]) -> tuple[Standing, ...]:
    """The rows with every figure's rank, by visual score, best first, then by what names them."""
    found = list(rows)
    for suite in ("visual", "text"):
        for name in ("score", "retention"):
            _rank_means(found, suite, name)
    for place, task in enumerate(tasks):
        _rank_tasks(found, place, "score", task.higher_is_better)
        _rank_tasks(found, place, "retention", True)
    return tuple(sorted(found, key=_order))


def _order(row: Standing) -> tuple[float, float, str]:
    scores = (mean.score.value if mean is not None else None for mean in (row.visual, row.text))
    visual, text = (float("-inf") if score is None else score for score in scores)
    return -visual, -text, row.key


def _rank_means(rows: list[Standing], suite: str, name: str) -> None:
    means = {i: mean for i, row in enumerate(rows) if (mean := getattr(row, suite)) is not None}
    places = ranks([getattr(mean, name) for mean in means.values()])
    for (i, mean), place in zip(means.items(), places, strict=True):
        rows[i] = rows[i].model_copy(update={suite: _with_rank(mean, name, place)})


def _rank_tasks(rows: list[Standing], task: int, name: str, higher_is_better: bool) -> None:
    places = ranks([getattr(row.tasks[task], name) for row in rows], higher_is_better)
    for i, place in enumerate(places):
        tasks = list(rows[i].tasks)
        tasks[task] = _with_rank(tasks[task], name, place)
        rows[i] = rows[i].model_copy(update={"tasks": tuple(tasks)})


def _with_rank(record: Ranked, name: str, rank: Rank | None) -> Ranked:
    return record.model_copy(update={name: getattr(record, name).model_copy(update={"rank": rank})})


def text_of(board: Leaderboard) -> str:
    """`leaderboard.json` as it is written."""
    return board.model_dump_json(indent=1) + "\n"
