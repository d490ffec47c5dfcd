"""Why a plan cannot be executed here: all of it at once, before anything is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vrbench.cli.reproduce_steps import as_overrides
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.data import missing
from vrbench.reproduce.draft import REFERENCE
from vrbench.reproduce.families import Value, family
from vrbench.reproduce.plan import Plan
from vrbench.tasks import registry


def faults(plan: Plan, device: str, data_root: str) -> list[str]:
    """What is wrong with recipes, training data, base, measured data and device, one sentence each."""
    from vrbench.core.device import validate_device

    found = validate_device(device)
    if not found and any(step.kind == "profile" for step in plan.steps):
        found += _profile_faults(device)
    found += _recipe_faults(plan)
    found += _base_faults(plan, bool(data_root))
    found += _task_faults(plan, data_root)
    return list(dict.fromkeys(found))


def _profile_faults(device: str) -> list[str]:
    from vrbench.core.device import resolve_device

    if resolve_device(device) == "cuda":
        return []
    return ["table profile measures true shapes on a card, and there is none; name the other tables"]


def _recipe_faults(plan: Plan) -> Iterator[str]:
    """Every recipe, with what is not made yet left as the recipe has it; each kind of training is looked at once."""
    from vrbench.training import load

    base = _base(plan)
    looked: set[tuple[tuple[str, Value], ...]] = set()
    for step in (step for step in plan.steps if step.kind == "train"):
        keys = {k: v for k, v in step.arguments.items() if k != "seed" and not REFERENCE.fullmatch(str(v))}
        keys["base"] = base  # or what is made of it
        same = tuple(sorted(keys.items(), key=str))
        if same in looked:
            continue
        looked.add(same)
        try:
            recipe = load(str(keys.pop("recipe")), as_overrides(keys))
        except VrbenchError as error:
            yield from error_messages(error)
        else:
            yield from recipe.unset_paths()
            yield from _missing_data(recipe.data)


def _missing_data(section: Any) -> Iterator[str]:
    """Files of conversations that are named and not there."""
    for key in ("conversations", "images"):
        path = getattr(section, key, None)
        if path and not Path(path).expanduser().exists():
            yield f"data.{key} is {path!r}, which is not there; give it with --set data.{key}=PATH"


def _base(plan: Plan) -> str:
    return plan.overrides.get("base", family(plan.family).base)


def _base_faults(plan: Plan, offline: bool) -> Iterator[str]:
    from vrbench.checkpoints.resolve import faults as checkpoint_faults

    base = _base(plan)
    hint = "" if "base" in plan.overrides else "; give it with --set base=FOLDER"
    yield from (f"base: {fault}{hint}" for fault in checkpoint_faults(base, offline=offline))


def _task_faults(plan: Plan, data_root: str) -> Iterator[str]:
    looked = missing.locate_all(registry.select_runnable(plan.tasks, registry.load())[0], data_root or None)
    yield from (*looked.faults, *missing.told(looked.missing))
