"""The records of a comparison: its rows, its candidates, the claims and the verdicts on them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vrbench.core.schemas import MAX_UNSCORED_SHARE, SCHEMA_VERSION, CheckpointRef, Record, RunSource
from vrbench.core.version import __version__
from vrbench.statistics.bootstrap import DRAWS


class Claim(Record):
    """A lower bound on what a candidate keeps."""

    text: str = Field(description="As the user wrote it, without spaces.")
    name: str = Field(description="Task, suite, or 'visual', 'text', 'pocket'.")
    unit: Literal["retention", "points"] = Field(description="Percent of the baseline's score, or points against it.")
    threshold: float = Field(description="Least retention in percent, or least difference in points.")


class Verdict(Record):
    """What the data say about a claim."""

    claim: Claim = Field(description="The claim.")
    verdict: Literal["supported", "refuted", "undecided"] = Field(description="From the 95 % interval.")
    estimate: float | None = Field(default=None, description="Retention or difference, in the claim's unit.")
    low: float | None = Field(default=None, description="Lower end of its 95 % interval.")
    high: float | None = Field(default=None, description="Upper end of its 95 % interval.")
    n: int = Field(default=0, description="Items that it rests on.")
    n_needed: int | None = Field(default=None, description="About how many items would decide it, if undecided.")
    reason: str = Field(default="", description="Why it is undecided, and what would decide it.")


class ComparisonRow(Record):
    """Baseline against candidate on one task, or on the mean of a suite's tasks."""

    name: str = Field(description="Task or suite.")
    kind: Literal["task", "suite"] = Field(description="Which of both.")
    suite: str = Field(description="Suite of the task; the name itself for a suite.")
    tasks: tuple[str, ...] = Field(description="Tasks that the figure is a mean of.")
    metric: str = Field(description="Metric of the task; 'mean of tasks' for a suite.")
    unit: Literal["percent", "perplexity"] = Field(default="percent", description="Scale of the figures.")
    status: Literal["ok", "error"] = Field(default="ok", description="'error' when there is no figure.")
    error: str = Field(default="", description="Why there is none.")
    note: str = Field(default="", description="What a reader must know.")
    chance: float | None = Field(default=None, description="Score of guessing.")
    n: int = Field(default=0, description="Items scored in both runs.")
    n_unscored: int = Field(default=0, description="Items left out because one of both could not be scored.")
    clusters: int = Field(default=0, description="Independent clusters among the items.")
    baseline: float | None = Field(default=None, description="The baseline's figure.")
    candidate: float | None = Field(default=None, description="The candidate's figure.")
    difference: float | None = Field(default=None, description="Candidate minus baseline.")
    difference_low: float | None = Field(default=None, description="Lower end of its 95 % interval.")
    difference_high: float | None = Field(default=None, description="Upper end of its 95 % interval.")
    retention: float | None = Field(default=None, description="Percent kept; for perplexity baseline / candidate.")
    retention_low: float | None = Field(default=None, description="Lower end of its 95 % interval.")
    retention_high: float | None = Field(default=None, description="Upper end of its 95 % interval.")
    p: float | None = Field(default=None, description="Two-sided p of no difference.")
    p_holm: float | None = Field(default=None, description="p adjusted over the rows of the same kind.")
    test: str = Field(default="", description="Name of the test.")

    @property
    def has_many_unscored(self) -> bool:
        """Whether so many items were left out as unscored that the row is marked in a table."""
        return self.n_unscored > MAX_UNSCORED_SHARE * (self.n + self.n_unscored)


class CandidateComparison(Record):
    """One candidate against the baseline."""

    label: str = Field(description="Its name in this comparison.")
    checkpoint: CheckpointRef = Field(description="What was measured.")
    sources: tuple[RunSource, ...] = Field(description="The runs that its results come from.")
    tasks: tuple[ComparisonRow, ...] = Field(description="One a task that both runs have.")
    suites: tuple[ComparisonRow, ...] = Field(description="One a suite.")
    verdicts: tuple[Verdict, ...] = Field(description="One a claim.")


class Comparison(Record):
    """What `vrbench compare` found."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    vrbench: str = Field(default=__version__, description="Version of vrbench.")
    baseline_label: str = Field(description="The baseline's name in this comparison.")
    baseline: CheckpointRef = Field(description="What the candidates are compared with.")
    baseline_sources: tuple[RunSource, ...] = Field(description="The runs that the baseline's results come from.")
    candidates: tuple[CandidateComparison, ...] = Field(description="In the order given.")
    claims: tuple[Claim, ...] = Field(description="What verdicts were asked for.")
    limit: int | None = Field(default=None, description="Items a task, if limited.")
    draws: int = Field(default=DRAWS, description="Bootstrap draws.")
    seed: int = Field(default=0, description="Seed of the draws.")
    notes: tuple[str, ...] = Field(default=(), description="What was left out, and what differs.")
