"""Which step comes next: what stands before the longest chain of steps first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch

from vrbench.core.errors import VrbenchError
from vrbench.reproduce.plan import Plan, PlanStep

ALONE = ("profile",)
"""Kinds of steps that measure time and memory: nothing else may run meanwhile, so they come last."""


def chosen(plan: Plan, globs: str) -> set[str]:
    """The names of the steps that fit one of some comma-separated globs, and of all steps below them.

    Raises:
        VrbenchError: a glob that none fits.
    """
    steps = {step.name: step for step in plan.steps}
    found: set[str] = set()
    for glob in globs.split(","):
        fitting = {name for name in steps if fnmatch(name, glob.strip())}
        if not fitting:
            raise VrbenchError(f"no step fits {glob!r}; `--dry-run` shows what there is, such as {plan.steps[0].name}")
        found |= fitting
    return found | below(steps, found)


def below(steps: dict[str, PlanStep], names: Iterable[str]) -> set[str]:
    """All steps that some steps need, and those that these need, and so on."""
    found: set[str] = set()
    left = [need for name in names for need in steps[name].needs]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += steps[name].needs
    return found


class StepQueue:
    """Steps that are still to be done.

    Attributes:
        running: names of those that were given out and have not ended.
    """

    def __init__(self, steps: Sequence[PlanStep], done: Iterable[str]) -> None:
        """Args: the steps, in an order in which they can be done; and the names of those that are done."""
        self._left = {step.name: step for step in steps}
        self._done = set(done)
        self._chains = _chains(steps)
        self._kinds = {step.name: step.kind for step in steps}
        self.running: set[str] = set()

    def __len__(self) -> int:
        return len(self._left)

    def next(self) -> str | None:
        """Give out the step that can be done now and that most minutes of steps depend on; none if there is none."""
        if any(self._kinds[name] in ALONE for name in self.running):
            return None
        ready = [name for name, step in self._left.items() if self._done.issuperset(step.needs)]
        together = [name for name in ready if self._kinds[name] not in ALONE]
        if not together and (self.running or any(self._kinds[name] not in ALONE for name in self._left)):
            return None
        if not (together or ready):
            return None
        best = max(together or ready, key=lambda name: self._chains[name])
        del self._left[best]
        self.running.add(best)
        return best

    def succeeded(self, name: str) -> None:
        """Say that a step is done."""
        self.running.remove(name)
        self._done.add(name)

    def failed(self, name: str) -> list[str]:
        """Say that a step failed; returns the steps that are left out since they need it, directly or not."""
        self.running.remove(name)
        lost, skipped = {name}, []
        for other, step in list(self._left.items()):  # in an order in which they could be done
            if lost.intersection(step.needs):
                lost.add(other)
                skipped.append(other)
                del self._left[other]
        return skipped


def _chains(steps: Sequence[PlanStep]) -> dict[str, float]:
    """Step -> minutes of the longest chain of steps that begins with it."""
    chains = {step.name: step.minutes for step in steps}
    minutes = dict(chains)
    for step in reversed(steps):
        for need in step.needs:
            if need in chains:
                chains[need] = max(chains[need], minutes[need] + chains[step.name])
    return chains
