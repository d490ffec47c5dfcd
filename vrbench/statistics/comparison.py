"""Comparison of runs: each candidate's retention of the baseline's scores, intervals, and verdicts on claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from vrbench.core.cpu_count import usable_cores
from vrbench.core.errors import VrbenchError, collect_errors, raise_errors
from vrbench.core.run_storage import load_run
from vrbench.core.schemas import Run, unscored_note
from vrbench.data.locate import skipped_note
from vrbench.statistics import bootstrap, pairing
from vrbench.statistics.claims import DEFAULT_CLAIMS, POOLS, judge, parse_all
from vrbench.statistics.merge_runs import join
from vrbench.statistics.pairing import PairedTask
from vrbench.statistics.schema import CandidateComparison, Claim, Comparison, ComparisonRow, Verdict

MIN_DRAWS = 100
"""Fewest bootstrap draws that are accepted."""

Tests = Mapping[tuple[str, ...], tuple[float, str]]
"""Tasks -> p value of no difference in their mean, and name of the test."""


def compare_paths(
    paths: Sequence[str | Path],
    baseline: str | Path | Sequence[str | Path],
    claims: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = bootstrap.DRAWS,
) -> Comparison:
    """Compare runs on disk; several runs of one checkpoint, the baseline's too, are joined.

    Raises:
        VrbenchError: as `compare`, `join` and `load_run`, or a baseline of several checkpoints.
    """
    errors: list[str] = []
    bases = _load_runs([baseline] if isinstance(baseline, (str, Path)) else baseline, errors)
    runs = _load_runs(paths, errors)
    raise_errors(errors)
    known = {run.record.inputs_digest for run in bases}
    candidates = join([run for run in runs if run.record.inputs_digest not in known])
    base = join(bases)
    if len(base) != 1:
        named = ", ".join(run.record.checkpoint.id for run in base)
        raise VrbenchError(f"the baseline must be runs of one checkpoint, not of {len(base)} ({named})")
    return compare(candidates or base[: len(runs)], base[0], claims, seed, draws)


def _load_runs(given: Sequence[Run | str | Path], errors: list[str]) -> list[Run]:
    runs: list[Run] = []
    for one in given:
        with collect_errors(errors):
            if not isinstance(one, (Run, str, Path)):
                raise VrbenchError(f"{one!r} is not a run; give what `evaluate` or `load_run` returns, or its folder")
            runs.append(one if isinstance(one, Run) else load_run(one))
    return runs


def compare(
    runs: Run | str | Path | Sequence[Run | str | Path],
    baseline: Run | str | Path,
    claims: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = bootstrap.DRAWS,
) -> Comparison:
    """Compare runs with a baseline run over the same items.

    Args:
        runs: the candidates, or a single one, each a run or its folder; the baseline among them is ignored.
        baseline: the run that they are compared with, or its folder.
        claims: such as 'visual>=99%'; None for the default claims that have tasks in the runs.
        seed: random seed of the bootstrap.
        draws: bootstrap draws, at least `MIN_DRAWS`.

    Raises:
        VrbenchError: nothing to compare, runs with different data, limits, seeds, task versions or prompts, an invalid
            claim, or too few draws; all reported together.
    """
    given = [runs] if isinstance(runs, (Run, str, Path)) or not isinstance(runs, Iterable) else list(runs)
    errors: list[str] = []
    loaded = _load_runs([baseline, *given], errors)
    raise_errors(errors)
    return _compare(loaded[1:], loaded[0], claims, seed, draws)


def _compare(runs: list[Run], baseline: Run, claims: Sequence[str] | None, seed: int, draws: int) -> Comparison:
    candidates = pairing.candidates_of(runs, baseline)
    base_label, *names = pairing.labels([baseline, *candidates])
    labelled = dict(zip(names, candidates, strict=True))
    parsed = parse_all(DEFAULT_CLAIMS if claims is None else claims)
    errors = [error for label, run in labelled.items() for error in pairing.validate_pair(run, baseline, label)]
    shared = {label: pairing.common_tasks(run, baseline) for label, run in labelled.items()}
    if claims is None:
        parsed = tuple(c for c in parsed if any(_covered_tasks(c.name, baseline, tasks) for tasks in shared.values()))
    errors += [
        f"claim {c.text!r} names no task or suite that {label} and the baseline share"
        for c in parsed
        for label, tasks in shared.items()
        if claims is not None and tasks and not _covered_tasks(c.name, baseline, tasks)
    ]
    if draws < MIN_DRAWS:
        errors.append(f"{draws} bootstrap draws are too few for an interval; use at least {MIN_DRAWS}")
    raise_errors(errors)
    pairs = {
        label: {t: pairing.pair_counts(t, run, baseline) for t in shared[label]} for label, run in labelled.items()
    }
    with ThreadPoolExecutor(usable_cores()) as pool:  # numpy releases the interpreter's lock while it draws
        drawn = pool.submit(_draw_tasks, pairs, seed, draws)
        tests = {
            label: {tasks: pool.submit(_test, [of[t] for t in tasks], seed) for tasks in _tested(of, baseline, parsed)}
            for label, of in pairs.items()
        }
    found = {label: {tasks: test.result() for tasks, test in of.items()} for label, of in tests.items()}
    compared = tuple(
        _compare_candidate(label, run, baseline, drawn.result()[label], parsed, found[label])
        for label, run in labelled.items()
    )
    return Comparison(
        baseline_label=base_label,
        baseline=baseline.record.checkpoint,
        baseline_sources=baseline.sources,
        candidates=compared,
        claims=parsed,
        limit=baseline.record.settings.limit,
        draws=draws,
        seed=seed,
        notes=(
            *(f"{base_label}: {note}" for note in baseline.notes),
            *_skipped([baseline, *candidates]),
            *(note for label, run in labelled.items() for note in _notes(label, run, baseline)),
        ),
    )


def _draw_tasks(
    pairs: Mapping[str, Mapping[str, PairedTask]], seed: int, draws: int
) -> dict[str, dict[str, PairedTask]]:
    """Return the pairs of each candidate and task with their bootstrap samples."""
    drawn: dict[str, dict[str, PairedTask]] = {label: dict(of) for label, of in pairs.items()}
    for task in dict.fromkeys(task for of in pairs.values() for task in of):
        having = [label for label, of in pairs.items() if task in of]
        found = pairing.draw_task(task, [pairs[label][task] for label in having], seed, draws)
        for label, pair in zip(having, found, strict=True):
            drawn[label][task] = pair
    return drawn


def _means(pairs: Mapping[str, PairedTask], baseline: Run, claims: Sequence[Claim]) -> dict[str, list[str]]:
    """Return the tasks of each row that is a mean over tasks: the suites, then what else claims name."""
    suites = _suites(pairs)
    means = {s: _covered_tasks(s, baseline, list(pairs)) for s in dict.fromkeys([*suites, *(c.name for c in claims)])}
    return {s: tasks for s, tasks in means.items() if s not in pairs and (s in suites or tasks)}


def _suites(pairs: Mapping[str, PairedTask]) -> list[str]:
    """Return the suites with a mean, and those with a failed task."""
    return list(dict.fromkeys(p.baseline.suite for p in pairs.values() if p.in_mean or p.counts is None))


def _used(kind: Literal["task", "suite"], pairs: Mapping[str, PairedTask]) -> dict[str, PairedTask]:
    """Return the pairs with a figure; of a suite those that are part of its mean."""
    return {t: p for t, p in pairs.items() if (p.in_mean if kind == "suite" else p.counts is not None)}


def _tested(pairs: Mapping[str, PairedTask], baseline: Run, claims: Sequence[Claim]) -> dict[tuple[str, ...], None]:
    """Return the tasks of each row that has a p value; several rows may have the same tasks."""
    means = _means(pairs, baseline, claims).values()
    suites = (tuple(_used("suite", {t: pairs[t] for t in tasks})) for tasks in means)
    return dict.fromkeys(tasks for tasks in (*((t,) for t in _used("task", pairs)), *suites) if tasks)


def _test(pairs: Sequence[PairedTask], seed: int) -> tuple[float, str]:
    return bootstrap.p_value([p.counts for p in pairs if p.counts is not None], seed)


def _compare_candidate(
    label: str, run: Run, baseline: Run, pairs: Mapping[str, PairedTask], claims: Sequence[Claim], tests: Tests
) -> CandidateComparison:
    rows = {t: comparison_row(t, "task", p.baseline.suite, {t: p}, tests) for t, p in pairs.items()}
    covered = {c.name: _covered_tasks(c.name, baseline, list(pairs)) for c in claims}
    means = {
        s: comparison_row(s, "suite", s, {t: pairs[t] for t in tasks}, tests)
        for s, tasks in _means(pairs, baseline, claims).items()
    }
    suites = _suites(pairs)
    pools = {s for s in means if s not in suites and len({pairs[t].baseline.suite for t in covered[s]}) > 1}
    return CandidateComparison(
        label=label,
        checkpoint=run.record.checkpoint,
        sources=run.sources,
        tasks=_apply_holm(list(rows.values())),
        suites=_apply_holm([row for s, row in means.items() if s in suites or s in pools]),
        verdicts=tuple(
            claim_verdict(claim, (rows | means)[claim.name], [pairs[t] for t in covered[claim.name]])
            for claim in claims
            if covered[claim.name]
        ),
    )


def _covered_tasks(name: str, baseline: Run, tasks: Sequence[str]) -> list[str]:
    """Return the tasks that a claim's name covers."""
    suites = {name, *POOLS.get(name, ())}
    return [t for t in tasks if t == name or baseline.result(t).suite in suites]


def comparison_row(
    name: str,
    kind: Literal["task", "suite"],
    suite: str,
    pairs: Mapping[str, PairedTask],
    tests: Tests = MappingProxyType({}),
) -> ComparisonRow:
    """Return the values of one task, or of the mean over several.

    Args:
        name: of the task or suite.
        suite: of the task; the name itself for a suite.
        pairs: task -> both runs on it, at least one.
        tests: tasks -> p value and test's name; the row of other tasks has none.
    """
    used = _used(kind, pairs)
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
        return ComparisonRow(status="error", error=_missing_reason(pairs), **known)
    p, test = tests.get(tuple(used), (None, ""))
    return ComparisonRow(**known, **_figures(list(used.values())), p=p, test=test)


def _figures(pairs: Sequence[PairedTask]) -> dict[str, Any]:
    """Return the values of a row, from one task or from the mean over several."""
    counts = [p.counts for p in pairs if p.counts is not None]
    drawn = [p.drawn for p in pairs if p.drawn is not None]
    higher = pairs[0].baseline.higher_is_better
    base, value = (sum(c.values[i] for c in counts) / len(counts) for i in (0, 1))
    below, above = (base, value) if higher else (value, base)
    retention = bootstrap.retention_interval(drawn, higher) if below > 0 else None
    difference = bootstrap.difference_interval(drawn)
    return {
        "unit": counts[0].metric.kind,
        "n": sum(p.n for p in pairs),
        "clusters": sum(len(c.baseline) for c in counts),
        "baseline": base,
        "candidate": value,
        "difference": value - base,
        "difference_low": difference[0] if difference else None,
        "difference_high": difference[1] if difference else None,
        "retention": 100.0 * above / below if below > 0 else None,
        "retention_low": retention[0] if retention else None,
        "retention_high": retention[1] if retention else None,
    }


def _row_note(kind: str, pairs: Mapping[str, PairedTask], used: Mapping[str, PairedTask]) -> str:
    if kind == "suite":
        ratio = [t for t, p in pairs.items() if p.counts is not None and t not in used]
        failed = [t for t, p in pairs.items() if p.counts is None]
        notes = [f"{', '.join(ratio)} not in the mean (not a 0-100 score)"] if ratio else []
        return "; ".join(notes + ([f"without {', '.join(failed)}, which failed"] if failed else []))
    (pair,) = pairs.values()
    notes = [pair.baseline.note] if pair.baseline.note else []
    if not pair.baseline.complete:
        notes.append("not the whole task")
    if unscored := unscored_note(pair.unscored, pair.n + pair.unscored):
        notes.append(f"of both runs, {unscored}")
    notes += _warnings(pair)
    score, chance = pair.baseline.score, pair.baseline.chance
    if score is not None and chance is not None and score.low <= chance:
        notes.append("the baseline is not above chance")
    return "; ".join(dict.fromkeys(notes))


def _warnings(pair: PairedTask) -> Iterator[str]:
    """Yield either run's warnings, and a note on items that only one of the two could score."""
    if any(pair.unscored_alone):
        base, own = pair.unscored_alone
        yield f"left out of both runs: {base:,} items unscored in the baseline alone, {own:,} in the candidate alone"
    base_warnings, warnings = pair.baseline.warnings, pair.candidate.warnings
    for text in dict.fromkeys((*base_warnings, *warnings)):
        who = "candidate" if text not in base_warnings else "both runs" if text in warnings else "baseline"
        yield f"{who}: {text}"


def _missing_reason(pairs: Mapping[str, PairedTask]) -> str:
    notes: list[str] = []
    for task, pair in pairs.items():
        for who, result in (("baseline", pair.baseline), ("candidate", pair.candidate)):
            if result.status == "error":
                notes.append(f"{task} failed in the {who}: {result.error or 'no reason recorded'}")
        if pair.counts is None and "error" not in (pair.baseline.status, pair.candidate.status):
            notes.append(f"{task}: no item was scored in both runs")
    return "; ".join(notes) or "no task with a 0-100 score"


def claim_verdict(claim: Claim, row: ComparisonRow, pairs: Sequence[PairedTask]) -> Verdict:
    """Return the verdict of a row on a claim; `pairs` are the tasks that it covers."""
    failed = [p.baseline.task for p in pairs if p.counts is None]
    if failed or row.status == "error":
        reason = row.error or f"{', '.join(failed)} failed"
        return Verdict(claim=claim, verdict="undecided", n=row.n, reason=reason)
    if claim.unit == "retention":
        return judge(claim, row.n, row.retention, _ends(row.retention_low, row.retention_high))
    if row.kind == "task" and not pairs[0].in_mean:
        return Verdict(claim=claim, verdict="undecided", n=row.n, reason="it has no points; claim a retention in %")
    return judge(claim, row.n, row.difference, _ends(row.difference_low, row.difference_high))


def _ends(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


def _apply_holm(rows: Sequence[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    tested = [row.p for row in rows if row.p is not None]
    adjusted = iter(bootstrap.holm(tested))
    return tuple(r if r.p is None else r.model_copy(update={"p_holm": next(adjusted)}) for r in rows)


def _skipped(runs: Sequence[Run]) -> list[str]:
    """Return notes on tasks that all runs skipped for lack of data; those of single runs are in `_notes`."""
    ran = {result.task for run in runs for result in run.record.results}
    skipped = {t: why for run in runs for t, why in run.record.skipped.items() if t not in ran}
    return [skipped_note(skipped)] if skipped else []


def _notes(label: str, run: Run, baseline: Run) -> list[str]:
    tasks, base_tasks = ([r.task for r in of.record.results] for of in (run, baseline))
    notes = [f"{label}: {note}" for note in run.notes]
    notes += [f"{label}: {t} left out, since the baseline was not run on it" for t in tasks if t not in base_tasks]
    notes += [f"{label}: {t} left out, since only the baseline was run on it" for t in base_tasks if t not in tasks]
    a, b = run.record.settings, baseline.record.settings
    if a.dtype != b.dtype:
        notes.append(f"{label}: computed in {a.dtype}, the baseline in {b.dtype}")
    if a.backend != b.backend:
        notes.append(f"{label}: computed by {a.backend}, the baseline by {b.backend}")
    if a.image_settings != b.image_settings:
        notes.append(f"{label}: image settings {a.image_settings}, those of the baseline {b.image_settings}")
    return notes
