"""A submission's run and its baseline's -> its row: what it keeps, how surely, and what was done to its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vrbench.checkpoints.lineage import origins
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import CheckpointRef, Lineage, Run, RunRecord
from vrbench.core.version import __version__
from vrbench.leaderboard.board import Board
from vrbench.leaderboard.schema import Cost, Figure, Mean, Region, Standing, Status, TaskStanding
from vrbench.leaderboard.submission import Submission
from vrbench.leaderboard.untrusted_input import parse_json
from vrbench.statistics import bootstrap, pairing
from vrbench.statistics.claims import POOLS, Claim, Verdict, parse
from vrbench.statistics.comparison import ComparisonRow, row_of, verdict_of
from vrbench.statistics.pairing import PairedTask

_SAME = Figure(value=100.0, low=100.0, high=100.0)
_NO_CHANGE = Figure(value=0.0, low=0.0, high=0.0)


SHORTEST, LONGEST = 1e-3, 1e12
"""Seconds that answering or training may have taken; what a submission says beyond them is no figure."""


def standing_of(board: Board, submission: Submission, run: Run, baseline: Run) -> Standing:
    """The row of a submission whose every figure was rebuilt; its ranks are made when all rows are there.

    Args:
        run: its record and samples.
        baseline: that of its family's baseline; its own for a baseline.
    """
    pairs = {task: pairing.pair_task(task, run, baseline) for task in board.tasks}
    rows = {task: row_of(task, "task", pair.baseline.suite, {task: pair}, tested=False) for task, pair in pairs.items()}
    record, first = run.record, submission.is_baseline
    return Standing(
        org=submission.org,
        name=submission.name,
        revision=submission.revision,
        description=submission.description,
        family=submission.family,
        baseline=submission.baseline,
        is_baseline=first,
        checkpoint=record.checkpoint.id,
        digest=record.checkpoint.digest,
        dtype=record.settings.dtype,
        submitted=submission.submitted,
        region=region_of(record.checkpoint),
        cost=cost_of(record),
        visual=_mean("visual", board.suites.visual, run, pairs, first),
        text=_mean("text", board.suites.text, run, pairs, first),
        verdicts=() if first else tuple(_verdict(parse(text), board, rows, pairs) for text in board.claims),
        tasks=tuple(_task(task, run, rows[task], first) for task in board.tasks),
        status=Status(kind="rescored", by=f"vrbench {__version__}", date=submission.submitted),
    )


def _task(task: str, run: Run, row: ComparisonRow, is_baseline: bool) -> TaskStanding:
    result = run.result(task)
    assert result.score is not None  # else the submission was refused
    return TaskStanding(
        task=task,
        n=result.n,
        n_unscored=result.n_unscored,
        clusters=result.score.clusters,
        score=Figure(value=result.score.value, low=result.score.low, high=result.score.high),
        difference=_NO_CHANGE if is_baseline else _difference(row),
        retention=_SAME if is_baseline else _retention(row),
    )


def _mean(name: str, tasks: Sequence[str], run: Run, pairs: Mapping[str, PairedTask], is_baseline: bool) -> Mean | None:
    """The mean over a suite's tasks; a perplexity is in none."""
    used = {task: pairs[task] for task in tasks if pairs[task].in_mean}
    if not used:
        return None
    scores = [run.result(task).score for task in used]
    values = [score.value for score in scores if score is not None]
    ends = bootstrap.mean_interval([pair.drawn for pair in used.values() if pair.drawn is not None])
    low, high = ends if ends is not None else (None, None)
    return Mean(
        tasks=tuple(used),
        n=sum(run.result(task).n for task in used),
        score=Figure(value=sum(values) / len(values), low=low, high=high),
        retention=_SAME if is_baseline else _retention(row_of(name, "suite", name, used, tested=False)),
    )


def _verdict(claim: Claim, board: Board, rows: Mapping[str, ComparisonRow], pairs: Mapping[str, PairedTask]) -> Verdict:
    """What a claim's tasks say of it: a task, one of the board's two means, or a suite."""
    if claim.name in rows:
        return verdict_of(claim, rows[claim.name], [pairs[claim.name]])
    tasks = members(claim.name, board, pairs)
    if not tasks:
        return Verdict(claim=claim, verdict="undecided", reason=f"the board has no task {claim.name}")
    spoken = {task: pairs[task] for task in tasks}
    return verdict_of(claim, row_of(claim.name, "suite", claim.name, spoken, tested=False), list(spoken.values()))


def members(name: str, board: Board, pairs: Mapping[str, PairedTask]) -> tuple[str, ...]:
    """The tasks of a claim's name: 'visual' and 'text' are the board's means, others are suites."""
    means = {"visual": board.suites.visual, "text": board.suites.text}
    if name in means:
        return means[name]
    suites = {name, *POOLS.get(name, ())}
    return tuple(task for task, pair in pairs.items() if pair.baseline.suite in suites)


def _difference(row: ComparisonRow) -> Figure:
    return Figure(value=row.difference, low=row.difference_low, high=row.difference_high)


def _retention(row: ComparisonRow) -> Figure:
    return Figure(value=row.retention, low=row.retention_low, high=row.retention_high)


def region_of(ref: CheckpointRef) -> Region:
    """Layers tuned and removed, by a checkpoint's lineage.

    Raises:
        VrbenchError: its steps do not lead to its depth.
    """
    found = origins(ref.lineage, ref.depth)
    depth = found.first_depth
    tuned = [found.numbers[i] for i in found.tuned]
    removed = LayerSet.none(depth) if not ref.lineage else LayerSet.of(found.numbers, depth).complement()
    steps = [step for lineage in reversed(ref.lineage) for step in lineage.steps]
    ways = [step.method or "weights" for step in steps if step.kind == "trained" and step.stage != "heal"]
    return Region(
        depth=depth,
        tuning=ways[-1] if tuned else "none",
        tuned=str(LayerSet(tuple(tuned), depth, allow_empty=True)),
        tuned_share=len(tuned) / depth,
        removed=str(removed),
        removed_share=len(removed) / depth,
        healed=any(step.stage == "heal" for step in steps),
    )


def cost_of(record: RunRecord) -> Cost:
    """What training cost, as the lineage notes it, and how many items a second were answered and scored."""
    seconds, devices = _training(record.checkpoint.lineage)
    asked = [result for result in record.results if result.status == "ok"]
    fresh = all(result.asked and not result.reused for result in asked)  # else answers were in the store already
    took = sum(result.seconds for result in asked)
    return Cost(
        seconds=seconds if seconds is not None and seconds <= LONGEST else None,
        device=", ".join(devices),
        items_per_second=sum(r.n for r in asked) / took if fresh and SHORTEST <= took <= LONGEST else None,
        measured_on=record.provenance.device,
    )


def _training(lineages: Sequence[Lineage]) -> tuple[float | None, list[str]]:
    """Seconds of all steps that trained layers of the LLM, and where; none where a step does not say."""
    noted = [
        _noted(step.note)
        for lineage in lineages
        for step in lineage.steps
        if step.kind == "trained" and step.layers != "none"
    ]
    devices = list(dict.fromkeys(device for _, device in noted if device))
    known = [seconds for seconds, _ in noted if seconds is not None]
    return (sum(known) if noted and len(known) == len(noted) else None), devices


def _noted(note: str) -> tuple[float | None, str]:
    """Seconds and device in a training step's note, which is a JSON object where vrbench wrote it."""
    try:
        told = parse_json(note, "the note")
    except VrbenchError:
        return None, ""
    if not isinstance(told, dict):
        return None, ""
    seconds, device = told.get("seconds"), told.get("device")
    usable = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < float("inf")
    return float(told["seconds"]) if usable else None, device if isinstance(device, str) else ""
