"""What is written to disk: the records of a run, their schema and their reading back (pydantic, no torch).

A run is a folder: `run.json` (a `RunRecord`, written last, so that its existence means that the run is whole) and
`samples/<task>.jsonl`, one `Sample` a line, or the same compressed, `samples/<task>.jsonl.gz`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vrbench.core.errors import VrbenchError
from vrbench.core.io import canonical_json, gunzipped, gzipped, write_atomically
from vrbench.core.io import digest_of as digest_of
from vrbench.core.text_files import read_text

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA_VERSION = 1
MOST_UNSCORED = 0.01
"""Share of a task's items above which unscored ones are told beside the score."""

MOST_SAMPLE_BYTES = 256 * 2**20
"""A compressed file of samples that holds more is not unpacked; 100,000 items with short answers take some 30 MiB."""

RUNS_TOLD = 12
"""Runs below a folder that are named where a run was asked for."""

UNSCORED_MARK = "(!)"
"""What stands behind the name of such a task in a table."""


class Record(BaseModel):
    """Frozen, with no unknown fields and no NaN: a record that was read is a record that was understood."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Base(Record):
    """What a checkpoint was made from."""

    id: str = Field(description="Checkpoint id or model name.")
    digest: str = Field(description="Its digest, checked when the checkpoint is loaded.")


class Step(Record):
    """One thing that was done to a checkpoint's weights."""

    kind: Literal["trained", "pruned", "restored", "converted"] = Field(description="What was done.")
    layers: str = Field(description="The layers concerned, as `LayerSet` text: '0-3,8', 'all', 'none'.")
    depth: int = Field(description="How many decoder layers there were when it was done.")
    method: str = Field(default="", description="'lora', 'weights', 'projector', how layers were chosen, or 'merged'.")
    stage: str = Field(default="", description="Stage of the recipe: 'tower', 'align', 'tune', 'heal'.")
    recipe: str = Field(default="", description="Name of the recipe.")
    recipe_digest: str = Field(default="", description="sha256 of the recipe as it was run.")
    backbone: Base | None = Field(default=None, description="Whose weights the restored layers have.")
    note: str = Field(default="", description="Card, library versions, seconds: how it was made.")


class Lineage(Record):
    """`vrbench.json`: where a checkpoint folder comes from. Written beside the weights, last."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    id: str = Field(description="Checkpoint id, such as 'pocket/region'.")
    family: str = Field(description="Model family, such as 'llava'.")
    depth: int = Field(description="Decoder layers that the loaded model has.")
    base: Base | None = Field(default=None, description="What it was made from; none for a whole model.")
    steps: tuple[Step, ...] = Field(default=(), description="What was done to the base, in order.")
    weights: dict[str, str] = Field(default={}, description="Weight file in this folder -> its sha256.")
    licence: str = Field(default="", description="SPDX name.")
    history: tuple[Lineage, ...] = Field(
        default=(), description="Lineages of its bases, nearest first, in the folder of a whole model made from them."
    )


class CheckpointRef(Record):
    """The checkpoint that a run measured."""

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
    """One item's answer and score: what statistics need, and what a reader wants to see."""

    id: str = Field(description="Stable id of the item within its task.")
    cluster: str = Field(description="What items share (image, base question, subject); draws are over clusters.")
    group: str = Field(default="", description="Subtask, question type or subject.")
    unit: str = Field(default="", description="Items of one unit count together (MME pair, MMBench rotations).")
    score: float = Field(description="Per-item score; 0 to 1, or the log-likelihood in nats for perplexity.")
    weight: float = Field(default=1.0, description="What the score is divided by: 1, or the number of words.")
    answer: str = Field(default="", description="The model's answer, or the option it found likeliest.")
    target: str = Field(default="", description="The reference answer.")
    loglikelihoods: tuple[float, ...] = Field(default=(), description="Log-likelihood of each option, in nats.")
    responses: tuple[str | tuple[float, bool] | float, ...] = Field(
        default=(),
        description="What the model answered to each request of the item, before any filter: a text; (log-likelihood "
        "in nats, is greedy) of an option; or the log-likelihood of a text. Empty in runs of vrbench before 0.2.",
    )
    prompt_digest: str = Field(default="", description="sha256 of the prompt and its pictures.")
    unscored: str = Field(default="", description="Why the item could not be scored; empty when it was.")


class Score(Record):
    """One figure with its interval and what it is a figure of."""

    value: float = Field(description="On the 0-100 scale, or a perplexity.")
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    n: int = Field(description="Items scored.")
    clusters: int = Field(description="Independent clusters among them.")


class TaskResult(Record):
    """What one checkpoint scored on one task."""

    task: str = Field(description="Task id.")
    suite: str = Field(description="Suite of the task.")
    version: str = Field(description="Version of the task's definition.")
    status: Literal["ok", "error"] = Field(description="Whether the task ran through.")
    error: str = Field(default="", description="What killed it.")
    metric: str = Field(description="Name in `vrbench.tasks.metrics.METRICS`.")
    higher_is_better: bool = Field(default=True, description="Direction of the metric.")
    chance: float | None = Field(default=None, description="Score of guessing, on the same scale; none if undefined.")
    n: int = Field(default=0, description="Items scored.")
    n_unscored: int = Field(default=0, description="Items that could not be scored.")
    n_cut: int = Field(default=0, description="Items of which a text was longer than the context and lost its front.")
    requests_cut: int = Field(default=0, description="Requests, such as options, that lost their front.")
    score: Score | None = Field(default=None, description="The primary metric with its interval.")
    groups: dict[str, Score] = Field(default={}, description="The same metric per subtask or question type.")
    complete: bool = Field(default=True, description="Whether all items and subtasks of the task were there and used.")
    note: str = Field(default="", description="What a reader must know, such as missing subtasks.")
    warnings: tuple[str, ...] = Field(
        default=(), description="What a reader must know of this checkpoint's answers: cut, not asked, not understood."
    )
    official: dict[str, float] = Field(default={}, description="The harness's own aggregates, as it printed them.")
    harness: str = Field(default="", description="Harness and version whose prompts, filters and scoring were used.")
    fewshot: int = Field(default=0, description="Examples in the prompt.")
    data: str = Field(default="", description="Data set, revision and where it came from.")
    data_digest: str = Field(default="", description="sha256 over the items used.")
    definition_digest: str = Field(
        default="", description="sha256 over the definition's prompt, examples, generation and scoring; not over data."
    )
    samples_digest: str = Field(default="", description="sha256 of samples/<task>.jsonl, uncompressed.")
    seconds: float = Field(default=0.0, description="Wall time of answering and scoring.")
    asked: int = Field(default=0, description="Requests that were computed now; the others were already stored.")
    reused: int = Field(default=0, description="Requests whose answers were stored before this run began.")
    code: dict[str, int] = Field(
        default={}, description="Part of vrbench's code that decided answers and scores -> its version, if above 1."
    )

    @property
    def is_marked(self) -> bool:
        """Whether so many items could not be scored that a reader must be told beside the score."""
        return self.n_unscored > MOST_UNSCORED * (self.n + self.n_unscored)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The warnings; of a run of an older vrbench, which has none, what can be told of unscored items."""
        return self.warnings or tuple(filter(None, [unscored_note(self.n_unscored, self.n + self.n_unscored)]))


class Settings(Record):
    """The options in force; with the checkpoint's digest and the tasks they decide every answer."""

    tasks: tuple[str, ...] = Field(description="Task ids, sorted.")
    limit: int | None = Field(default=None, description="Items a task, if limited.")
    seed: int = Field(default=0, description="Seed of the choice of items under a limit.")
    dtype: str = Field(default="float32", description="Compute type of the model.")
    batch_size: str = Field(default="auto", description="'auto' or a number; no input of a float32 result.")
    device: str = Field(default="cpu", description="'cpu' or 'cuda'; no input of the result's path.")
    data_root: str = Field(default="", description="Folder with the hub's data sets, if given.")
    include_path: str = Field(default="", description="Folder with the user's own task files, if given.")
    image_settings: str = Field(
        default="harness", description="'harness', 'checkpoint' or 'pad': whose settings of the image processor held."
    )
    environment: dict[str, str] = Field(
        default={},
        description="Libraries that decide answers -> version, and the kind of 'device'; empty before vrbench 0.3.",
    )


class Answered(Record):
    """Some of a run's answers: when and with what they were computed."""

    requests: int = Field(description="Requests that were answered so.")
    reused: bool = Field(description="Whether they were stored before this run began.")
    first: str = Field(description="When the first was stored, UTC, ISO 8601.")
    last: str = Field(description="When the last was stored, UTC, ISO 8601.")
    vrbench: str = Field(description="Version of vrbench.")
    commit: str = Field(default="", description="Commit of the checkout that computed them, if it was known and kept.")
    dirty: bool | None = Field(default=None, description="Whether that checkout had uncommitted changes.")
    packages: dict[str, str] = Field(description="Versions of the libraries that decide answers.")
    device: str = Field(description="GPU, or processor and threads.")


class Provenance(Record):
    """How a run was made."""

    vrbench: str = Field(description="Version of vrbench.")
    commit: str = Field(default="", description="Commit of the checkout, if it ran from one.")
    dirty: bool | None = Field(default=None, description="Whether that checkout had uncommitted changes.")
    packages: dict[str, str] = Field(
        default={}, description="Versions of the libraries installed when it was scored; `answered` has its answers'."
    )
    answered: tuple[Answered, ...] = Field(
        default=(), description="When and with what its answers were computed; empty in runs of vrbench before 0.3."
    )
    python: str = Field(default="", description="Python version.")
    platform: str = Field(default="", description="Operating system and processor.")
    device: str = Field(default="", description="Card, or processor and threads.")
    image_processor: str = Field(default="", description="Class that resized the pictures.")
    images: str = Field(
        default="", description="What was not as the checkpoint's files have it, or cut off; empty for neither."
    )
    command: str = Field(default="", description="The command line, or 'python' when called from Python.")
    started: str = Field(default="", description="Start, UTC, ISO 8601.")
    seconds: float = Field(default=0.0, description="Wall time of the whole run of this checkpoint.")


class RunRecord(Record):
    """One checkpoint measured on some tasks."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    status: Literal["ok", "error"] = Field(description="'error' when at least one task died.")
    checkpoint: CheckpointRef = Field(description="What was measured.")
    settings: Settings = Field(description="The options in force.")
    inputs_digest: str = Field(description="sha256 over all that decides the answers; names the run's folder.")
    results: tuple[TaskResult, ...] = Field(description="One a task.")
    skipped: dict[str, str] = Field(
        default={}, description="Task that was asked for and left out -> why its data were not there."
    )
    provenance: Provenance = Field(description="How it was made.")


class Source(Record):
    """One of the runs that a checkpoint's results come from."""

    tasks: tuple[str, ...] = Field(description="Tasks that are taken from it.")
    dtype: str = Field(description="Compute type of the model.")
    provenance: Provenance = Field(description="How it was made.")


class Run(BaseModel):
    """A record together with its samples, as `compare` needs them.

    `joined` and `notes` are those of `vrbench.statistics.merge_runs.join`, empty for a run that was read from disk.
    """

    model_config = ConfigDict(frozen=True)

    record: RunRecord
    samples: dict[str, tuple[Sample, ...]]
    path: Path | None = None
    joined: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Literal["ok", "error"]:
        """The record's."""
        return self.record.status

    @property
    def checkpoint(self) -> CheckpointRef:
        """The record's."""
        return self.record.checkpoint

    @property
    def settings(self) -> Settings:
        """The record's."""
        return self.record.settings

    @property
    def inputs_digest(self) -> str:
        """The record's."""
        return self.record.inputs_digest

    @property
    def results(self) -> tuple[TaskResult, ...]:
        """The record's."""
        return self.record.results

    @property
    def skipped(self) -> dict[str, str]:
        """The record's."""
        return self.record.skipped

    @property
    def provenance(self) -> Provenance:
        """The record's."""
        return self.record.provenance

    def to_pandas(self, task: str | None = None) -> DataFrame:
        """The samples, one row each: the task, then the fields of `Sample`.

        Args:
            task: of which task alone; else of all.

        Raises:
            VrbenchError: the run has no such task.
        """
        import pandas as pd

        tasks = list(self.samples) if task is None else [self.result(task).task]
        rows = [{"task": name, **dict(sample)} for name in tasks for sample in self.samples.get(name, ())]
        return pd.DataFrame(rows, columns=["task", *Sample.model_fields])

    @property
    def sources(self) -> tuple[Source, ...]:
        """The runs that its results come from: itself, unless it was joined."""
        return self.joined or (source_of(self.record, tuple(r.task for r in self.record.results)),)

    def result(self, task: str) -> TaskResult:
        """The result of one task.

        Raises:
            VrbenchError: the run has no such task.
        """
        for result in self.record.results:
            if result.task == task:
                return result
        raise VrbenchError(f"the run of {self.record.checkpoint.id} has no task {task!r}")


def unscored_note(unscored: int, n: int) -> str:
    """What a reader is told of unscored items, if they are more than `MOST_UNSCORED` of `n`; else nothing."""
    if unscored <= MOST_UNSCORED * n:
        return ""
    return f"{unscored:,} of {n:,} items ({100 * unscored / n:.1f} %) could not be scored and are left out"


def source_of(record: RunRecord, tasks: tuple[str, ...]) -> Source:
    """A run as the source of some of its tasks."""
    return Source(tasks=tasks, dtype=record.settings.dtype, provenance=record.provenance)


def samples_text(samples: Iterable[Sample]) -> str:
    """JSON lines, one sample a line, in the given order."""
    return "".join(canonical_json(s.model_dump(mode="json")) + "\n" for s in samples)


def save_run(folder: Path, record: RunRecord, samples: dict[str, tuple[Sample, ...]], compressed: bool = False) -> Path:
    """Write samples first and `run.json` last; returns the path of `run.json`.

    Args:
        compressed: whether samples are written as .jsonl.gz; the record, and its digests, are the same.
    """
    for task, rows in samples.items():
        plain = folder / "samples" / f"{task}.jsonl"
        packed = plain.with_name(f"{plain.name}.gz")
        kept, other = (packed, plain) if compressed else (plain, packed)
        text = samples_text(rows)
        write_atomically(kept, gzipped(text) if compressed else text)
        other.unlink(missing_ok=True)
    path = folder / "run.json"
    write_atomically(path, record.model_dump_json(indent=1) + "\n")
    return path


def scores_alone(record: RunRecord, samples: dict[str, tuple[Sample, ...]]) -> Run:
    """A run without what was asked and answered: what statistics need, in a tenth of the room."""
    said = {"answer": "", "target": "", "loglikelihoods": (), "responses": (), "prompt_digest": ""}
    kept = {task: tuple(sample.model_copy(update=said) for sample in rows) for task, rows in samples.items()}
    digests = {task: hashlib.sha256(samples_text(rows).encode()).hexdigest() for task, rows in kept.items()}
    results = tuple(
        result.model_copy(update={"samples_digest": digests.get(result.task, result.samples_digest)})
        for result in record.results
    )
    return Run(record=record.model_copy(update={"results": results}), samples=kept)


def load_run(path: str | Path) -> Run:
    """Read a run of one's own from its folder or its `run.json`, checking the samples against their digests.

    A stranger's is read by `vrbench.leaderboard.submitted.read_submission`, within bounds.

    Raises:
        VrbenchError: no such run, a record of another schema, or samples that are not those of the record.
    """
    folder = Path(path)
    folder = folder.parent if folder.name == "run.json" else folder
    file = folder / "run.json"
    if not file.is_file():
        raise VrbenchError(f"no run at {str(path)!r}; {_below(folder)}")
    try:
        raw = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise VrbenchError(f"{file} is not JSON: {error}") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise VrbenchError(f"{file} has schema version {version}; this vrbench reads {SCHEMA_VERSION}")
    try:
        record = RunRecord.model_validate(raw)
    except ValidationError as error:
        raise VrbenchError(f"{file} is not a run record: {_first_fault(error)}") from error
    samples = {r.task: tuple(_load_samples(folder, r)) for r in record.results if r.status == "ok"}
    return Run(record=record, samples=samples, path=folder)


def _below(folder: Path) -> str:
    """What to name in place of a folder that is no run: those that lie one or two folders below, if any do."""
    found = sorted(file.parent for pattern in ("*/run.json", "*/*/run.json") for file in folder.glob(pattern))
    if not found:
        return "a run is a folder with run.json, as `vrbench run` writes it"
    more = f", and {len(found) - RUNS_TOLD} more" if len(found) > RUNS_TOLD else ""
    return f"name one of the runs below it: {', '.join(map(str, found[:RUNS_TOLD]))}{more}"


def _load_samples(folder: Path, result: TaskResult) -> Iterator[Sample]:
    file = folder / "samples" / f"{result.task}.jsonl"
    packed = file.with_name(f"{file.name}.gz")
    if not file.is_file() and not packed.is_file():
        raise VrbenchError(f"{file} is missing; the record says it should be there")
    content = file.read_bytes() if file.is_file() else gunzipped(packed, MOST_SAMPLE_BYTES)
    if hashlib.sha256(content).hexdigest() != result.samples_digest:
        raise VrbenchError(f"{file} is not what the record says: its sha256 differs")
    for number, line in enumerate(content.splitlines(), 1):
        try:
            yield Sample.model_validate_json(line)
        except ValidationError as error:
            raise VrbenchError(f"{file} line {number} is not a sample: {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(str(p) for p in fault['loc'])}: {fault['msg']}"
