"""A plan: the steps that make the checkpoints of some tables and evaluate them, and the folder that holds the results.

    plan.json              the `Plan`
    checkpoints/<step>/    what trainings, prunings and restorings made; not published
    layers/<step>.json     layer sets with their scores
    orders/<step>.json     removal orders; of kind "layers" too
    logs/<step>.log        what steps printed; not published
    done/<step>.json       a `StepRecord` for each finished step, written last
    runs/<step>/           a run's record and its items' scores, as `vrbench.core.run_storage.save_run` writes them
    profile.json           time and memory at true shapes
    report.md, ...         the tables, made of the files above alone

`vrbench.reproduce.packing` packs done/, layers/, orders/ and runs/ into two files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import digest_of, write_atomically
from vrbench.core.run_storage import read_record
from vrbench.core.schemas import SCHEMA_VERSION, Provenance, Record
from vrbench.reproduce.packing import RecordFolder

PLAN_FILE = "plan.json"
MIN_STEPS = 50
"""With fewer training steps nothing is learned: a plan is a trial, with small batches and few images too."""

StepKind = Literal["train", "layers", "prune", "restore", "run", "profile"]

CHECKPOINT_KINDS = ("train", "prune", "restore")
"""Kinds of steps that make a checkpoint."""


class TableEntry(Record):
    """One measured cell: the run, its place in a table, and the baseline that it is compared with."""

    table: str = Field(description="Key of `vrbench.reproduce.tables.TABLES`, such as 'strategies' or 'pruning'.")
    row: str = Field(description="Label of the row, such as 'sparse-uniform' or '8 layers'.")
    series: str = Field(default="", description="Curve that the row is a point of, such as 'region, by loss'.")
    x: float | None = Field(default=None, description="Point on it: layers tuned, layers removed, % of the data.")
    seed: int = Field(description="Seed of the training behind the run.")
    run: str = Field(description="Name of the step of kind 'run'.")
    baseline: str = Field(description="Name of the baseline's step of kind 'run', of the same seed.")


class PlanStep(Record):
    """One step, done once for all tables that need it."""

    name: str = Field(pattern=r"[a-z0-9][a-z0-9.-]*", description="Unique; names its files.")
    kind: StepKind = Field(description="Which command does it.")
    needs: tuple[str, ...] = Field(default=(), description="Steps that must be done first.")
    arguments: dict[str, str | int | float | bool] = Field(description="Arguments; {STEP} stands for a step's output.")
    minutes: float = Field(default=0.0, description="Estimated GPU minutes; 0 if unknown.")

    def output(self, folder: Path) -> Path:
        """Return the path of what the step makes in a plan's folder."""
        if self.kind in CHECKPOINT_KINDS:
            return folder / "checkpoints" / self.name
        if self.kind == "layers":
            return folder / ("orders" if "most" in self.arguments else "layers") / f"{self.name}.json"
        return folder / "runs" / self.name if self.kind == "run" else folder / "profile.json"


class Plan(Record):
    """The steps of some tables at one scale, and the cells that their results belong to."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    family: str = Field(description="'pocket', 'llava-1.5-7b' or 'bunny-llama-3-8b'.")
    tables: tuple[str, ...] = Field(description="The requested tables.")
    seeds: tuple[int, ...] = Field(description="Seeds of trainings.")
    tasks: str = Field(description="Evaluated tasks, as `vrbench run --tasks` reads them.")
    limit: int | None = Field(default=None, description="Items a task, if limited.")
    overrides: dict[str, str] = Field(default={}, description="Recipe keys that were set for all trainings.")
    steps: tuple[PlanStep, ...] = Field(description="In an order in which they can be done.")
    entries: tuple[TableEntry, ...] = Field(description="Cells of the tables.")

    @property
    def is_trial(self) -> bool:
        """Whether the trainings are too short to learn anything."""
        return is_trial(self.overrides)

    def requirements(self, names: Iterable[str], kinds: Collection[str] = ()) -> set[str]:
        """Return all steps that some steps need, directly or not; with `kinds`, only through steps of these kinds."""
        steps = {step.name: step for step in self.steps}
        found: set[str] = set()
        left = [need for name in names for need in steps[name].needs]
        while left:
            name = left.pop()
            if name not in found and (not kinds or steps[name].kind in kinds):
                found.add(name)
                left += steps[name].needs
        return found


def is_trial(overrides: Mapping[str, str]) -> bool:
    """Return whether the recipe keys of all trainings make them too short to learn anything."""
    steps = overrides.get("tune.steps", "")
    return steps.isdigit() and int(steps) < MIN_STEPS


class StepRecord(Record):
    """A finished step: written last, so that its existence means that the step's files are complete."""

    step: str = Field(description="Name of the step.")
    digest: str = Field(description="sha256 of the step and of all steps that it rests on; see `step_digests`.")
    seconds: float = Field(description="Wall time.")
    device: str = Field(default="", description="GPU, or processor and threads.")
    peak_gib: float | None = Field(default=None, description="Peak GPU memory, GiB.")
    provenance: Provenance = Field(description="How it was made.")


def record_file(name: str, folder: Path) -> Path:
    """Return the path of a step's `StepRecord`."""
    return folder / "done" / f"{name}.json"


def log_file(name: str, folder: Path) -> Path:
    """Return the path of what a step printed."""
    return folder / "logs" / f"{name}.log"


def step_digests(plan: Plan) -> dict[str, str]:
    """Return step -> sha256 of its kind and arguments and of the steps that it needs; estimates do not count."""
    found: dict[str, str] = {}
    for step in plan.steps:
        found[step.name] = digest_of([step.kind, step.arguments, [found[name] for name in step.needs]])
    return found


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from working in a plan's folder.

    Raises:
        VrbenchError: another process is working there.
    """
    try:
        held = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        raise VrbenchError(f"another process is at work in {folder}; wait for it, or name another --out") from None
    with held:
        yield


def load_plan(folder: Path) -> Plan:
    """Read the plan of a folder.

    Raises:
        VrbenchError: there is none, or it cannot be read.
    """
    if not (folder / PLAN_FILE).is_file():
        raise VrbenchError(f"no plan in {folder}; `vrbench reproduce` makes one")
    return read_record(folder / PLAN_FILE, Plan)


def save_plan(plan: Plan, folder: Path) -> None:
    """Write plan.json."""
    write_atomically(folder / PLAN_FILE, plan.model_dump_json(indent=1) + "\n")


def merge_with_stored(plan: Plan, folder: Path) -> Plan:
    """Return the plan together with what the folder's own plan has besides, if there is one.

    Raises:
        VrbenchError: the two differ in a setting or in a step that both have.
    """
    if not (folder / PLAN_FILE).is_file():
        return plan
    stored = load_plan(folder)
    raise_errors(f"{folder} holds another plan: {what}; name another --out" for what in _differences(stored, plan))
    steps = {step.name: step for step in (*stored.steps, *plan.steps)}  # the newer estimates, the older order
    return plan.model_copy(
        update={
            "tables": tuple(dict.fromkeys((*stored.tables, *plan.tables))),
            "seeds": tuple(sorted({*stored.seeds, *plan.seeds})),
            "steps": tuple(steps.values()),
            "entries": tuple(dict.fromkeys((*stored.entries, *plan.entries))),
        }
    )


def _differences(stored: Plan, plan: Plan) -> list[str]:
    """Return the settings that differ, or else the first difference in a step that both have."""
    old, new = ({**p.model_dump(include={"family", "tasks", "limit"}), **p.overrides} for p in (stored, plan))
    if changed := list(_changes(old, new)):
        return changed  # the steps differ because of them
    steps = {step.name: step for step in stored.steps}
    for step in (step for step in plan.steps if step.name in steps):
        changed += islice(_changes(_content(steps[step.name]), _content(step), f" of {step.name}"), 1)
    more = f", and {len(changed) - 1} more steps differ" if len(changed) > 1 else ""
    return [f"{changed[0]}{more}"] if changed else []


def _changes(there: Mapping[str, Any], here: Mapping[str, Any], of: str = "") -> Iterator[str]:
    for key in {**there, **here}:
        if there.get(key) != here.get(key):
            texts = ["not set" if found.get(key) is None else found[key] for found in (there, here)]
            yield f"{key}{of} is {texts[0]} there, {texts[1]} here"


def _content(step: PlanStep) -> dict[str, Any]:
    return {**step.arguments, "kind": step.kind, "needs": step.needs}


def finished_steps(plan: Plan, records: RecordFolder) -> dict[str, StepRecord]:
    """Return the records of the steps that are done.

    Raises:
        VrbenchError: a step was done for another plan.
    """
    found: dict[str, StepRecord] = {}
    for name, digest in step_digests(plan).items():
        file = record_file(name, records.folder)
        try:
            text = records.text(str(file.relative_to(records.folder)))
            if text is None:
                continue
            found[name] = StepRecord.model_validate_json(text)
        except (UnicodeDecodeError, ValidationError) as error:
            raise VrbenchError(f"{file} cannot be read: {error}; remove it to do the step again") from error
        if found[name].digest != digest:
            raise VrbenchError(f"{file} was written for another plan; name another --out")
    return found
