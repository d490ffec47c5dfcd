"""What shall be run, with every fault in it told before a weight is loaded."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from vrbench.checkpoints import image_settings, locate, resolve
from vrbench.checkpoints.image_settings import HARNESS
from vrbench.checkpoints.model_config import read_config
from vrbench.core import versions
from vrbench.core.device import resolve_device, validate_device
from vrbench.core.errors import VrbenchError, error_messages, merge_messages, raise_errors
from vrbench.core.io import digest_of, validate_output
from vrbench.core.provenance import answer_packages, package_version
from vrbench.core.schemas import SCHEMA_VERSION, RunSettings
from vrbench.data import loading, sampling
from vrbench.data.locate import DataLocation, in_cache, locate_all, missing_messages, skipped_note
from vrbench.data.locate import locate as locate_data
from vrbench.evaluation import answer_store
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from vrbench.evaluation.built_task import SubtaskData

_log = logging.getLogger(__name__)

CONFIG = "config.json"
DTYPES = ("auto", "float32", "bfloat16")
PROSE = {"title", "licence", "citation", "url", "note", "suites", "n", "chance", "groups", "judge", "column"}
"""Fields of a task that decide neither an answer nor a score."""

ASKED = (
    "harness", "harness_task", "scorer", "fewshot", "description", "prompt", "choices", "target", "delimiter",
    "generation", "ocr_tokens",
)  # fmt: skip
"""Fields of a task that say what is asked over given data, and how answers are generated and scored."""


@dataclass(frozen=True)
class RunConfig:
    """How to run; the defaults are those of the command line.

    Attributes:
        limit: items a task at most; None for all.
        batch_size: rows in one pass, or "auto" for as many as fit.
        device: "auto" takes a card when there is one.
        dtype: "auto" is bfloat16 on a card and float32 on a CPU.
        data_root: folder with the hub's data sets; nothing touches the network then.
        include_path: folder with the user's own task files.
        out: folder of the runs.
        seed: of the choice of items under a limit, and of the intervals.
        trust_remote_code: run Python code that comes with a checkpoint; the record says which.
        image_settings: whose settings of the image processor hold: "harness" for those of lmms-eval's class for the
            family, "checkpoint" for those of its files, "pad" to pad images where a LLaVA's files crop them.
        command: the command line, for the record.
        show_progress: whether to draw a progress bar for each task.
        skip_missing: leave out tasks whose data are not there; the record says which. Broken data are refused still.
    """

    limit: int | None = None
    batch_size: int | str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    data_root: str | Path | None = None
    include_path: str | Path | None = None
    out: str | Path = "runs"
    seed: int = 0
    trust_remote_code: bool = False
    image_settings: str = HARNESS
    command: str = "python"
    show_progress: bool = True
    skip_missing: bool = False


class RunOptions(TypedDict, total=False):
    """The fields of `RunConfig` as keywords, any of which may be left out."""

    limit: int | None
    batch_size: int | str
    device: str
    dtype: str
    data_root: str | Path | None
    include_path: str | Path | None
    out: str | Path
    seed: int
    trust_remote_code: bool
    image_settings: str
    command: str
    show_progress: bool
    skip_missing: bool


@dataclass(frozen=True)
class PlannedTask:
    """One task with its items.

    Attributes:
        spec: the task.
        parts: the items that are used.
        available: items that are there.
        origin: data set, revision and where it came from.
        digest: sha256 over the items used, those of the examples among them.
        located: where they are.
        sixteen_bits: images scored over that have 16 bits a channel, of which 8 are shown.
    """

    spec: TaskSpec
    parts: tuple[SubtaskData, ...]
    available: int
    origin: str
    digest: str
    located: DataLocation
    sixteen_bits: int = 0

    @property
    def definition_digest(self) -> str:
        """sha256 over what the task's definition says of prompt, examples, generation and scoring; not over data."""
        return definition_digest(self.spec)

    @property
    def decides(self) -> dict[str, Any]:
        """What of the task decides answers and scores: its definition, its items and its harness; not our code."""
        return task_inputs(self.spec, self.digest, f"{self.spec.harness} {package_version(self.spec.harness)}")


@dataclass(frozen=True)
class RunPlan:
    """Everything that a run needs but the weights.

    Attributes:
        checkpoints: resolved.
        jobs: the tasks with their items.
        options: with a real device and dtype instead of "auto".
        skipped: task -> why it was left out.
    """

    checkpoints: tuple[resolve.Checkpoint, ...]
    jobs: tuple[PlannedTask, ...]
    options: RunConfig
    skipped: Mapping[str, str] = field(default_factory=dict)

    def settings(self, of: resolve.Checkpoint) -> RunSettings:
        """The options in force and the environment of a checkpoint's answers, for the record."""
        o = self.options
        return RunSettings(
            tasks=tuple(sorted(job.spec.id for job in self.jobs)),
            limit=o.limit,
            seed=o.seed,
            dtype=o.dtype,
            batch_size=str(o.batch_size),
            device=o.device,
            data_root=str(o.data_root or ""),
            include_path=str(o.include_path or ""),
            environment={"device": o.device, **answer_packages(of.has_adapter)},
            image_settings=o.image_settings,
        )

    def inputs_digest(self, of: resolve.Checkpoint) -> str:
        """sha256 over all that decides a checkpoint's answers and scores; not over batch size or folders."""
        tasks = {job.spec.id: with_code(job.decides, versions.of_task(of, job.spec)) for job in self.jobs}
        return inputs_digest(of.digest, tasks, self.settings(of))

    def folder(self, of: resolve.Checkpoint) -> Path:
        """Where a checkpoint's run is written."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", of.id).strip("-.") or "checkpoint"
        return Path(self.options.out) / name / self.inputs_digest(of)[:16]

    def store(self, of: resolve.Checkpoint) -> Path:
        """The file of a checkpoint's answers."""
        return answer_store.store_file(self.answers, of.digest)

    @property
    def shows_images(self) -> bool:
        """Whether any of the tasks has images."""
        return any(job.spec.harness == "lmms-eval" for job in self.jobs)

    @property
    def answers(self) -> Path:
        """The folder of all answers."""
        return Path(self.options.out) / "answers"


def plan(names: Sequence[str], tasks: str | Sequence[str], options: RunConfig) -> RunPlan:
    """Resolve checkpoints, tasks and options, load the items and look at them.

    Names, options, folders and the ends of data files are looked at first, then the items; no weight is loaded. All
    that is wrong is reported together; only where an option or a name is wrong are items not looked at, so that a
    typing error is reported within a second. Tasks that need a judge model are refused when they were named, and left
    out with a warning when a suite or a glob brought them in.

    Args:
        names: checkpoints, each once.
        tasks: ids, suites and globs.

    Raises:
        VrbenchError: every fault that was found, at once.
    """
    offline = options.data_root is not None
    faults = list(_option_faults(options))
    task_faults: list[str] = []
    specs, judged = _runnable(tasks, options, task_faults)
    has_typing_error = bool(faults or task_faults) or not all(map(locate.is_here, names))
    trusted = options.trust_remote_code
    faults += merge_messages(
        fault for name in names for fault in resolve.faults(name, offline=offline, trusted=trusted)
    )
    faults += task_faults
    looked = locate_all(specs, options.data_root)
    skipped = looked.skipped() if options.skip_missing and looked.located else {}
    faults += looked.errors
    if not skipped:
        faults += missing_messages(looked.missing, ", or leave them out with --skip-missing" * bool(looked.located))
    there = [(spec, looked.located[spec.id]) for spec in specs if spec.id in looked.located]
    if faults and not has_typing_error:
        faults += _faults_of_items_at_hand(there, options)
    raise_errors(faults)
    if judged:
        _log.warning("vrbench: left out, since they need a judge model: %s", ", ".join(spec.id for spec in judged))
    if skipped:
        _log.warning("vrbench: %s", skipped_note(skipped))
    found = tuple(resolve.resolve(name, offline=offline, trusted=trusted) for name in names)
    images = options.image_settings
    made = RunPlan(found, (), _chosen(options), skipped)
    faults += (fault for of in found for fault in image_settings.validate_choice(of, images))
    faults += _store_faults(made)
    raise_errors([*faults, *_faults_of_items_at_hand(there, options)] if faults else [])
    made = replace(made, jobs=_jobs(there, options))
    raise_errors(_item_faults(made))
    for of in found if made.shows_images else ():
        for note in image_settings.notes_with_options(of, images):
            _log.warning("vrbench: %s: %s", of.id, note)
    return made


def task_inputs(spec: TaskSpec, data_digest: str, harness: str) -> dict[str, Any]:
    """What of a task decides answers and scores.

    Args:
        data_digest: sha256 over the items used.
        harness: name and version.
    """
    told = spec.model_dump(mode="json", exclude=PROSE)
    if spec.data.kind == "file":
        del told["data"]["name"]  # where a file lies is no part of the task; its items are
    return {"spec": told, "data": data_digest, "harness": harness}


def with_code(decides: Mapping[str, Any], code: Mapping[str, int]) -> dict[str, Any]:
    """`task_inputs` with the versions of our own code; those of 0.2.0 add nothing, so that older digests stay.

    Args:
        decides: of a task.
        code: as `TaskResult.code` has it.
    """
    return {**decides, "code": dict(code)} if code else dict(decides)


def definition_digest(spec: TaskSpec) -> str:
    """sha256 over what a task's definition says of prompt, examples, generation and scoring; needs no data."""
    return digest_of(spec.model_dump(mode="json", include=set(ASKED)))


def inputs_digest(checkpoint_digest: str, tasks: Mapping[str, Mapping[str, Any]], settings: RunSettings) -> str:
    """sha256 over all that decides a checkpoint's answers and scores.

    Args:
        tasks: id -> `Job.decides` with its code's versions.
        settings: of which limit, seed, dtype, environment and image settings count.
    """
    decides: dict[str, Any] = {"checkpoint": checkpoint_digest, "tasks": tasks}
    decides |= {"limit": settings.limit, "seed": settings.seed, "dtype": settings.dtype}
    if settings.environment:  # runs of vrbench before 0.3 have none
        decides["environment"] = settings.environment
    if settings.image_settings != HARNESS:
        decides["image_settings"] = settings.image_settings
    return digest_of({"schema": SCHEMA_VERSION, **decides})


def _runnable(
    tasks: str | Sequence[str], options: RunConfig, faults: list[str]
) -> tuple[list[TaskSpec], list[TaskSpec]]:
    """`registry.runnable`; with a fault in one name the tasks of the others are given, so that theirs are told too."""
    try:
        asked = registry.load_for(tasks, options.include_path)
    except VrbenchError as error:
        faults += error_messages(error)
        return [], []
    faults += asked.errors
    if asked.errors and not asked.names:
        return [], []
    known = asked.specs
    try:
        return registry.select_runnable(asked.names, known)
    except VrbenchError as error:
        faults += error_messages(error)
    found: dict[str, TaskSpec] = {}
    for name in asked.names:
        with contextlib.suppress(VrbenchError):
            found.update((spec.id, spec) for spec in registry.select_runnable(name, known)[0])
    return list(found.values()), []


def _option_faults(options: RunConfig) -> Iterator[str]:
    limit = options.limit
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        yield f"limit is {limit!r}; it must be at least 1, or left out for all items"
    size = options.batch_size
    if size != "auto" and (not isinstance(size, int) or size < 1):
        yield f"batch size is {size!r}; it must be 'auto' or a number of at least 1"
    if options.dtype not in DTYPES:
        yield f"dtype {options.dtype!r} is unknown; there are {', '.join(DTYPES)}"
    if options.image_settings not in image_settings.CHOICES:
        yield f"image settings {options.image_settings!r} are unknown; there are {', '.join(image_settings.CHOICES)}"
    yield from validate_device(options.device)
    yield from validate_output(options.out)


def _store_faults(made: RunPlan) -> Iterator[str]:
    for of in made.checkpoints:
        if made.store(of).exists():
            try:
                answer_store.AnswerStore(made.store(of), of.digest).close()
            except VrbenchError as error:
                yield str(error)


def _item_faults(made: RunPlan) -> Iterator[str]:
    """What is wrong with the items; not looked for where every checkpoint has a run of the same inputs."""
    if all((made.folder(of) / "run.json").is_file() for of in made.checkpoints):
        return
    from vrbench.evaluation import item_validation

    found = [fault for job in made.jobs for fault in item_validation.validate_items(job.spec, job.parts, job.located)]
    yield from found or _answer_faults(made)


def _faults_of_items_at_hand(there: Sequence[tuple[TaskSpec, DataLocation]], options: RunConfig) -> Iterator[str]:
    """What is wrong with the items of tasks whose data need not be fetched."""
    from vrbench.evaluation import item_validation

    for spec, location in there:
        if location.kind == "hub" and not in_cache(spec.data):
            continue
        try:
            job = plan_task(spec, options, location)
            yield from item_validation.validate_items(job.spec, job.parts, job.located)
        except VrbenchError as error:
            yield from error_messages(error)


def _answer_faults(made: RunPlan) -> Iterator[str]:
    from vrbench.evaluation import definition_validation
    from vrbench.models.context_length import stated_context

    decoders = {of.id: read_config(of.root.path)[2] for of in made.checkpoints if of.root.has(CONFIG)}
    contexts = {name: length for name, decoder in decoders.items() if (length := stated_context(decoder))}
    for job in made.jobs:
        yield from definition_validation.validate_answer_length(job.spec, contexts)


def _jobs(there: Sequence[tuple[TaskSpec, DataLocation]], options: RunConfig) -> tuple[PlannedTask, ...]:
    jobs, faults = [], []
    for spec, location in there:
        try:
            jobs.append(plan_task(spec, options, location))
        except VrbenchError as error:
            faults += error_messages(error)
    raise_errors(faults)
    return tuple(jobs)


def plan_task(spec: TaskSpec, options: RunConfig, location: DataLocation | None = None) -> PlannedTask:
    """One task with its items, loaded.

    Args:
        location: of its data, if they were located before.

    Raises:
        VrbenchError: as `locate` and `load`.
    """
    from vrbench.data.image_columns import count_16_bit
    from vrbench.evaluation.built_task import select_items

    located = location or locate_data(spec, options.data_root)
    loaded = loading.load(spec, located)
    available = sum(len(rows[spec.data.split]) for rows in loaded.values())
    parts = tuple(select_items(spec, loaded, options.limit, options.seed))
    digests = {part.config: {split: sampling.digest(rows) for split, rows in part.rows.items()} for part in parts}
    deep = 0 if located.kind == "generated" else sum(count_16_bit(part.rows[spec.data.split]) for part in parts)
    origin = located.origin
    if spec.data.kind == "hub":
        origin += f", revision {loading.revision(spec, located, loaded) or 'not recorded'}"
    return PlannedTask(spec, parts, available, origin, digest_of(digests), located, deep)


def _chosen(options: RunConfig) -> RunConfig:
    """The options with what "auto" means here."""
    device = resolve_device(options.device)
    dtype = options.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    return RunConfig(**{**vars(options), "device": device, "dtype": dtype})
