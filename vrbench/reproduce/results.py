"""What came of a plan: its folder read, the runs counted, and the rows of each table with the seeds that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import Lineage
from vrbench.reproduce import run_counts
from vrbench.reproduce.joint_bootstrap import JointBootstrap, Pairs
from vrbench.reproduce.packing import RecordFolder
from vrbench.reproduce.plan import Plan, StepRecord, finished_steps, load_plan, log_file
from vrbench.reproduce.run_counts import RunCounts
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import REGION, REGION_ROW
from vrbench.training.profile_results import ProfileRow, load_profile


@dataclass(frozen=True)
class ResultRow:
    """One row of a table, or point of a line, over its seeds.

    Attributes:
        table: key of `vrbench.reproduce.tables.TABLES`.
        label: of the row.
        series: line that it is a point of, or "".
        x: where on the line.
        pairs: seed -> the candidate's and the baseline's run, of those that are there.
        missing: seed -> which step is not done.
    """

    table: str
    label: str
    series: str
    x: float | None
    pairs: Pairs
    missing: Mapping[int, str]

    @property
    def is_baseline(self) -> bool:
        """Whether it is what the others are compared with."""
        return bool(self.pairs) and all(ours == theirs for ours, theirs in self.pairs.values())

    @property
    def runs(self) -> dict[int, str]:
        """Seed -> the run."""
        return {seed: ours for seed, (ours, _) in self.pairs.items()}


@dataclass(frozen=True)
class PlanResults:
    """A folder's results.

    Attributes:
        folder: where they lie.
        plan: what was to be done.
        done: step -> how it was done.
        runs: step -> its run, counted.
        profile: time and memory, if measured.
    """

    folder: Path
    plan: Plan
    done: Mapping[str, StepRecord]
    runs: Mapping[str, RunCounts]
    profile: Sequence[ProfileRow] = field(default=())

    @cached_property
    def bootstrap(self) -> JointBootstrap:
        """The draws of all runs."""
        return JointBootstrap(self.runs)

    @cached_property
    def rows(self) -> dict[str, tuple[ResultRow, ...]]:
        """Table -> its rows, in the plan's order."""
        found: dict[tuple[str, str, str, float | None], dict[int, tuple[str, str]]] = {}
        for e in self.plan.entries:
            found.setdefault((e.table, e.series, e.row, e.x), {})[e.seed] = (e.run, e.baseline)
        lacking = self._lacking()
        tables: dict[str, list[ResultRow]] = {}
        for (table, series, label, x), pairs in found.items():
            gone = {
                seed: self._gone(pair) or lacking.get((table, series, seed), "") for seed, pair in sorted(pairs.items())
            }
            there = {seed: pairs[seed] for seed, why in gone.items() if not why}
            missing = {seed: why for seed, why in gone.items() if why}
            tables.setdefault(table, []).append(ResultRow(table, label, series, x, there, missing))
        return {table: tuple(rows) for table, rows in tables.items()}

    def _lacking(self) -> dict[tuple[str, str, int], str]:
        """(table, line, seed) -> a step that is not done there, for seeds that not all points of a line have.

        The points of a line rest on the same seeds, lest one be told from the next by a seed; a line of which no seed
        is whole keeps what it has.
        """
        gone: dict[tuple[str, str], dict[int, str]] = {}
        for e in self.plan.entries:
            if e.series:
                found = gone.setdefault((e.table, e.series), {})
                found[e.seed] = found.get(e.seed) or self._gone((e.run, e.baseline))
        return {
            (table, series, seed): why
            for (table, series), found in gone.items()
            if not all(found.values())
            for seed, why in found.items()
        }

    def _gone(self, pair: tuple[str, str]) -> str:
        """Which step is in the way of a cell; empty if it is there."""
        for run in pair:
            if run not in self.runs:
                return self.blocking(run)
        return ""

    def blocking(self, name: str) -> str:
        """The first step that is not done of those that a step needs, itself included."""
        needs = {step.name: step.needs for step in self.plan.steps}
        wanted, todo = {name}, [name]
        while todo:
            below = [need for need in needs[todo.pop()] if need not in wanted]
            wanted.update(below)
            todo += below
        return next((s.name for s in self.plan.steps if s.name in wanted and s.name not in self.done), name)

    @property
    def undone(self) -> list[str]:
        """Steps that are not done, each with whether it was begun."""
        return [
            step.name + (" (begun, and failed or stopped)" if log_file(step.name, self.folder).is_file() else "")
            for step in self.plan.steps
            if step.name not in self.done
        ]

    def pool(self, name: str) -> tuple[str, ...]:
        """Tasks that a claim's name such as 'visual' speaks of, in the run that has the most."""
        return max((run.pool(name) for run in self.runs.values()), key=len, default=())

    def ratios(self) -> tuple[str, ...]:
        """Tasks that are compared as a ratio: perplexities."""
        found = [r.task for run in self.runs.values() for r in run.record.results if not r.higher_is_better]
        return tuple(dict.fromkeys(found))

    def row(self, table: str, label: str, series: str | None = None) -> ResultRow | None:
        """A row by its label, and series where one is named."""
        rows = self.rows.get(table, ())
        return next((r for r in rows if r.label == label and series in (None, r.series)), None)

    def region(self) -> ResultRow | None:
        """The region of the paper: the strategy `REGION`, wherever it stands."""
        places = (("strategies", REGION), ("text", "region"), ("layers", REGION_ROW))
        return next((row for place in places if (row := self.row(*place))), None)

    def kept(self, row: ResultRow, tasks: Sequence[str]) -> SeedEstimate | None:
        """What a row keeps of its baseline, %."""
        return None if row.is_baseline else self._once("kept", row, tasks)

    def gained(self, row: ResultRow, tasks: Sequence[str]) -> SeedEstimate | None:
        """What a row has more than its baseline, in points."""
        return None if row.is_baseline else self._once("gained", row, tasks)

    def _once(self, figure: str, row: ResultRow, tasks: Sequence[str]) -> SeedEstimate | None:
        """A row's figure, computed once for all tables and plots."""
        key = (figure, tuple(row.pairs.items()), tuple(tasks))
        if key not in self._known:
            self._known[key] = getattr(self.bootstrap, figure)(row.pairs, tasks)
        return self._known[key]

    @cached_property
    def _known(self) -> dict[tuple[Any, ...], SeedEstimate | None]:
        return {}

    def tuned(self, row: ResultRow) -> dict[int, LayerSet]:
        """Seed -> the layers that were tuned, as the runs' lineages say."""
        found = {seed: tuned_layers(self.runs[name].record.checkpoint.lineage) for seed, name in row.runs.items()}
        return {seed: layers for seed, layers in found.items() if layers is not None}


def tuned_layers(lineage: Sequence[Lineage]) -> LayerSet | None:
    """The layers of the last training that was no healing; None where none is recorded."""
    for one in lineage:
        for step in reversed(one.steps):
            if step.kind == "trained" and step.stage == "tune":
                return LayerSet.parse(step.layers, step.depth)
    return None


def read(folder: Path) -> PlanResults:
    """Read a results folder; what is not there is left out.

    Raises:
        VrbenchError: no plan, a step done for another plan, a run that cannot be read, or runs of one table that cannot
            be compared; all at once.
    """
    plan = load_plan(folder)
    records = RecordFolder(folder)
    done = finished_steps(plan, records)
    wanted = dict.fromkeys(name for e in plan.entries for name in (e.run, e.baseline))
    runs: dict[str, RunCounts] = {}
    faults: list[str] = []
    for name in wanted:
        if name not in done:
            continue
        try:
            runs[name] = run_counts.count_run(partial(records.run, name))
        except VrbenchError as error:
            faults.append(str(error))
    raise_errors(faults)
    raise_errors(_faults(plan, runs))
    profile = folder / "profile.json"
    return PlanResults(folder, plan, done, runs, load_profile(profile) if profile.is_file() else ())


def _faults(plan: Plan, runs: Mapping[str, RunCounts]) -> list[str]:
    """Runs that cannot be compared: each with its baseline, each baseline with the first one."""
    pairs = dict.fromkeys((e.run, e.baseline) for e in plan.entries if e.run != e.baseline)
    bases = [b for b in dict.fromkeys(e.baseline for e in plan.entries) if b in runs]
    pairs |= dict.fromkeys((base, bases[0]) for base in bases[1:])
    return [f for a, b in pairs if a in runs and b in runs for f in run_counts.faults(runs[a], runs[b], a)]
