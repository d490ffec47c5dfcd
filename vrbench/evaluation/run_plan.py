"""The plan of a run: checkpoints, tasks and items, with all their errors reported before any weights are loaded."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vrbench.checkpoints import image_settings, locate
from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.model_config import read_model_config
from vrbench.core.device import device_kind
from vrbench.core.errors import VrbenchError, collect_errors, merge_messages, raise_errors
from vrbench.core.io import digest_of
from vrbench.core.provenance import answer_packages, package_version
from vrbench.core.run_storage import load_run, save_run
from vrbench.core.schemas import Run, RunSettings
from vrbench.data import loading, sampling
from vrbench.data.image_columns import count_16_bit
from vrbench.data.locate import DataLocation, LocatedData, is_cached, locate_all, missing_messages, skipped_note
from vrbench.data.locate import locate as locate_data
from vrbench.evaluation import vllm_checks
from vrbench.evaluation.answer_store import AnswerStore, older_store_file, store_file
from vrbench.evaluation.built_task import SubtaskData, select_items
from vrbench.evaluation.code_versions import task_versions
from vrbench.evaluation.inputs_digest import definition_digest, inputs_digest, task_inputs
from vrbench.evaluation.ranks import SINGLE_PROCESS, Ranks
from vrbench.evaluation.run_config import RunConfig
from vrbench.models.context_length import stated_context
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedTask:
    """One task with its items.

    Attributes:
        spec: the task.
        subtasks: the items that are used.
        available: number of items that exist.
        origin: data set, revision and where it came from.
        digest: sha256 over the items used, including few-shot examples.
        location: where the data are.
        sixteen_bits: number of scored images with 16 bits a channel, reduced to 8.
    """

    spec: TaskSpec
    subtasks: tuple[SubtaskData, ...]
    available: int
    origin: str
    digest: str
    location: DataLocation
    sixteen_bits: int = 0

    @property
    def definition_digest(self) -> str:
        """sha256 over the task's prompt, examples, generation and scoring, without its data."""
        return definition_digest(self.spec)

    def inputs(self, code: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return the fields of the task that determine answers and scores; see `inputs_digest.task_inputs`."""
        harness = f"{self.spec.harness} {package_version(self.spec.harness)}"
        return task_inputs(self.spec, self.digest, harness, code)


@dataclass(frozen=True)
class RunPlan:
    """Everything that a run needs except the weights.

    Attributes:
        checkpoints: resolved.
        tasks: with their items.
        config: with a real device and dtype instead of "auto".
        skipped: task -> why it was left out.
        ranks: which of how many processes this is.
    """

    checkpoints: tuple[Checkpoint, ...]
    tasks: tuple[PlannedTask, ...]
    config: RunConfig
    skipped: Mapping[str, str] = field(default_factory=dict)
    ranks: Ranks = SINGLE_PROCESS

    def settings(self, checkpoint: Checkpoint) -> RunSettings:
        """Return the options in force and the environment of a checkpoint's answers, for the record."""
        config = self.config
        return RunSettings(
            tasks=tuple(sorted(task.spec.id for task in self.tasks)),
            limit=config.limit,
            seed=config.seed,
            dtype=config.dtype,
            batch_size=str(config.batch_size),
            device=device_kind(config.device),
            data_root=str(config.data_root or ""),
            include_path=str(config.include_path or ""),
            environment={
                "device": device_kind(config.device),
                **answer_packages(checkpoint.has_adapter, config.backend),
            },
            image_settings=config.image_settings,
            deterministic=config.deterministic,
            backend=config.backend,
        )

    def inputs_digest(self, checkpoint: Checkpoint) -> str:
        """Return the sha256 over everything that determines a checkpoint's answers and scores; see `inputs_digest`."""
        tasks = {task.spec.id: task.inputs(task_versions(checkpoint, task.spec)) for task in self.tasks}
        return inputs_digest(checkpoint.digest, tasks, self.settings(checkpoint))

    def folder(self, checkpoint: Checkpoint) -> Path:
        """Return where a checkpoint's run is written."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint.id).strip("-.") or "checkpoint"
        return Path(self.config.out) / name / self.inputs_digest(checkpoint)[:16]

    @property
    def answers(self) -> Path:
        """Folder of all answer stores."""
        return Path(self.config.out) / "answers"

    def store_file(self, checkpoint: Checkpoint) -> Path:
        """Return the file of a checkpoint's answers."""
        return store_file(self.answers, checkpoint.digest)

    @property
    def unfinished(self) -> int:
        """Number of checkpoints times tasks, without the checkpoints that have a run of the same inputs."""
        return sum(not (self.folder(one) / "run.json").is_file() for one in self.checkpoints) * len(self.tasks)

    @property
    def shows_images(self) -> bool:
        """Whether any of the tasks has images."""
        return any(task.spec.harness == "lmms-eval" for task in self.tasks)

    def finished_run(self, checkpoint: Checkpoint) -> Run | None:
        """Return the run of the same inputs, if it ended well and its files are those that it wrote.

        Which tasks were left out this time is not an input of the run; its record is changed to say so.
        """
        try:
            found = load_run(self.folder(checkpoint))
        except VrbenchError:
            return None
        record = found.record
        has_responses = all(sample.responses for samples in found.samples.values() for sample in samples)
        if record.inputs_digest != self.inputs_digest(checkpoint) or record.status != "ok" or not has_responses:
            return None
        if record.skipped == self.skipped or found.path is None:
            return found
        record = record.model_copy(update={"skipped": dict(self.skipped)})
        save_run(found.path, record, found.samples)
        return found.model_copy(update={"record": record})

    def warn_of_unused_answers(self, checkpoint: Checkpoint) -> None:
        """Warn once if there are answers of vrbench 0.2.0 in the same folder, which are not used."""
        older = older_store_file(self.answers, checkpoint.digest)
        if older is not None and not self.store_file(checkpoint).exists():
            _log.warning(
                "vrbench: the answers in %s do not say which libraries and code computed them, so they are computed "
                "again; the file is kept, and may be deleted",
                older,
            )


def checkpoint_names(ckpts: str | Path | Sequence[str | Path], baseline: str | Path | None) -> list[str]:
    """Return the checkpoints to measure, the baseline first, each once.

    Raises:
        VrbenchError: something else than a text or a path is given, or there is nothing to measure or to compare.
    """
    named = [ckpts] if isinstance(ckpts, (str, Path)) else list(ckpts)
    raise_errors(
        f"{one!r} names no checkpoint; give a text or a path (one to `evaluate`, a list to `run_all`)"
        for one in (*named, *([baseline] if baseline else []))
        if not isinstance(one, (str, Path))
    )
    names = list(dict.fromkeys(map(str, [baseline, *named] if baseline else named)))
    if not names:
        raise VrbenchError("no checkpoint was named")
    if baseline and len(names) == 1:
        raise VrbenchError(f"baseline {baseline!r} is the only checkpoint; name another one to compare with it")
    return names


def plan(
    names: Sequence[str],
    tasks: str | Sequence[str],
    config: RunConfig,
    ranks: Ranks = SINGLE_PROCESS,
    errors: Iterable[str] = (),
) -> RunPlan:
    """Resolve checkpoints, tasks and options, load the items and validate them; no weights are loaded.

    Names, options, folders and the footers of data files are checked first, then the items. All errors are reported
    together; only where an option or a name is mistyped are items not checked, so that it is reported within a second.
    Tasks that need a judge model are refused when they were named, and left out with a warning when a suite or a glob
    brought them in.

    Args:
        names: checkpoints, each once.
        tasks: ids, suites and globs.
        ranks: which of how many processes this is.
        errors: in other options, to be reported together with those found here.

    Raises:
        VrbenchError: all errors that were found.
    """
    raise_errors(config.type_errors())
    errors = [*errors, *config.errors(), *ranks.errors(config)]
    task_errors: list[str] = []
    specs, judged = _runnable_tasks(tasks, config, task_errors)
    is_mistyped = bool(errors or task_errors) or not all(map(locate.is_local, names))
    checkpoints = _resolve(names, config, errors)
    errors += task_errors
    data = locate_all(specs, config.data_root)
    skipped = data.skipped() if config.skip_missing and data.located else {}
    errors += data.errors
    if not skipped:
        errors += missing_messages(data.missing, ", or leave them out with --skip-missing" * bool(data.located))
    if is_mistyped:
        raise_errors(errors)
    run_plan = RunPlan(checkpoints, (), config.resolved(), skipped, ranks)
    errors += _option_errors(run_plan)
    if judged and not errors:
        _log.warning("vrbench: left out, since they need a judge model: %s", ", ".join(spec.id for spec in judged))
    if skipped and not errors:
        _log.warning("vrbench: %s", skipped_note(skipped))
    run_plan = replace(run_plan, tasks=_load_tasks(specs, data, config, errors))
    raise_errors([*errors, *_item_errors(run_plan, bool(errors))])
    for checkpoint in checkpoints if run_plan.shows_images else ():
        for note in image_settings.notes_with_options(checkpoint, config.image_settings):
            _log.warning("vrbench: %s: %s", checkpoint.id, note)
    return run_plan


def plan_task(spec: TaskSpec, config: RunConfig, location: DataLocation | None = None) -> PlannedTask:
    """Load the items of one task.

    Args:
        location: where the data are, if that is known.

    Raises:
        VrbenchError: as `loading.load`.
    """
    location = location or locate_data(spec, config.data_root)
    loaded = loading.load(spec, location)
    available = sum(len(rows[spec.data.split]) for rows in loaded.values())
    subtasks = tuple(select_items(spec, loaded, config.limit, config.seed))
    digests = {
        subtask.config: {split: sampling.digest(rows) for split, rows in subtask.rows.items()} for subtask in subtasks
    }
    is_generated = location.kind == "generated"
    deep = 0 if is_generated else sum(count_16_bit(subtask.rows[spec.data.split]) for subtask in subtasks)
    origin = location.origin
    if spec.data.kind == "hub":
        origin += f", revision {loading.revision(spec, location, loaded) or 'not recorded'}"
    return PlannedTask(spec, subtasks, available, origin, digest_of(digests), location, deep)


def _runnable_tasks(
    tasks: str | Sequence[str], config: RunConfig, errors: list[str]
) -> tuple[list[TaskSpec], list[TaskSpec]]:
    """Return tasks that can be run, and those that need a judge model.

    With an error in one name the tasks of the other names are returned, so that their errors are reported too.
    """
    with collect_errors(errors):
        found = registry.load_for(tasks, config.include_path, config.trust_task_code)
        errors += found.errors
        if found.names or not found.errors:
            with collect_errors(errors):
                return registry.select_runnable(found.names, found.specs)
        specs: dict[str, TaskSpec] = {}
        for name in found.names:
            with contextlib.suppress(VrbenchError):
                specs.update((spec.id, spec) for spec in registry.select_runnable(name, found.specs)[0])
        return list(specs.values()), []
    return [], []


def _resolve(names: Sequence[str], config: RunConfig, errors: list[str]) -> tuple[Checkpoint, ...]:
    """Return the checkpoints without errors; the errors of the others are added."""
    checkpoints: list[Checkpoint] = []
    found: list[str] = []
    for name in names:
        with collect_errors(found):
            offline, trusted = config.data_root is not None, config.trust_remote_code
            checkpoints.append(resolve_checkpoint(name, offline=offline, trusted=trusted))
    errors += merge_messages(found)
    return tuple(checkpoints)


def _option_errors(run_plan: RunPlan) -> list[str]:
    """Return errors in options that depend on the checkpoint, and in its stored answers, which rank 0 alone opens."""
    choice = run_plan.config.image_settings
    errors = [
        error for checkpoint in run_plan.checkpoints for error in image_settings.validate_choice(checkpoint, choice)
    ]
    if run_plan.config.tp:
        errors += [error for one in run_plan.checkpoints for error in _sharing_errors(one, run_plan.ranks.size)]
    for checkpoint in () if run_plan.ranks.rank else run_plan.checkpoints:
        with collect_errors(errors):
            if run_plan.store_file(checkpoint).exists():
                AnswerStore(run_plan.store_file(checkpoint), checkpoint.digest).close()
    return [*errors, *vllm_checks.option_errors(run_plan.config, run_plan.checkpoints)]


def _sharing_errors(checkpoint: Checkpoint, processes: int) -> list[str]:
    """Return why so many processes cannot share a checkpoint's tensors."""
    from transformers import AutoConfig

    from vrbench.models.load import first_folder
    from vrbench.models.placement import sharing_errors

    config = AutoConfig.from_pretrained(
        first_folder(checkpoint), trust_remote_code=bool(checkpoint.root.code), local_files_only=True
    )
    return [f"{checkpoint.id}: {reason}" for reason in sharing_errors(config, processes)]


def _load_tasks(
    specs: Sequence[TaskSpec], data: LocatedData, config: RunConfig, errors: list[str]
) -> tuple[PlannedTask, ...]:
    """Load the tasks' items and add their errors; after an error only tasks whose data need no download."""
    tasks: list[PlannedTask] = []
    only_at_hand = bool(errors)
    for spec in specs:
        location = data.located.get(spec.id)
        if location is None or (only_at_hand and location.kind == "hub" and not is_cached(spec.data)):
            continue
        with collect_errors(errors):
            tasks.append(plan_task(spec, config, location))
    return tuple(tasks)


def _item_errors(run_plan: RunPlan, has_errors: bool) -> list[str]:
    """Return errors in items; nothing is checked where every checkpoint has a run of the same inputs."""
    folders = [] if has_errors else [run_plan.folder(checkpoint) for checkpoint in run_plan.checkpoints]
    if folders and all((folder / "run.json").is_file() for folder in folders):
        return []
    from vrbench.evaluation.definition_validation import validate_answer_length
    from vrbench.evaluation.item_validation import validate_items

    errors = [e for task in run_plan.tasks for e in validate_items(task.spec, task.subtasks, task.location)]
    if errors or has_errors:
        return errors
    decoders = {
        checkpoint.id: read_model_config(checkpoint.root.path)[2]
        for checkpoint in run_plan.checkpoints
        if checkpoint.root.has("config.json")
    }
    contexts = {name: length for name, decoder in decoders.items() if (length := stated_context(decoder))}
    return [
        *(error for task in run_plan.tasks for error in validate_answer_length(task.spec, contexts)),
        *vllm_checks.task_errors(run_plan.config, run_plan.checkpoints, [(t.spec, t.subtasks) for t in run_plan.tasks]),
    ]
