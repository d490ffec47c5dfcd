"""A plan's folder: what lies where, which steps are done, and the refusal of another plan in the same place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import digest_of, read_text, write_atomically
from vrbench.core.schemas import SCHEMA_VERSION
from vrbench.reproduce.packing import RecordFolder
from vrbench.reproduce.plan import Plan, PlanStep, StepRecord

PLAN = "plan.json"
CHECKPOINTS = ("train", "prune", "restore")
"""Kinds of steps that make a checkpoint."""


def made_by(step: PlanStep, folder: Path) -> Path:
    """What a step makes: a checkpoint folder, a layer set's or an order's file, a run's folder, or the profile."""
    if step.kind in CHECKPOINTS:
        return folder / "checkpoints" / step.name
    if step.kind == "layers":
        return folder / ("orders" if "most" in step.arguments else "layers") / f"{step.name}.json"
    return folder / "runs" / step.name if step.kind == "run" else folder / "profile.json"


def done_file(name: str, folder: Path) -> Path:
    """The file whose existence means that a step's files are whole."""
    return folder / "done" / f"{name}.json"


def log_file(name: str, folder: Path) -> Path:
    """What a step printed."""
    return folder / "logs" / f"{name}.log"


def digests(plan: Plan) -> dict[str, str]:
    """Step -> sha256 of what it does and of the steps below it; not of estimates."""
    found: dict[str, str] = {}
    for step in plan.steps:
        found[step.name] = digest_of([step.kind, step.arguments, [found[name] for name in step.needs]])
    return found


def load_plan(folder: Path) -> Plan:
    """The plan of a folder.

    Raises:
        VrbenchError: there is none, or it cannot be read.
    """
    file = folder / PLAN
    try:
        plan = Plan.model_validate_json(read_text(file))
    except FileNotFoundError:
        raise VrbenchError(f"no plan in {folder}; `vrbench reproduce` makes one") from None
    except (UnicodeDecodeError, ValidationError) as error:
        raise VrbenchError(f"{file} cannot be read: {error}") from error
    if plan.schema_version != SCHEMA_VERSION:
        raise VrbenchError(f"{file} has schema version {plan.schema_version}; this vrbench reads {SCHEMA_VERSION}")
    return plan


def joined(plan: Plan, folder: Path) -> Plan:
    """The plan with what a folder's own plan has besides; the same plan where the folder has none.

    Raises:
        VrbenchError: the two do something differently; each difference is told.
    """
    if not (folder / PLAN).is_file():
        return plan
    before = load_plan(folder)
    raise_errors(f"{folder} holds another plan: {what}; name another --out" for what in _differences(before, plan))
    steps = {step.name: step for step in (*before.steps, *plan.steps)}  # the newer estimates, the older order
    return plan.model_copy(
        update={
            "tables": tuple(dict.fromkeys((*before.tables, *plan.tables))),
            "seeds": tuple(sorted({*before.seeds, *plan.seeds})),
            "steps": tuple(steps.values()),
            "entries": tuple(dict.fromkeys((*before.entries, *plan.entries))),
        }
    )


def _differences(before: Plan, now: Plan) -> Iterator[str]:
    """What two plans do differently, beside steps that only one of them has."""
    told = False
    for key in ("family", "tasks", "limit"):
        there, here = getattr(before, key), getattr(now, key)
        if there != here:
            told = True
            yield f"{key} is {_word(there)} there, {_word(here)} here"
    for key in sorted({*before.overrides, *now.overrides}):
        there, here = before.overrides.get(key), now.overrides.get(key)
        if there != here:
            told = True
            yield f"{key} is {_word(there)} there, {_word(here)} here"
    if told:
        return  # the steps differ for these reasons
    old, new = ({step.name: step for step in plan.steps} for plan in (before, now))
    different = [name for name in new if name in old and _content(new[name]) != _content(old[name])]
    if different:
        there, here = old[different[0]].arguments, new[different[0]].arguments
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        key = keys[0] if keys else "what it needs"
        more = f", and {len(different) - 1} more steps differ" if len(different) > 1 else ""
        yield f"{key} of {different[0]} is {_word(there.get(key))} there, {_word(here.get(key))} here{more}"


def _content(step: PlanStep) -> dict[str, Any]:
    return step.model_dump(exclude={"minutes"})


def _word(value: Any) -> str:
    return "not set" if value is None else str(value)


def store(plan: Plan, folder: Path) -> None:
    """Write plan.json."""
    write_atomically(folder / PLAN, plan.model_dump_json(indent=1) + "\n")


def finished(plan: Plan, records: RecordFolder) -> dict[str, StepRecord]:
    """The steps that are done.

    Raises:
        VrbenchError: a step was done as another plan had it.
    """
    found: dict[str, StepRecord] = {}
    wanted = digests(plan)
    for name, digest in wanted.items():
        file = done_file(name, records.folder)
        try:
            text = records.text(str(file.relative_to(records.folder)))
            if text is None:
                continue
            done = StepRecord.model_validate_json(text)
        except (UnicodeDecodeError, ValidationError) as error:
            raise VrbenchError(f"{file} cannot be read: {error}; remove it to do the step again") from error
        if done.digest != digest:
            raise VrbenchError(f"{file} was written for another plan; name another --out")
        found[name] = done
    return found
