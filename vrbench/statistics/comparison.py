"""Runs -> one comparison: what each candidate keeps of the baseline, how sure that is, and the verdict on claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.run_storage import load_run
from vrbench.core.schemas import (
    MAX_UNSCORED_SHARE,
    SCHEMA_VERSION,
    CheckpointRef,
    Record,
    Run,
    RunSource,
    unscored_note,
)
from vrbench.core.version import __version__
from vrbench.data.locate import skipped_note
from vrbench.statistics import bootstrap, pairing
from vrbench.statistics.claims import DEFAULT_CLAIMS, POOLS, Claim, Verdict, judge, parse_all
from vrbench.statistics.merge_runs import join
from vrbench.statistics.pairing import PairedTask

Kind = Literal["task", "suite"]


class ComparisonRow(Record):
    """Baseline against candidate on one task, or on the mean of a suite's tasks."""

    name: str = Field(description="Task or suite.")
    kind: Kind = Field(description="Which of both.")
    suite: str = Field(description="Suite of the task; the name itself for a suite.")
    tasks: tuple[str, ...] = Field(description="Tasks that the figure is a mean of.")
    metric: str = Field(description="Metric of the task; 'mean of tasks' for a suite.")
    unit: Literal["percent", "perplexity"] = Field(default="percent", description="Scale of the figures.")
    status: Literal["ok", "error"] = Field(default="ok", description="'error' when there is no figure.")
    error: str = Field(default="", description="Why there is none.")
    note: str = Field(default="", description="What a reader must know.")
    chance: float | None = Field(default=None, description="Score of guessing.")
    n: int = Field(default=0, description="Items scored in both runs.")
    n_unscored: int = Field(default=0, description="Items left out because one of both could not be scored.")
    clusters: int = Field(default=0, description="Independent clusters among the items.")
    baseline: float | None = Field(default=None, description="The baseline's figure.")
    candidate: float | None = Field(default=None, description="The candidate's figure.")
    difference: float | None = Field(default=None, description="Candidate minus baseline.")
    difference_low: float | None = Field(default=None, description="Lower end of its 95 % interval.")
    difference_high: float | None = Field(default=None, description="Upper end of its 95 % interval.")
    retention: float | None = Field(default=None, description="Percent kept; for perplexity baseline / candidate.")
    retention_low: float | None = Field(default=None, description="Lower end of its 95 % interval.")
    retention_high: float | None = Field(default=None, description="Upper end of its 95 % interval.")
    p: float | None = Field(default=None, description="Two-sided p of no difference.")
    p_holm: float | None = Field(default=None, description="p adjusted over the rows of the same kind.")
    test: str = Field(default="", description="Name of the test.")

    @property
    def is_marked(self) -> bool:
        """Whether so many items were left out as unscored that the row is marked in a table."""
        return self.n_unscored > MAX_UNSCORED_SHARE * (self.n + self.n_unscored)


class CandidateComparison(Record):
    """One candidate against the baseline."""

    label: str = Field(description="Its name in this comparison.")
    checkpoint: CheckpointRef = Field(description="What was measured.")
    sources: tuple[RunSource, ...] = Field(description="The runs that its results come from.")
    tasks: tuple[ComparisonRow, ...] = Field(description="One a task that both runs have.")
    suites: tuple[ComparisonRow, ...] = Field(description="One a suite.")
    verdicts: tuple[Verdict, ...] = Field(description="One a claim.")


class Comparison(Record):
    """What `vrbench compare` found."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    vrbench: str = Field(default=__version__, description="Version of vrbench.")
    baseline_label: str = Field(description="The baseline's name in this comparison.")
    baseline: CheckpointRef = Field(description="What the candidates are compared with.")
    baseline_sources: tuple[RunSource, ...] = Field(description="The runs that the baseline's results come from.")
    candidates: tuple[CandidateComparison, ...] = Field(description="In the order given.")
    claims: tuple[Claim, ...] = Field(description="What verdicts were asked for.")
    limit: int | None = Field(default=None, description="Items a task, if limited.")
    draws: int = Field(default=bootstrap.DRAWS, description="Bootstrap draws.")
    seed: int = Field(default=0, description="Seed of the draws.")
    notes: tuple[str, ...] = Field(default=(), description="What was left out, and what differs.")


def compare_paths(
    paths: Sequence[str | Path],
    baseline: str | Path | Sequence[str | Path],
    claims: Sequence[str] | None = None,
    seed: int = 0,
) -> Comparison:
    """`compare` for runs on disk; several runs of one checkpoint, the baseline's too, are joined.

    Raises:
        VrbenchError: as `compare`, `join` and `load_run`, or a baseline of several checkpoints.
    """
    faults: list[str] = []
    bases = _loaded([baseline] if isinstance(baseline, (str, Path)) else baseline, faults)
    runs = _loaded(paths, faults)
    raise_errors(faults)
    known = {run.record.inputs_digest for run in bases}
    candidates = join([run for run in runs if run.record.inputs_digest not in known])
    base = join(bases)
    if len(base) != 1:
        named = ", ".join(run.record.checkpoint.id for run in base)
        raise VrbenchError(f"the baseline must be runs of one checkpoint, not of {len(base)} ({named})")
    return compare(candidates or base[: len(runs)], base[0], claims, seed)


def _loaded(given: Sequence[Run | str | Path], faults: list[str]) -> list[Run]:
    runs: list[Run] = []
    for one in given:
        try:
            if not isinstance(one, (Run, str, Path)):
                raise VrbenchError(f"{one!r} is no run; give what `evaluate` or `load_run` returns, or its folder")
            runs.append(one if isinstance(one, Run) else load_run(one))
        except VrbenchError as error:
            faults.append(str(error))
    return runs


def compare(
    runs: Run | str | Path | Sequence[Run | str | Path],
    baseline: Run | str | Path,
    claims: Sequence[str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare runs with a baseline run over the same items.

    Args:
        runs: the candidates, or one of them, each a run or the folder of one; the baseline among them is passed over.
        baseline: the run that they are compared with, or its folder.
        claims: such as 'visual>=99%'; None for the default claims, as far as there are tasks for them.
        seed: of the bootstrap draws.

    Raises:
        VrbenchError: nothing to compare, runs over other data, limits, seeds, task versions or prompts, or a claim
            that cannot be read or names nothing; all told at once.
    """
    given = [runs] if isinstance(runs, (Run, str, Path)) or not isinstance(runs, Iterable) else list(runs)
    faults: list[str] = []
    loaded = _loaded([baseline, *given], faults)
    raise_errors(faults)
    return _compare(loaded[1:], loaded[0], claims, seed)


def _compare(runs: list[Run], baseline: Run, claims: Sequence[str] | None, seed: int) -> Comparison:
    candidates = pairing.candidates_of(runs, baseline)
    base_label, *names = pairing.labels([baseline, *candidates])
    labelled = dict(zip(names, candidates, strict=True))
    parsed = parse_all(DEFAULT_CLAIMS if claims is None else claims)
    faults = pairing.check_all(labelled, baseline)
    shared = {label: pairing.common_tasks(run, baseline) for label, run in labelled.items()}
    if claims is None:
        parsed = tuple(c for c in parsed if any(_members(c.name, baseline, tasks) for tasks in shared.values()))
    faults += [
        f"claim {c.text!r} names no task or suite that {label} and the baseline share"
        for c in parsed
        for label, tasks in shared.items()
        if claims is not None and tasks and not _members(c.name, baseline, tasks)
    ]
    raise_errors(faults)
    return Comparison(
        baseline_label=base_label,
        baseline=baseline.record.checkpoint,
        baseline_sources=baseline.sources,
        candidates=tuple(_candidate(label, run, baseline, parsed, seed) for label, run in labelled.items()),
        claims=parsed,
        limit=baseline.record.settings.limit,
        seed=seed,
        notes=(
            *(f"{base_label}: {note}" for note in baseline.notes),
            *_skipped([baseline, *candidates]),
            *(note for label, run in labelled.items() for note in _notes(label, run, baseline)),
        ),
    )


def _candidate(label: str, run: Run, baseline: Run, claims: Sequence[Claim], seed: int) -> CandidateComparison:
    pairs = {t: pairing.pair_task(t, run, baseline, seed) for t in pairing.common_tasks(run, baseline)}
    rows = {t: row_of(t, "task", p.baseline.suite, {t: p}, seed) for t, p in pairs.items()}
    suites = dict.fromkeys(p.baseline.suite for p in pairs.values() if p.in_mean or p.counts is None)
    spoken = {c.name: _members(c.name, baseline, list(pairs)) for c in claims}
    means = {
        s: row_of(s, "suite", s, {t: pairs[t] for t in _members(s, baseline, list(pairs))}, seed)
        for s in dict.fromkeys([*suites, *spoken])
        if s not in rows and (s in suites or spoken[s])
    }
    pools = {s for s in means if s not in suites and len({pairs[t].baseline.suite for t in spoken[s]}) > 1}
    return CandidateComparison(
        label=label,
        checkpoint=run.record.checkpoint,
        sources=run.sources,
        tasks=_adjusted(list(rows.values())),
        suites=_adjusted([row for s, row in means.items() if s in suites or s in pools]),
        verdicts=tuple(
            verdict_of(c, (rows | means)[c.name], [pairs[t] for t in spoken[c.name]]) for c in claims if spoken[c.name]
        ),
    )


def _members(name: str, baseline: Run, tasks: Sequence[str]) -> list[str]:
    """The tasks that a claim's name speaks of."""
    suites = {name, *POOLS.get(name, ())}
    return [t for t in tasks if t == name or baseline.result(t).suite in suites]


def row_of(
    name: str, kind: Kind, suite: str, pairs: Mapping[str, PairedTask], seed: int = 0, tested: bool = True
) -> ComparisonRow:
    """The figures of one task, or of the mean over several.

    Args:
        name: of the task or suite.
        suite: of the task; the name itself for a suite.
        pairs: task -> both runs on it, at least one.
        seed: of the test.
        tested: whether the hypothesis of no difference is tested; it takes longer than all else.
    """
    used = {t: p for t, p in pairs.items() if (p.in_mean if kind == "suite" else p.counts is not None)}
    first = next(iter(pairs.values())).baseline
    known: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "suite": suite,
        "tasks": tuple(used),
        "metric": first.metric if kind == "task" else "mean of tasks",
        "chance": first.chance if kind == "task" else None,
        "note": _row_note(kind, pairs, used),
        "n_unscored": sum(p.unscored for p in pairs.values()),
    }
    if not used:
        return ComparisonRow(status="error", error=_why_empty(pairs), **known)
    test = _test(list(used.values()), seed) if tested else {}
    return ComparisonRow(**known, **_figures(list(used.values())), **test)


def _test(pairs: Sequence[PairedTask], seed: int) -> dict[str, Any]:
    chance, test = bootstrap.p_value([p.counts for p in pairs if p.counts is not None], seed)
    return {"p": chance, "test": test}


def _figures(pairs: Sequence[PairedTask]) -> dict[str, Any]:
    """The numbers of a row, from one task or from the mean over several."""
    counts = [p.counts for p in pairs if p.counts is not None]
    drawn = [p.drawn for p in pairs if p.drawn is not None]
    higher = pairs[0].baseline.higher_is_better
    base, ours = (sum(c.values[i] for c in counts) / len(counts) for i in (0, 1))
    below, above = (base, ours) if higher else (ours, base)
    retention = bootstrap.retention_interval(drawn, higher) if below > 0 else None
    difference = bootstrap.difference_interval(drawn)
    return {
        "unit": counts[0].metric.kind,
        "n": sum(p.n for p in pairs),
        "clusters": sum(len(c.baseline) for c in counts),
        "baseline": base,
        "candidate": ours,
        "difference": ours - base,
        "difference_low": difference[0] if difference else None,
        "difference_high": difference[1] if difference else None,
        "retention": 100.0 * above / below if below > 0 else None,
        "retention_low": retention[0] if retention else None,
        "retention_high": retention[1] if retention else None,
    }


def _row_note(kind: str, pairs: Mapping[str, PairedTask], used: Mapping[str, PairedTask]) -> str:
    if kind == "suite":
        ratio = [t for t, p in pairs.items() if p.counts is not None and t not in used]
        dead = [t for t, p in pairs.items() if p.counts is None]
        said = [f"{', '.join(ratio)} not in the mean (not a 0-100 score)"] if ratio else []
        return "; ".join(said + ([f"without {', '.join(dead)}, which did not run through"] if dead else []))
    (pair,) = pairs.values()
    said = [pair.baseline.note] if pair.baseline.note else []
    if not pair.baseline.complete:
        said.append("not the whole task")
    if unscored := unscored_note(pair.unscored, pair.n + pair.unscored):
        said.append(f"of both runs, {unscored}")
    said += _warnings(pair)
    score, chance = pair.baseline.score, pair.baseline.chance
    if score is not None and chance is not None and score.low <= chance:
        said.append("the baseline is not above chance")
    return "; ".join(dict.fromkeys(said))


def _warnings(pair: PairedTask) -> Iterator[str]:
    """What either run's result warns of, and which of the two left out items that the other one scored."""
    if any(pair.alone):
        base, own = pair.alone
        yield f"left out of both runs: {base:,} items unscored in the baseline alone, {own:,} in the candidate alone"
    theirs, ours = pair.baseline.warnings, pair.candidate.warnings
    for text in dict.fromkeys((*theirs, *ours)):
        who = "both runs" if text in theirs and text in ours else "baseline" if text in theirs else "candidate"
        yield f"{who}: {text}"


def _why_empty(pairs: Mapping[str, PairedTask]) -> str:
    said: list[str] = []
    for task, pair in pairs.items():
        for who, result in (("baseline", pair.baseline), ("candidate", pair.candidate)):
            if result.status == "error":
                said.append(f"{task} died in the {who}: {result.error or 'no reason recorded'}")
        if pair.counts is None and "error" not in (pair.baseline.status, pair.candidate.status):
            said.append(f"{task}: no item was scored in both runs")
    return "; ".join(said) or "no task with a 0-100 score"


def verdict_of(claim: Claim, row: ComparisonRow, pairs: Sequence[PairedTask]) -> Verdict:
    """What a row says about a claim; `pairs` are the tasks that the claim speaks of."""
    dead = [p.baseline.task for p in pairs if p.counts is None]
    if dead or row.status == "error":
        reason = row.error or f"{', '.join(dead)} did not run through"
        return Verdict(claim=claim, verdict="undecided", n=row.n, reason=reason)
    if claim.unit == "retention":
        return judge(claim, row.n, row.retention, _ends(row.retention_low, row.retention_high))
    if row.kind == "task" and not pairs[0].in_mean:
        return Verdict(claim=claim, verdict="undecided", n=row.n, reason="it has no points; claim a retention in %")
    return judge(claim, row.n, row.difference, _ends(row.difference_low, row.difference_high))


def _ends(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


def _adjusted(rows: Sequence[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    tested = [row.p for row in rows if row.p is not None]
    adjusted = iter(bootstrap.holm(tested))
    return tuple(r if r.p is None else r.model_copy(update={"p_holm": next(adjusted)}) for r in rows)


def _skipped(runs: Sequence[Run]) -> list[str]:
    """What was left out of all runs because its data were not there; `_notes` says what was left out of some."""
    ran = {result.task for run in runs for result in run.record.results}
    skipped = {t: why for run in runs for t, why in run.record.skipped.items() if t not in ran}
    return [skipped_note(skipped)] if skipped else []


def _notes(label: str, run: Run, baseline: Run) -> list[str]:
    ours, theirs = ([r.task for r in r_.record.results] for r_ in (run, baseline))
    notes = [f"{label}: {note}" for note in run.notes]
    notes += [f"{label}: {t} left out, the baseline has not run it" for t in ours if t not in theirs]
    notes += [f"{label}: {t} left out, only the baseline has run it" for t in theirs if t not in ours]
    a, b = run.record.settings, baseline.record.settings
    if a.dtype != b.dtype:
        notes.append(f"{label}: computed in {a.dtype}, the baseline in {b.dtype}")
    if a.image_settings != b.image_settings:
        notes.append(f"{label}: image settings {a.image_settings}, those of the baseline {b.image_settings}")
    return notes
