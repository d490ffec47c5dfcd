"""Building a plan: each step once, whichever tables need it, with an estimate of its minutes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vrbench.core.errors import VrbenchError
from vrbench.core.io import digest_of
from vrbench.core.layers import select_layers
from vrbench.reproduce.families import ReproductionFamily, StepCosts, Value
from vrbench.reproduce.plan import PlanStep, StepKind, TableEntry
from vrbench.tasks.spec import TaskSpec

REFERENCE = re.compile(r"\{([a-z0-9][a-z0-9.-]*)\}")
"""How an argument names another step's output."""

TRIED_BY = ("loss", "divergence-lazy")
"""Scores that try layers one by one; the first in as many rounds as layers are removed."""


@dataclass
class PlanBuilder:
    """Steps and table entries that the experiments add.

    Attributes:
        family: the scale.
        n: layers of the region and of every other strategy.
        tasks: what is evaluated, as `vrbench run --tasks` reads it.
        specs: the same tasks.
        limit: items per task.
        training: recipe keys that all trainings share.
        healing: recipe keys that all short trainings after a removal share.
        images: dev images that layers are scored on.
        seed: of the trainings that are added next.
    """

    family: ReproductionFamily
    n: int
    tasks: str
    specs: tuple[TaskSpec, ...]
    limit: int | None
    training: dict[str, Value]
    healing: dict[str, Value]
    images: int
    seed: int = 0
    steps: dict[str, PlanStep] = field(default_factory=dict)
    entries: dict[TableEntry, None] = field(default_factory=dict)
    _by_content: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The checkpoint that every training starts from."""
        return str(self.training["base"])

    def step(self, kind: StepKind, name: str, arguments: dict[str, Value]) -> str:
        """Add a step, unless one does the same already; returns the name of the one that does it."""
        content = digest_of([kind, arguments])
        if content in self._by_content:
            return self._by_content[content]
        if name in self.steps:
            raise AssertionError(f"two different steps would be called {name}")
        needs = tuple(dict.fromkeys(r for v in arguments.values() for r in REFERENCE.findall(str(v))))
        items = self._items(str(arguments["tasks"])) if kind == "run" else 0
        minutes = step_minutes(kind, arguments, self.family, items, self.n)
        self.steps[name] = PlanStep(name=name, kind=kind, needs=needs, arguments=arguments, minutes=minutes)
        self._by_content[content] = name
        return name

    def _items(self, tasks: str) -> int:
        """Return items of all tasks, or of some that are named by their ids."""
        specs = [s for s in self.specs if tasks == self.tasks or s.id in tasks.split(",")]
        return sum(min(spec.n, self.limit or spec.n) for spec in specs)

    def train(self, name: str, **own: Value) -> str:
        """Add a training; `own` are recipe keys with "__" for the dot."""
        keys = {key.replace("__", "."): value for key, value in own.items()}
        arguments: dict[str, Value] = {"recipe": self.family.recipe, **self.training, **keys, "seed": self.seed}
        return self.step("train", f"train-{name}-s{self.seed}", arguments)

    def full(self) -> str:
        """Add the training of all layers, with which all models of the same seed are compared."""
        return self.train("full", tune__layers="all")

    def spread(self, n: int) -> str:
        """Return layers that are spread evenly: the published region if it has as many, else a guess."""
        region = self.family.region
        is_published = bool(region) and len(select_layers(region, self.family.depth)) == n
        return region if is_published else f"sparse-uniform:{n}"

    def uniform(self, n: int) -> str:
        """Add the training of some layers that are spread evenly."""
        return self.train(f"sparse-uniform-{n}", tune__layers=self.spread(n))

    def heal(self, name: str, pruned: str) -> str:
        """Add a short training of a pruned checkpoint."""
        arguments: dict[str, Value] = {
            "recipe": self.family.heal, **self.healing, "base": f"{{{pruned}}}", "stage": "heal", "seed": self.seed,
        }  # fmt: skip
        return self.step("train", f"heal-{name}-s{self.seed}", arguments)

    def run(self, checkpoint: str) -> str:
        """Add the evaluation of a step's checkpoint."""
        return self._run(f"run-{checkpoint.removeprefix('train-')}", f"{{{checkpoint}}}", self.tasks)

    def _run(self, name: str, ckpt: str, tasks: str) -> str:
        limited: dict[str, Value] = {} if self.limit is None else {"limit": self.limit}
        return self.step("run", name, {"ckpt": ckpt, "tasks": tasks, **limited, "dtype": self.family.dtype})

    def enter(self, table: str, row: str, checkpoint: str, series: str = "", x: float | None = None) -> None:
        """Put the evaluation of a step's checkpoint into a table; a second time changes nothing."""
        self._enter(table, row, self.run(checkpoint), series, x)

    def enter_base(self, table: str, row: str) -> None:
        """Put the evaluation of the base into a table: on the tasks without images, if there are such tasks."""
        text = ",".join(spec.id for spec in self.specs if any(suite.endswith("text") for suite in spec.suites))
        if text:
            self._enter(table, row, self._run("run-base", self.base, text), "", None)

    def _enter(self, table: str, row: str, run: str, series: str, x: float | None) -> None:
        baseline = self.run(self.full())
        entry = TableEntry(table=table, row=row, series=series, x=x, seed=self.seed, run=run, baseline=baseline)
        self.entries[entry] = None


def step_minutes(kind: str, arguments: Mapping[str, Value], family: ReproductionFamily, items: int, n: int) -> float:
    """Return the GPU minutes that a step takes when it has a GPU to itself.

    Args:
        kind: of the step.
        arguments: of the step.
        family: its family, with measured costs.
        items: evaluated items of a step of kind "run".
        n: layers of a set that a step of kind "layers" selects.
    """
    costs = family.costs
    if kind == "train":
        steps = _samples(arguments, family) / costs.batch
        layers = str(arguments.get("tune.layers", "all"))
        tuned = int(str(arguments.get("tune.sampling", 0)).rpartition(":")[2]) or _layer_count(layers, family.depth, n)
        seconds = costs.start + steps * (costs.step + costs.layer * tuned)
    elif kind == "run":
        seconds = costs.start / 4 + items * costs.item
    elif kind == "profile":
        seconds = costs.profile
    else:
        seconds = costs.start / 4 + costs.dev_pass * _dev_passes(kind, arguments, family.depth)
    return round(seconds / 60, 3)


def _samples(arguments: Mapping[str, Value], family: ReproductionFamily) -> float:
    if (steps := arguments.get("tune.steps")) is not None:
        return int(steps) * int(arguments.get("tune.batch", family.batch))
    return family.samples * float(arguments.get("data.share", 1.0)) * float(arguments.get("tune.epochs", 1.0))


def _layer_count(layers: str, depth: int, n: int) -> int:
    try:
        return n if layers.startswith("{") else len(select_layers(layers, depth))
    except VrbenchError:
        return depth  # reported where it is read


def _dev_passes(kind: str, arguments: Mapping[str, Value], depth: int) -> float:
    """Return passes over all dev images that scoring layers takes."""
    by = str(arguments.get("by", ""))
    if kind == "restore" or "order" in arguments:
        return 0.0
    if by in TRIED_BY:
        rounds = int(arguments["most"]) if by == "loss" else 1
        return 1.0 + sum(depth - i for i in range(rounds)) / 2  # layers below the one left out are not run again
    return 3.0 if by == "fisher" else 1.0  # a backward pass costs two more


def wall_minutes(total: float, costs: StepCosts, gpus: int, jobs: int) -> float:
    """Return the wall time of some GPU minutes, with several steps sharing each GPU."""
    shared = costs.overlap if jobs > gpus else 1.0
    return total / (max(1, min(gpus, jobs)) * shared)
