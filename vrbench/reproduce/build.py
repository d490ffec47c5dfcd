"""A plan for some tables at one scale; light, and the same for the same words."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.reproduce.draft import PlanBuilder
from vrbench.reproduce.experiments import EXPERIMENTS
from vrbench.reproduce.families import ReproductionFamily, Value, family
from vrbench.reproduce.plan import TRIAL, Plan
from vrbench.tasks import registry

N = 8
"""Layers of the region and of every other strategy."""

SHORT = {"steps": "tune.steps", "scenes": "data.scenes", "batch": "tune.batch"}
"""Short names of recipe keys, for --set."""

SET_BY_TABLES = ("tune.layers", "tune.modules", "tune.sampling", "tune.every", "data.share", "seed", "stage", "makes")
"""Recipe keys that the tables decide."""

TRIAL_TRAINING: dict[str, Value] = {
    "tune.batch": 2, "data.turns": 2, "data.easy_vqa": 0.0, "data.dev": 8, "dtype": "float32",
}  # fmt: skip
PICTURES, TRIAL_PICTURES = 100, 4
"""Dev pictures on which layers are looked at."""

FEWEST_SCENES = 64


@dataclass(frozen=True)
class ExperimentRequest:
    """What was asked for; the defaults are those of the command line.

    Attributes:
        tables: keys of `EXPERIMENTS`, or "all", comma-separated.
        family: key of `vrbench.reproduce.families.FAMILIES`.
        seeds: how many; they are 0, 1, ...
        overrides: recipe keys for all trainings, some under their `SHORT` names.
        tasks: what is measured; None for the family's.
        limit: items a task, 0 for all; None for the family's.
    """

    tables: str
    family: str
    seeds: int = 3
    overrides: Mapping[str, str] = field(default_factory=dict)
    tasks: str | None = None
    limit: int | None = None


def build(asked: ExperimentRequest) -> Plan:
    """The plan: steps in an order in which they can be done, and where each run belongs.

    Raises:
        VrbenchError: unknown table, family, task or short key, or a key that the tables decide; all at once.
    """
    faults: list[str] = []
    tables = _tables(asked.tables, faults)
    overrides = {SHORT.get(key, key): value for key, value in asked.overrides.items()}
    faults += [f"--set {key}: the tables decide it" for key in overrides if key in SET_BY_TABLES]
    for key in ("tune.steps", "tune.batch", "data.scenes"):
        if key in overrides and not (overrides[key].isdigit() and int(overrides[key])):
            faults.append(f"--set {key} is {overrides[key]!r}; it must be a number of at least 1")
    if asked.seeds < 1:
        faults.append(f"seeds is {asked.seeds}; it must be at least 1")
    if asked.limit is not None and asked.limit < 0:
        faults.append(f"limit is {asked.limit}; it must be at least 1, or 0 for all items")
    try:
        of = family(asked.family)
        tasks = asked.tasks or (of.trial_tasks if _is_trial(overrides) else "") or of.tasks
        specs = registry.select_runnable(tasks, registry.load())[0]
    except VrbenchError as error:
        faults += error_messages(error)
    raise_errors(faults)
    draft = _draft(of, asked, overrides, tasks, tuple(specs))
    for seed in range(asked.seeds):
        for table in tables:
            EXPERIMENTS[table](draft, seed)
    return Plan(
        family=of.id, tables=tables, seeds=tuple(range(asked.seeds)), tasks=draft.tasks, limit=draft.limit,
        overrides=overrides, steps=tuple(draft.steps.values()), entries=tuple(draft.entries),
    )  # fmt: skip


def _tables(text: str, faults: list[str]) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*EXPERIMENTS, "all"):
            near = difflib.get_close_matches(name, (*EXPERIMENTS, "all"), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(EXPERIMENTS)}, or all"
            faults.append(f"no table {name!r}; {hint}")
    if not names:
        faults.append(f"no table was named; there are {', '.join(EXPERIMENTS)}, or all")
    return tuple(table for table in EXPERIMENTS if table in names or "all" in names)


def _is_trial(overrides: Mapping[str, str]) -> bool:
    steps = overrides.get("tune.steps", "")
    return steps.isdigit() and int(steps) < TRIAL


def _draft(
    of: ReproductionFamily,
    asked: ExperimentRequest,
    overrides: Mapping[str, str],
    tasks: str,
    specs: tuple[registry.TaskSpec, ...],
) -> PlanBuilder:
    limit = of.limit if asked.limit is None else asked.limit or None
    trial = _is_trial(overrides)
    base = overrides.get("base", of.base)
    training: dict[str, Value] = {**of.overrides, **_small(of, overrides, trial), **overrides, "base": base}
    own = () if trial else ("tune.steps",)  # a healing is short: its recipe says how much so
    healing = {**{key: value for key, value in training.items() if key not in own}, **of.heal_keys}
    return PlanBuilder(
        of=of, n=N, tasks=tasks, specs=specs, limit=limit, training=training, healing=healing,
        pictures=TRIAL_PICTURES if trial else PICTURES, base=base,
    )  # fmt: skip


def _small(of: ReproductionFamily, overrides: Mapping[str, str], trial: bool) -> dict[str, Value]:
    """As few pictures as the steps need; in a trial small batches too. Only where pictures are drawn."""
    if "tune.steps" not in overrides or "data.scenes" not in of.overrides:
        return {}
    small = dict(TRIAL_TRAINING) if trial else {}
    batch = int(overrides.get("tune.batch", small.get("tune.batch", of.batch)))
    needed = max(FEWEST_SCENES, int(overrides["tune.steps"]) * batch)
    return {**small, "data.scenes": min(int(of.overrides["data.scenes"]), needed)}
