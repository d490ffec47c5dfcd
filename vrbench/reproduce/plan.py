"""A plan: the steps that make the checkpoints of some tables and measure them, and which run stands where in a table.

A plan and what came of it lie in one folder:

    plan.json              the `Plan`
    checkpoints/<step>/    what trainings, prunings and restorings made; not published
    layers/<step>.json     layer sets with their scores
    orders/<step>.json     orders in which layers go; of kind "layers" too
    logs/<step>.log        what steps printed; not published
    done/<step>.json       a `StepRecord` for each finished step, written last
    runs/<step>/           a run's record and its items' scores, as `vrbench.core.run_storage.save_run` writes them
    profile.json           time and memory at true shapes
    report.md, ...         the tables, made of the files above alone
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vrbench.core.schemas import SCHEMA_VERSION, Provenance, Record

TRIAL = 50
"""Below so many steps a training learns nothing: it is a trial, and batches and pictures are few too."""


class TableEntry(Record):
    """One measured cell: which run stands in which row of which table, and what it is compared with."""

    table: str = Field(description="Key of `vrbench.reproduce.tables.TABLES`, such as 'strategies' or 'pruning'.")
    row: str = Field(description="Label of the row, such as 'sparse-uniform' or '8 layers'.")
    series: str = Field(default="", description="Line that the row is a point of, such as 'region, by loss'.")
    x: float | None = Field(default=None, description="Where on the line: layers tuned, layers removed, % of the data.")
    seed: int = Field(description="Seed of the training that the run rests on.")
    run: str = Field(description="Name of the step of kind 'run'.")
    baseline: str = Field(description="Name of the baseline's step of kind 'run', of the same seed.")


class PlanStep(Record):
    """One thing to do, once for all tables that need it."""

    name: str = Field(pattern=r"[a-z0-9][a-z0-9.-]*", description="Unique; names its files.")
    kind: Literal["train", "layers", "prune", "restore", "run", "profile"] = Field(description="Which command does it.")
    needs: tuple[str, ...] = Field(default=(), description="Steps that must be done first.")
    arguments: dict[str, str | int | float | bool] = Field(description="What the command gets; {STEP} is its result.")
    minutes: float = Field(default=0.0, description="Estimated minutes of one card; 0 if unknown.")


class Plan(Record):
    """What is to be done for some tables at one scale, and where each result belongs."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    family: str = Field(description="'pocket', 'llava-1.5-7b' or 'bunny-llama-3-8b'.")
    tables: tuple[str, ...] = Field(description="The tables asked for.")
    seeds: tuple[int, ...] = Field(description="Seeds of trainings.")
    tasks: str = Field(description="What is measured, as `vrbench run --tasks` reads it.")
    limit: int | None = Field(default=None, description="Items a task, if limited.")
    overrides: dict[str, str] = Field(default={}, description="Recipe keys that were set for all trainings.")
    steps: tuple[PlanStep, ...] = Field(description="In an order in which they can be done.")
    entries: tuple[TableEntry, ...] = Field(description="Where the runs belong.")

    @property
    def is_trial(self) -> bool:
        """Whether so few steps were asked for that nothing can be learned."""
        return int(self.overrides.get("tune.steps", TRIAL)) < TRIAL


class StepRecord(Record):
    """A finished step: written last, so that its existence means that the step's files are whole."""

    step: str = Field(description="Name of the step.")
    digest: str = Field(description="sha256 of the step and of the steps below it, so that a changed plan is told.")
    seconds: float = Field(description="Wall time.")
    device: str = Field(default="", description="Card, or processor and threads.")
    peak_gib: float | None = Field(default=None, description="Most memory held on the card, GiB.")
    provenance: Provenance = Field(description="How it was made.")
