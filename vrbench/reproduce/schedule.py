"""Which steps of a plan are done, in which order, and which are repeated because a checkpoint's weights are gone."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

from vrbench.core.errors import VrbenchError
from vrbench.reproduce.plan import CHECKPOINT_KINDS, Plan, PlanStep, record_file

EXCLUSIVE_KINDS = ("profile",)
"""Kinds of steps that measure time and memory: nothing else runs meanwhile, so they come last."""

KEPT_FILES = ("vrbench.json", "recipe.yaml", "config.json", "adapter_config.json")
"""What stays of a discarded checkpoint: how it was made, and what it is."""

DISCARDED = "discarded"
"""Marker file of a checkpoint whose weights were removed."""


def select_steps(plan: Plan, globs: str) -> set[str]:
    """Return the steps that match one of some comma-separated globs, and all that they need.

    Raises:
        VrbenchError: a glob that matches no step.
    """
    steps = {step.name: step for step in plan.steps}
    found: set[str] = set()
    for glob in globs.split(","):
        matching = {name for name in steps if fnmatch(name, glob.strip())}
        if not matching:
            raise VrbenchError(f"no step fits {glob!r}; `--dry-run` shows what there is, such as {plan.steps[0].name}")
        found |= matching
    return found | _requirements(steps, found)


def _requirements(steps: Mapping[str, PlanStep], names: Iterable[str], kinds: Collection[str] = ()) -> set[str]:
    """Return all steps that some steps need, directly or not; with `kinds`, only through steps of these kinds."""
    found: set[str] = set()
    left = [need for name in names for need in steps[name].needs]
    while left:
        name = left.pop()
        if name not in found and (not kinds or steps[name].kind in kinds):
            found.add(name)
            left += steps[name].needs
    return found


class StepQueue:
    """Steps that are still to be done; the one with the longest chain of steps behind it comes first.

    Attributes:
        running: names of the steps that were given out and have not ended.
    """

    def __init__(self, steps: Sequence[PlanStep]) -> None:
        """Take the steps that are not done, in an order in which they can be done."""
        self._left = {step.name: step for step in steps}
        self._exclusive = {step.name for step in steps if step.kind in EXCLUSIVE_KINDS}
        self._sorter = TopologicalSorter({step.name: self._left.keys() & set(step.needs) for step in steps})
        self._sorter.prepare()
        self._ready: list[str] = []
        self._chains = dict.fromkeys(self._left, 0.0)  # minutes of the longest chain that begins with a step
        for step in reversed(steps):
            self._chains[step.name] += step.minutes
            for need in self._left.keys() & set(step.needs):
                self._chains[need] = max(self._chains[need], self._chains[step.name])
        self.running: set[str] = set()

    def __len__(self) -> int:
        return len(self._left)

    def next(self) -> str | None:
        """Give out a step that can be done now; None if there is none."""
        self._ready += self._sorter.get_ready()
        candidates = [name for name in self._ready if name not in self._exclusive]
        if self.running & self._exclusive or not (candidates or self._ready) or (self.running and not candidates):
            return None
        best = max(candidates or self._ready, key=lambda name: self._chains[name])
        self._ready.remove(best)
        del self._left[best]
        self.running.add(best)
        return best

    def succeed(self, name: str) -> None:
        """Record that a step is done."""
        self.running.remove(name)
        self._sorter.done(name)

    def fail(self, name: str) -> list[str]:
        """Record that a step failed; returns the steps that are skipped since they need it, directly or not."""
        self.running.remove(name)
        lost, skipped = {name}, []
        for other, step in self._left.items():  # in an order in which they could be done
            if lost.intersection(step.needs):
                lost.add(other)
                skipped.append(other)
        for other in skipped:
            del self._left[other]
        return skipped


def steps_to_repeat(plan: Plan, folder: Path, wanted: Iterable[str], done: Collection[str]) -> list[str]:
    """Return the done steps that have to be done again, in the plan's order, whether they are wanted or not.

    They are checkpoints that the remaining steps need and whose weights are missing, since they were discarded or the
    folder holds published records; and every step that rests on those: trained again on a GPU, a checkpoint is not the
    same to the last bit, and its runs and removal orders would be another's.
    """
    steps = {step.name: step for step in plan.steps}
    left = {name for name in wanted if name not in done}
    found: set[str] = set()
    while True:
        needed = _requirements(steps, left | found, CHECKPOINT_KINDS)
        now = {name for name in needed.intersection(done) if not has_weights(steps[name].output(folder))}
        for name, step in steps.items():
            if name in done and now.intersection(step.needs):
                now.add(name)
        if now == found:
            return [name for name in steps if name in found]
        found = now


def reset_step(step: PlanStep, folder: Path) -> None:
    """Remove a step's record and output, so that it is done again."""
    record_file(step.name, folder).unlink(missing_ok=True)
    _remove(step.output(folder))


def discard_weights(plan: Plan, folder: Path, done: Collection[str]) -> None:
    """Remove the weights of done checkpoints that no remaining step of the plan needs."""
    steps = {step.name: step for step in plan.steps}
    needed = _requirements(steps, [name for name in steps if name not in done], CHECKPOINT_KINDS)
    for name in done:
        checkpoint = steps[name].output(folder)
        if steps[name].kind in CHECKPOINT_KINDS and name not in needed and has_weights(checkpoint):
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
