"""Which steps of a plan are still to be done, and which are repeated because a checkpoint's weights are gone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from vrbench.core.errors import VrbenchError
from vrbench.reproduce.packing import RecordFolder
from vrbench.reproduce.plan import CHECKPOINT_KINDS, Plan, PlanStep, finished_steps, merge_with_stored, record_file

KEPT_FILES = ("vrbench.json", "recipe.yaml", "config.json", "adapter_config.json")
"""What stays of a discarded checkpoint: how it was made, and what it is."""

DISCARDED = "discarded"
"""Marker file of a checkpoint whose weights were removed."""


@dataclass(frozen=True)
class RemainingWork:
    """What there is to do in a plan's folder.

    Attributes:
        plan: the plan, with what the folder's own plan has besides.
        steps: its steps that are wanted or repeated, in an order in which they can be done.
        done: names of all steps of the plan that are done, except those that are repeated.
        repeated: steps that are done and have to be done again.
    """

    plan: Plan
    steps: tuple[PlanStep, ...]
    done: frozenset[str]
    repeated: tuple[PlanStep, ...]

    @property
    def left(self) -> list[PlanStep]:
        """The steps that are to be done now."""
        return [step for step in self.steps if step.name not in self.done]


def remaining_work(plan: Plan, folder: Path, globs: str) -> RemainingWork:
    """Return what there is to do in a folder for the steps of a plan that match some globs.

    Raises:
        VrbenchError: the folder holds another plan, or a glob matches no step.
    """
    whole = merge_with_stored(plan, folder)
    done, wanted = set(finished_steps(whole, RecordFolder(folder))), select_steps(plan, globs)
    repeated = steps_to_repeat(whole, folder, wanted - done, done)
    return RemainingWork(
        whole, tuple(step for step in whole.steps if step.name in wanted | repeated), frozenset(done - repeated),
        tuple(step for step in whole.steps if step.name in repeated),
    )  # fmt: skip


def select_steps(plan: Plan, globs: str) -> set[str]:
    """Return the steps that match one of some comma-separated globs, and all that they need.

    Raises:
        VrbenchError: a glob that matches no step.
    """
    found: set[str] = set()
    for glob in globs.split(","):
        matching = {step.name for step in plan.steps if fnmatch(step.name, glob.strip())}
        if not matching:
            raise VrbenchError(f"no step fits {glob!r}; `--dry-run` shows what there is, such as {plan.steps[0].name}")
        found |= matching
    return found | plan.requirements(found)


def chain_minutes(steps: Sequence[PlanStep]) -> dict[str, float]:
    """Return step -> minutes of the longest chain of steps that begins with it; `steps` are in an order for doing."""
    found: dict[str, float] = {}
    for step in reversed(steps):
        after = (found[other.name] for other in steps if step.name in other.needs)
        found[step.name] = step.minutes + max(after, default=0.0)
    return found


def steps_to_repeat(plan: Plan, folder: Path, left: set[str], done: set[str]) -> set[str]:
    """Return the done steps that have to be done again, whether they are wanted or not.

    They are checkpoints that the remaining steps need and whose weights are missing, since they were discarded or the
    folder holds published records; and every step that rests on those: trained again on a GPU, a checkpoint is not the
    same to the last bit, and its runs and removal orders would be another's.
    """
    steps = {step.name: step for step in plan.steps}
    found: set[str] = set()
    while True:
        needed = plan.requirements(left | found, CHECKPOINT_KINDS)
        now = {name for name in needed & done if not has_weights(steps[name].output(folder))}
        for name, step in steps.items():
            if name in done and now.intersection(step.needs):
                now.add(name)
        if now == found:
            return found
        found = now


def reset_step(step: PlanStep, folder: Path) -> None:
    """Remove a step's record and output, so that it is done again."""
    record_file(step.name, folder).unlink(missing_ok=True)
    _remove(step.output(folder))


def discard_weights(plan: Plan, folder: Path, done: set[str]) -> None:
    """Remove the weights of done checkpoints that no remaining step of the plan needs."""
    steps = {step.name: step for step in plan.steps}
    needed = plan.requirements(steps.keys() - done, CHECKPOINT_KINDS)
    for name in done - needed:
        checkpoint = steps[name].output(folder)
        if steps[name].kind in CHECKPOINT_KINDS and has_weights(checkpoint):
            (checkpoint / DISCARDED).touch()
            for path in checkpoint.iterdir():
                if path.name not in (*KEPT_FILES, DISCARDED):
                    _remove(path)


def has_weights(checkpoint: Path) -> bool:
    """Return whether a checkpoint's folder exists with its weights."""
    return checkpoint.is_dir() and not (checkpoint / DISCARDED).exists()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
