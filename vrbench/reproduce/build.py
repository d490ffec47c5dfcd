"""Build the plan of some tables at one scale: light, and the same for the same request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vrbench.core.errors import collect_errors, raise_errors, suggest_names
from vrbench.reproduce.experiments import EXPERIMENTS
from vrbench.reproduce.families import ReproductionFamily, Value, family_named
from vrbench.reproduce.plan import Plan, is_trial
from vrbench.reproduce.plan_builder import PlanBuilder
from vrbench.tasks import registry

REGION_SIZE = 8
"""Layers of the region and of every other strategy."""

SHORT_KEYS = {"steps": "tune.steps", "scenes": "data.scenes", "batch": "tune.batch"}
"""Short names of recipe keys, for --set."""

SET_BY_TABLES = ("tune.layers", "tune.modules", "tune.sampling", "tune.every", "data.share", "seed", "stage", "makes")
"""Recipe keys that the tables decide."""

TRIAL_TRAINING: dict[str, Value] = {
    "tune.batch": 2, "data.turns": 2, "data.easy_vqa": 0.0, "data.dev": 8, "dtype": "float32",
}  # fmt: skip
IMAGES, TRIAL_IMAGES = 100, 4
"""Dev images that layers are scored on."""

FEWEST_SCENES = 64


@dataclass(frozen=True)
class ExperimentRequest:
    """The options of a reproduction; the defaults are those of the command line.

    Attributes:
        tables: keys of `EXPERIMENTS`, or "all", comma-separated.
        family: key of `vrbench.reproduce.families.FAMILIES`.
        seeds: how many; they are 0, 1, ...
        overrides: recipe keys for all trainings, some under their `SHORT_KEYS`.
        tasks: what is evaluated; None for the family's.
        limit: items per task, 0 for all; None for the family's.
    """

    tables: str
    family: str
    seeds: int = 3
    overrides: Mapping[str, str] = field(default_factory=dict)
    tasks: str | None = None
    limit: int | None = None


def build(request: ExperimentRequest) -> Plan:
    """Return the plan: steps in an order in which they can be done, and the table cells of each run.

    Raises:
        VrbenchError: unknown table, family, task or short key, or a key that the tables decide; all errors together.
    """
    overrides = {SHORT_KEYS.get(key, key): value for key, value in request.overrides.items()}
    errors = list(_errors(request, overrides))
    with collect_errors(errors):
        family = family_named(request.family)
        tasks = request.tasks or (family.trial_tasks if is_trial(overrides) else "") or family.tasks
        specs = registry.select_runnable(tasks, registry.load())[0]
    raise_errors(errors)
    names = _names(request.tables)
    tables = tuple(table for table in EXPERIMENTS if table in names or "all" in names)
    limit = family.limit if request.limit is None else request.limit or None
    training = _training_keys(family, overrides)
    healing = {**training, **family.heal_keys}
    if not is_trial(overrides):
        healing.pop("tune.steps", None)  # the recipe of a healing has its own
    images = TRIAL_IMAGES if is_trial(overrides) else IMAGES
    builder = PlanBuilder(family, REGION_SIZE, tasks, tuple(specs), limit, training, healing, images)
    for seed in range(request.seeds):
        builder.seed = seed
        for table in tables:
            EXPERIMENTS[table](builder)
    return Plan(
        family=family.id, tables=tables, seeds=tuple(range(request.seeds)), tasks=tasks, limit=limit,
        overrides=overrides, steps=tuple(builder.steps.values()), entries=tuple(builder.entries),
    )  # fmt: skip


def _errors(request: ExperimentRequest, overrides: Mapping[str, str]) -> Iterator[str]:
    known, names = (*EXPERIMENTS, "all"), _names(request.tables)
    yield from (f"no table {name!r}; {suggest_names(name, known)}" for name in names if name not in known)
    if not names:
        yield f"no table was named; there are {', '.join(known)}"
    yield from (f"--set {key}: the tables decide it" for key in overrides if key in SET_BY_TABLES)
    for key in SHORT_KEYS.values():
        value = overrides.get(key, "1")
        if not (value.isdigit() and int(value)):
            yield f"--set {key} is {value!r}; it must be a number of at least 1"
    if request.seeds < 1:
        yield f"seeds is {request.seeds}; it must be at least 1"
    if request.limit is not None and request.limit < 0:
        yield f"limit is {request.limit}; it must be at least 1, or 0 for all items"


def _names(tables: str) -> list[str]:
    return [name.strip() for name in tables.split(",") if name.strip()]


def _training_keys(family: ReproductionFamily, overrides: Mapping[str, str]) -> dict[str, Value]:
    """Return the recipe keys of all trainings: no more scenes than the steps need, and in a trial small batches."""
    limits: dict[str, Value] = {}
    if "tune.steps" in overrides and "data.scenes" in family.overrides:
        limits = dict(TRIAL_TRAINING) if is_trial(overrides) else {}
        batch = int({"tune.batch": family.batch, **limits, **overrides}["tune.batch"])
        needed = max(FEWEST_SCENES, int(overrides["tune.steps"]) * batch)
        limits["data.scenes"] = min(int(family.overrides["data.scenes"]), needed)
    return {**family.overrides, **limits, **overrides, "base": overrides.get("base", family.base)}
