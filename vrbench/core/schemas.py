"""The records that vrbench writes to disk, as pydantic models (no torch).

A run is a folder: `run.json` (a `RunRecord`, written last, so that its existence means that the run is complete) and
`samples/<task>.jsonl`, one `Sample` a line, or the same compressed, `samples/<task>.jsonl.gz`; see `run_storage`.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA_VERSION = 1
MAX_UNSCORED_SHARE = 0.01
"""Share of a task's items above which unscored ones are reported beside the score."""

UNSCORED_MARK = "(!)"
"""Suffix of the name of such a task in a table."""


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BaseRef(Record):
    """The checkpoint that another was made from."""

    id: str = Field(description="Checkpoint id or model name.")
    digest: str = Field(description="Its digest, checked when the checkpoint is loaded.")


class LineageStep(Record):
    """One operation on a checkpoint's weights."""

    kind: Literal["trained", "pruned", "restored", "converted"] = Field(description="Kind of operation.")
    layers: str = Field(description="Layers it applied to, as `LayerSet` text: '0-3,8', 'all', 'none'.")
    depth: int = Field(description="Decoder layers before this step.")
    method: str = Field(
        default="", description="'lora', 'weights', 'projector', 'merged', or how layers were selected."
    )
    stage: str = Field(default="", description="Stage of the recipe: 'tower', 'align', 'tune', 'heal'.")
    recipe: str = Field(default="", description="Name of the recipe.")
    recipe_digest: str = Field(default="", description="sha256 of the recipe that was run.")
    backbone: BaseRef | None = Field(default=None, description="Checkpoint whose weights the restored layers have.")
    note: str = Field(default="", description="GPU, package versions, seconds: how it was made.")


class Lineage(Record):
    """`vrbench.json`: what a checkpoint folder was made from and how. Written beside the weights, last."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    id: str = Field(description="Checkpoint id, such as 'pocket/region'.")
    family: str = Field(description="Model family, such as 'llava'.")
    depth: int = Field(description="Decoder layers that the loaded model has.")
    base: BaseRef | None = Field(default=None, description="What it was made from; null for a complete model.")
    steps: tuple[LineageStep, ...] = Field(default=(), description="Operations on the base, in order.")
    weights: dict[str, str] = Field(default={}, description="Weight file in this folder -> its sha256.")
    licence: str = Field(default="", description="SPDX name.")
    history: tuple[Lineage, ...] = Field(
        default=(),
        description="Lineages of its bases, nearest first, in the folder of a complete model.",
    )


class CheckpointRef(Record):
    """The checkpoint that a run evaluated."""

    id: str = Field(description="What the user asked for, such as 'pocket/region' or a folder's name.")
    revision: str = Field(default="", description="Hub revision, if it came from a hub.")
    digest: str = Field(description="sha256 over the weights, config and tokenizer that decide its answers.")
    family: str = Field(description="Model family.")
    depth: int = Field(description="Decoder layers.")
    lineage: tuple[Lineage, ...] = Field(default=(), description="This checkpoint's lineage first, then its bases'.")
    code: dict[str, str] = Field(
        default={}, description="Python file that came with the checkpoint and was run -> its sha256, in the digest."
    )


class Sample(Record):
    """One item's answer and score."""

    id: str = Field(description="Stable id of the item within its task.")
    cluster: str = Field(description="What items share (image, base question, subject); clusters are resampled.")
    group: str = Field(default="", description="Subtask, question type or subject.")
    unit: str = Field(default="", description="Items of one unit are scored together (MME pair, MMBench rotations).")
    score: float = Field(description="Per-item score; 0 to 1, or the log-likelihood in nats for perplexity.")
    weight: float = Field(default=1.0, description="Divisor of the score: 1, or the number of words.")
    answer: str = Field(default="", description="The model's answer, or the option with the highest likelihood.")
    target: str = Field(default="", description="The reference answer.")
    loglikelihoods: tuple[float, ...] = Field(default=(), description="Log-likelihood of each option, in nats.")
    responses: tuple[str | tuple[float, bool] | float, ...] = Field(
        default=(),
        description="The model's answer to each request of the item, before any filter: a text; (log-likelihood in "
        "nats, is greedy) of an option; or the log-likelihood of a text. Empty in runs of vrbench before 0.2.",
    )
    prompt_digest: str = Field(default="", description="sha256 of the prompt and its images.")
    unscored: str = Field(default="", description="Why the item could not be scored; empty when it was.")


class Score(Record):
    """One metric value with its interval and sample size."""

    value: float = Field(description="On the 0-100 scale, or a perplexity.")
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    n: int = Field(description="Items scored.")
    clusters: int = Field(description="Independent clusters among them.")


class TaskResult(Record):
    """The result of one checkpoint on one task."""

    task: str = Field(description="Task id.")
    suite: str = Field(description="Suite of the task.")
    version: str = Field(description="Version of the task's definition.")
    status: Literal["ok", "error"] = Field(description="Whether the task was completed.")
    error: str = Field(default="", description="Why it failed.")
    metric: str = Field(description="Name in `vrbench.tasks.metrics.METRICS`.")
    higher_is_better: bool = Field(default=True, description="Direction of the metric.")
    chance: float | None = Field(default=None, description="Score of guessing, on the same scale; null if undefined.")
    n: int = Field(default=0, description="Items scored.")
    n_unscored: int = Field(default=0, description="Items that could not be scored.")
    n_cut: int = Field(default=0, description="Items with a text longer than the context, truncated on the left.")
    requests_cut: int = Field(default=0, description="Requests, such as options, that were truncated on the left.")
    score: Score | None = Field(default=None, description="The primary metric with its interval.")
    groups: dict[str, Score] = Field(default={}, description="The same metric per subtask or question type.")
    complete: bool = Field(default=True, description="Whether all items and subtasks were available and used.")
    note: str = Field(default="", description="What a reader must know, such as missing subtasks.")
    warnings: tuple[str, ...] = Field(
        default=(),
        description="What a reader must know of these answers: truncated, not requested, not parsed.",
    )
    official: dict[str, float] = Field(default={}, description="The harness's own aggregates, as it printed them.")
    harness: str = Field(default="", description="Harness and version whose prompts, filters and scoring were used.")
    fewshot: int = Field(default=0, description="Few-shot examples in the prompt.")
    data: str = Field(default="", description="Data set, revision and source.")
    data_digest: str = Field(default="", description="sha256 over the items used.")
    definition_digest: str = Field(
        default="", description="sha256 over the definition's prompt, examples, generation and scoring; not over data."
    )
    samples_digest: str = Field(default="", description="sha256 of samples/<task>.jsonl, uncompressed.")
    seconds: float = Field(default=0.0, description="Wall time of answering and scoring.")
    asked: int = Field(default=0, description="Requests computed in this run; the others were already stored.")
    reused: int = Field(default=0, description="Requests whose answers were stored before this run began.")
    code: dict[str, int] = Field(
        default={}, description="Component of vrbench that decided answers and scores -> its version, if above 1."
    )

    @property
    def has_many_unscored(self) -> bool:
        """Whether more items could not be scored than `MAX_UNSCORED_SHARE` allows without a mark."""
        return self.n_unscored > MAX_UNSCORED_SHARE * (self.n + self.n_unscored)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The warnings; for a run of an older vrbench, which has none, the note on unscored items."""
        return self.warnings or tuple(filter(None, [unscored_note(self.n_unscored, self.n + self.n_unscored)]))


class RunSettings(Record):
    """The options in effect; with the checkpoint's digest and the tasks they decide every answer."""

    tasks: tuple[str, ...] = Field(description="Task ids, sorted.")
    limit: int | None = Field(default=None, description="Items a task, if limited.")
    seed: int = Field(default=0, description="Seed of the selection of items under a limit.")
    dtype: str = Field(default="float32", description="Compute type of the model.")
    batch_size: str = Field(default="auto", description="'auto' or a number; does not affect a float32 result.")
    device: str = Field(default="cpu", description="'cpu' or 'cuda'; not part of the result's path.")
    data_root: str = Field(default="", description="Folder with the hub's data sets, if given.")
    include_path: str = Field(default="", description="Folder with the user's own task files, if given.")
    image_settings: str = Field(
        default="harness", description="'harness', 'checkpoint' or 'pad': which image processor settings were used."
    )
    deterministic: bool = Field(
        default=False, description="Whether the shape of every pass depended on one request alone (--deterministic)."
    )
    environment: dict[str, str] = Field(
        default={},
        description="Packages that decide answers -> version, and the kind of 'device'; empty before vrbench 0.3.",
    )
    backend: str = Field(default="vrbench", description="What computed the answers: 'vrbench' or 'vllm'.")


class AnswerProvenance(Record):
    """When and with what a part of a run's answers were computed."""

    requests: int = Field(description="Number of requests.")
    reused: bool = Field(description="Whether they were stored before this run began.")
    first: str = Field(description="When the first was stored, UTC, ISO 8601.")
    last: str = Field(description="When the last was stored, UTC, ISO 8601.")
    vrbench: str = Field(description="Version of vrbench.")
    commit: str = Field(default="", description="Commit of the checkout that computed them, if known.")
    dirty: bool | None = Field(default=None, description="Whether that checkout had uncommitted changes.")
    packages: dict[str, str] = Field(description="Versions of the packages that decide answers.")
    device: str = Field(description="GPU, or processor and number of threads.")


class Provenance(Record):
    """How a run was made: versions, hardware, command."""

    vrbench: str = Field(description="Version of vrbench.")
    commit: str = Field(default="", description="Commit of the checkout, if it ran from one.")
    dirty: bool | None = Field(default=None, description="Whether that checkout had uncommitted changes.")
    packages: dict[str, str] = Field(
        default={}, description="Package versions at the time of scoring; `answered` has those of its answers."
    )
    answered: tuple[AnswerProvenance, ...] = Field(
        default=(), description="When and with what its answers were computed; empty in runs of vrbench before 0.3."
    )
    python: str = Field(default="", description="Python version.")
    platform: str = Field(default="", description="Operating system and processor.")
    device: str = Field(default="", description="GPU, or processor and number of threads.")
    image_processor: str = Field(default="", description="Class that resized the images.")
    images: str = Field(
        default="",
        description="How images differ from what the checkpoint's files state, or are cropped; else empty.",
    )
    command: str = Field(default="", description="The command line, or 'python' when called from Python.")
    started: str = Field(default="", description="Start, UTC, ISO 8601.")
    seconds: float = Field(default=0.0, description="Wall time of the whole run of this checkpoint.")


class RunRecord(Record):
    """The evaluation of one checkpoint on some tasks."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    status: Literal["ok", "error"] = Field(description="'error' when at least one task failed.")
    checkpoint: CheckpointRef = Field(description="The checkpoint that was evaluated.")
    settings: RunSettings = Field(description="The options in effect.")
    inputs_digest: str = Field(description="sha256 over everything that decides the answers; names the run's folder.")
    results: tuple[TaskResult, ...] = Field(description="One per task.")
    skipped: dict[str, str] = Field(
        default={}, description="Requested task that was skipped -> why its data were not available."
    )
    provenance: Provenance = Field(description="How it was made.")


class RunSource(Record):
    """One of the runs that a checkpoint's results come from."""

    tasks: tuple[str, ...] = Field(description="Tasks taken from it.")
    dtype: str = Field(description="Compute type of the model.")
    provenance: Provenance = Field(description="How it was made.")


class Run(BaseModel):
    """A record with its samples.

    `joined` and `notes` are set by `vrbench.join`, and empty for a run read from disk.
    """

    model_config = ConfigDict(frozen=True)

    record: RunRecord
    samples: dict[str, tuple[Sample, ...]]
    path: Path | None = None
    joined: tuple[RunSource, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Literal["ok", "error"]:
        """See `RunRecord`."""
        return self.record.status

    @property
    def checkpoint(self) -> CheckpointRef:
        """See `RunRecord`."""
        return self.record.checkpoint

    @property
    def settings(self) -> RunSettings:
        """See `RunRecord`."""
        return self.record.settings

    @property
    def inputs_digest(self) -> str:
        """See `RunRecord`."""
        return self.record.inputs_digest

    @property
    def results(self) -> tuple[TaskResult, ...]:
        """See `RunRecord`."""
        return self.record.results

    @property
    def skipped(self) -> dict[str, str]:
        """See `RunRecord`."""
        return self.record.skipped

    @property
    def provenance(self) -> Provenance:
        """See `RunRecord`."""
        return self.record.provenance

    def to_pandas(self, task: str | None = None) -> DataFrame:
        """Return the samples as a data frame, one row each: the task, then the fields of `Sample`.

        Args:
            task: of one task; by default of all.

        Raises:
            VrbenchError: the run has no such task.
        """
        import pandas as pd

        tasks = list(self.samples) if task is None else [self.result(task).task]
        rows = [{"task": name, **dict(sample)} for name in tasks for sample in self.samples.get(name, ())]
        return pd.DataFrame(rows, columns=["task", *Sample.model_fields])

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What is computed from the run once, by name; a copy of the run has the same."""
        return {}

    @property
    def sources(self) -> tuple[RunSource, ...]:
        """The runs that its results come from: the run itself, unless it was merged."""
        return self.joined or (self.source(tuple(r.task for r in self.record.results)),)

    def source(self, tasks: tuple[str, ...]) -> RunSource:
        """Return the run as the source of some of its tasks."""
        return RunSource(tasks=tasks, dtype=self.record.settings.dtype, provenance=self.record.provenance)

    def result(self, task: str) -> TaskResult:
        """Return the result of one task.

        Raises:
            VrbenchError: the run has no such task.
        """
        for result in self.record.results:
            if result.task == task:
                return result
        raise VrbenchError(f"the run of {self.record.checkpoint.id} has no task {task!r}")


def unscored_note(unscored: int, n: int) -> str:
    """Return a note on unscored items if they are more than `MAX_UNSCORED_SHARE` of `n`; else an empty text."""
    if unscored <= MAX_UNSCORED_SHARE * n:
        return ""
    return f"{unscored:,} of {n:,} items ({100 * unscored / n:.1f} %) could not be scored and are left out"
