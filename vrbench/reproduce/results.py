"""Reading the results of a plan: the runs' counts, and the rows of each table with their finished seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from vrbench.core.errors import collect_errors, raise_errors
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import Lineage
from vrbench.reproduce.joint_bootstrap import JointBootstrap, Pairs
from vrbench.reproduce.packing import RecordFolder
from vrbench.reproduce.plan import Plan, StepRecord, finished_steps, load_plan, log_file
from vrbench.reproduce.run_counts import RunCounts, count_run, pairing_errors
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import REGION, REGION_ROW
from vrbench.training.profile_results import ProfileRow, load_profile


@dataclass(frozen=True)
class ResultRow:
    """One row of a table, or point of a curve, over its seeds.

    Attributes:
        table: key of `vrbench.reproduce.tables.TABLES`.
        label: of the row.
        series: curve that it is a point of, or "".
        x: where on the curve.
        pairs: seed -> the candidate's and the baseline's run, of finished seeds.
        missing: seed -> a step that is not done.
    """

    table: str
    label: str
    series: str
    x: float | None
    pairs: Pairs
    missing: Mapping[int, str]

    @property
    def is_baseline(self) -> bool:
        """Whether the other rows are compared with it."""
        return bool(self.pairs) and all(run == baseline for run, baseline in self.pairs.values())

    @property
    def runs(self) -> dict[int, str]:
        """Seed -> the run."""
        return {seed: run for seed, (run, _) in self.pairs.items()}


@dataclass(frozen=True)
class PlanResults:
    """The results in a plan's folder.

    Attributes:
        folder: of the plan.
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
        """Table -> its rows, in the plan's order.

        The points of a curve rest on the same seeds, so that they do not differ by a seed; a curve of which no seed is
        complete keeps what it has.
        """
        cells: dict[tuple[str, str, str, float | None], dict[int, tuple[str, str]]] = {}
        curves: dict[tuple[str, str], dict[int, str]] = {}
        for e in self.plan.entries:
            pair = (e.run, e.baseline)
            cells.setdefault((e.table, e.series, e.row, e.x), {})[e.seed] = pair
            if e.series:
                blocked = curves.setdefault((e.table, e.series), {})
                blocked[e.seed] = blocked.get(e.seed) or self._blocked_by(pair)
        tables: dict[str, list[ResultRow]] = {}
        for (table, series, label, x), pairs in cells.items():
            curve = curves.get((table, series), {})
            shared = {} if all(curve.values()) else curve
            why = {seed: self._blocked_by(pair) or shared.get(seed, "") for seed, pair in sorted(pairs.items())}
            finished = {seed: pairs[seed] for seed, step in why.items() if not step}
            missing = {seed: step for seed, step in why.items() if step}
            tables.setdefault(table, []).append(ResultRow(table, label, series, x, finished, missing))
        return {table: tuple(rows) for table, rows in tables.items()}

    def _blocked_by(self, pair: tuple[str, str]) -> str:
        """Return the missing step that a cell waits for; empty if its runs exist."""
        return next((self._first_missing(run) for run in pair if run not in self.runs), "")

    def _first_missing(self, name: str) -> str:
        """Return the first unfinished step among a step and those that it needs."""
        wanted = {name, *self.plan.requirements([name])}
        return next((s.name for s in self.plan.steps if s.name in wanted and s.name not in self.done), name)

    @property
    def undone(self) -> list[str]:
        """Steps that are not done, each with whether it was started."""
        return [
            step.name + (" (begun, and failed or stopped)" if log_file(step.name, self.folder).is_file() else "")
            for step in self.plan.steps
            if step.name not in self.done
        ]

    def pool(self, name: str) -> tuple[str, ...]:
        """Return the tasks that a claim's name such as 'visual' covers, in the run that has the most."""
        return max((run.pool(name) for run in self.runs.values()), key=len, default=())

    def perplexities(self) -> tuple[str, ...]:
        """Return the tasks that are compared as a ratio."""
        found = [r.task for run in self.runs.values() for r in run.record.results if not r.higher_is_better]
        return tuple(dict.fromkeys(found))

    def region(self) -> ResultRow | None:
        """Return the row of the paper's region: the strategy `REGION`, in whichever table has it."""
        places = (("strategies", REGION), ("text", "region"), ("layers", REGION_ROW))
        found = (row for table, label in places for row in self.rows.get(table, ()) if row.label == label)
        return next(found, None)

    def retention(self, row: ResultRow, tasks: Sequence[str]) -> SeedEstimate | None:
        """Return a row's retention in % of its baseline; None for the baseline itself."""
        return self._figure("retention", row, tasks)

    def difference(self, row: ResultRow, tasks: Sequence[str]) -> SeedEstimate | None:
        """Return a row's difference from its baseline, in points; None for the baseline itself."""
        return self._figure("difference", row, tasks)

    def _figure(self, name: Literal["retention", "difference"], row: ResultRow, tasks: Sequence[str]) -> Any:
        """Return a row's figure, computed once for all tables and plots."""
        if row.is_baseline:
            return None
        key = (name, tuple(row.pairs.items()), tuple(tasks))
        if key not in self._figures:
            self._figures[key] = getattr(self.bootstrap, name)(row.pairs, tasks)
        return self._figures[key]

    @cached_property
    def _figures(self) -> dict[tuple[Any, ...], SeedEstimate | None]:
        return {}

    def strategy_layers(self) -> dict[str, dict[int, LayerSet]]:
        """Return strategy -> seed -> the layers that it tuned; strategies that tune all layers are left out."""
        found: dict[str, dict[int, LayerSet]] = {}
        for row in self.rows.get("strategies", ()):
            each = {seed: _tuned_layers(self.runs[run].record.checkpoint.lineage) for seed, run in row.runs.items()}
            known = {seed: layers for seed, layers in each.items() if layers is not None}
            if not all(layers.is_all for layers in known.values()):
                found[row.label] = known
        return found


def _tuned_layers(lineages: Sequence[Lineage]) -> LayerSet | None:
    """Return the layers of the last training that was no healing; None where none is recorded."""
    for lineage in lineages:
        for step in reversed(lineage.steps):
            if step.kind == "trained" and step.stage == "tune":
                return LayerSet.parse(step.layers, step.depth)
    return None


def read_results(folder: Path) -> PlanResults:
    """Read a plan's folder; what is not done is left out.

    Raises:
        VrbenchError: no plan, a step done for another plan, a run that cannot be read, or runs of one table that cannot
            be compared; all errors together.
    """
    plan, records = load_plan(folder), RecordFolder(folder)
    done = finished_steps(plan, records)
    runs: dict[str, RunCounts] = {}
    errors: list[str] = []
    for name in dict.fromkeys(name for e in plan.entries for name in (e.run, e.baseline)):
        if name in done:
            with collect_errors(errors):
                runs[name] = count_run(partial(records.run, name))
    raise_errors(errors)
    pairs = dict.fromkeys((e.run, e.baseline) for e in plan.entries if e.run != e.baseline)
    bases = [base for base in dict.fromkeys(e.baseline for e in plan.entries) if base in runs]
    pairs |= dict.fromkeys((base, bases[0]) for base in bases[1:])
    raise_errors(e for a, b in pairs if a in runs and b in runs for e in pairing_errors(runs[a], runs[b], a))
    profile = folder / "profile.json"
    return PlanResults(folder, plan, done, runs, load_profile(profile) if profile.is_file() else ())
