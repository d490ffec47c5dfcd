"""A plan in the making: each step once, whichever tables ask for it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from vrbench.core.io import digest_of
from vrbench.reproduce.estimate import items_of, minutes
from vrbench.reproduce.families import ReproductionFamily, Value
from vrbench.reproduce.plan import PlanStep, TableEntry
from vrbench.tasks.registry import TaskSpec

REFERENCE = re.compile(r"\{([a-z0-9][a-z0-9.-]*)\}")
"""How an argument names what another step makes."""

Kind = Literal["train", "layers", "prune", "restore", "run", "profile"]


@dataclass
class PlanBuilder:
    """Steps and entries that the tables add.

    Attributes:
        of: the family.
        n: layers of the region and of every other strategy.
        tasks: what is measured, as `vrbench run --tasks` reads it.
        specs: the same tasks.
        limit: items a task.
        training: recipe keys that all trainings share.
        healing: recipe keys that all short trainings after a removal share.
        pictures: dev pictures on which layers are looked at.
    """

    of: ReproductionFamily
    n: int
    tasks: str
    specs: tuple[TaskSpec, ...]
    limit: int | None
    training: dict[str, Value]
    healing: dict[str, Value]
    pictures: int
    base: str
    steps: dict[str, PlanStep] = field(default_factory=dict)
    entries: dict[TableEntry, None] = field(default_factory=dict)
    _same: dict[str, str] = field(default_factory=dict)

    def step(self, kind: Kind, name: str, arguments: dict[str, Value]) -> str:
        """Add a step, unless one does the same already; returns the name of the one that does it."""
        told = digest_of([kind, arguments])
        if told in self._same:
            return self._same[told]
        if name in self.steps:
            raise AssertionError(f"two different steps would be called {name}")
        needs = tuple(dict.fromkeys(r for v in arguments.values() for r in REFERENCE.findall(str(v))))
        items = items_of(self.specs_of(str(arguments["tasks"])), self.limit) if kind == "run" else 0
        cost = minutes(kind, arguments, self.of, items, self.n)
        self.steps[name] = PlanStep(name=name, kind=kind, needs=needs, arguments=arguments, minutes=cost)
        self._same[told] = name
        return name

    def specs_of(self, tasks: str) -> tuple[TaskSpec, ...]:
        """Those of the measured tasks that a step's text names: all, or some by their ids."""
        return self.specs if tasks == self.tasks else tuple(s for s in self.specs if s.id in tasks.split(","))

    def trained(self, name: str, seed: int, **own: Value) -> str:
        """A training; `own` are recipe keys with "__" for the dot."""
        keys = {key.replace("__", "."): value for key, value in own.items()}
        arguments: dict[str, Value] = {"recipe": self.of.recipe, **self.training, **keys, "seed": seed}
        return self.step("train", f"train-{name}-s{seed}", arguments)

    def healed(self, name: str, seed: int, pruned: str) -> str:
        """A short training of a pruned checkpoint."""
        arguments: dict[str, Value] = {
            "recipe": self.of.heal, **self.healing, "base": f"{{{pruned}}}", "stage": "heal", "seed": seed,
        }  # fmt: skip
        return self.step("train", f"heal-{name}-s{seed}", arguments)

    def measured(self, made: str) -> str:
        """The run of what a step makes."""
        return self._run(f"run-{made.removeprefix('train-')}", f"{{{made}}}", self.tasks)

    def base_measured(self) -> str | None:
        """The run of the base on the tasks that need no picture; none if there are no such tasks."""
        text = ",".join(spec.id for spec in self.specs if any(suite.endswith("text") for suite in spec.suites))
        return self._run("run-base", self.base, text) if text else None

    def _run(self, name: str, ckpt: str, tasks: str) -> str:
        limited: dict[str, Value] = {} if self.limit is None else {"limit": self.limit}
        return self.step("run", name, {"ckpt": ckpt, "tasks": tasks, **limited, "dtype": self.of.dtype})

    def enter(
        self, table: str, row: str, run: str, baseline: str, seed: int, series: str = "", x: float | None = None
    ) -> None:
        """Say where a run stands; saying it again changes nothing."""
        self.entries[TableEntry(table=table, row=row, series=series, x=x, seed=seed, run=run, baseline=baseline)] = None
