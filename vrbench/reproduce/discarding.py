"""Checkpoints whose weights were removed to save disk, and what has to be made again because of that."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from vrbench.reproduce.plan import Plan, PlanStep
from vrbench.reproduce.plan_folder import CHECKPOINTS, done_file, made_by

KEPT = ("vrbench.json", "recipe.yaml", "config.json", "adapter_config.json")
"""What stays of a checkpoint: how it was made, and what it is."""

MARK = "discarded"
"""A file beside them: the weights were there."""


def discard(plan: Plan, folder: Path, done: set[str]) -> list[str]:
    """Remove the weights of checkpoints that no step of the plan needs any more; returns their steps' names."""
    steps = {step.name: step for step in plan.steps}
    needed = _needed(steps, [name for name in steps if name not in done])
    removed = []
    for name in done:
        target = made_by(steps[name], folder)
        if steps[name].kind in CHECKPOINTS and name not in needed and has_weights(target):
            _strip(target)
            removed.append(name)
    return removed


def again(plan: Plan, folder: Path, wanted: Iterable[str], done: set[str]) -> list[str]:
    """The done steps that have to be done again, in the plan's order, whether they are wanted or not.

    They are checkpoints that the steps left need and whose weights are not there, as they were removed or the folder
    holds committed records; and all that rests on those: trained again on a card, a checkpoint is not the same to the
    last bit, and its runs and the orders of its layers would be another's.
    """
    steps = {step.name: step for step in plan.steps}
    left = {name for name in wanted if name not in done}
    found: set[str] = set()
    while True:
        needed = _needed(steps, left | found)
        now = {name for name in needed & done if not has_weights(made_by(steps[name], folder))}
        for name, step in steps.items():
            if name in done and now.intersection(step.needs):
                now.add(name)
        if now == found:
            return [name for name in steps if name in found]
        found = now


def forget(step: PlanStep, folder: Path) -> None:
    """Make a step one that is to be done again, without what it made."""
    done_file(step.name, folder).unlink(missing_ok=True)
    made = made_by(step, folder)
    if made.is_dir():
        shutil.rmtree(made)
    else:
        made.unlink(missing_ok=True)


def has_weights(target: Path) -> bool:
    """Whether a checkpoint's folder is there with its weights."""
    return target.is_dir() and not (target / MARK).exists()


def _needed(steps: dict[str, PlanStep], left: Iterable[str]) -> set[str]:
    """Checkpoints that the steps left need: their own, and those that these are put on."""
    found: set[str] = set()
    open_ = [need for name in left for need in steps[name].needs]
    while open_:
        name = open_.pop()
        if name not in found and steps[name].kind in CHECKPOINTS:
            found.add(name)
            open_ += steps[name].needs
    return found


def _strip(target: Path) -> None:
    (target / MARK).touch()
    for path in target.iterdir():
        if path.name in (*KEPT, MARK):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
