"""A board's rows: retention, intervals and verdicts against the baseline, what was done to the layers, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from vrbench.checkpoints.lineage import layer_origins
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import CheckpointRef, Lineage, Run, RunRecord
from vrbench.core.version import __version__
from vrbench.leaderboard.board import Board
from vrbench.leaderboard.schema import (
    LayerRegion,
    Leaderboard,
    LeaderboardRow,
    LeaderboardTask,
    Rank,
    RowCost,
    RowTaskScores,
    ScoreWithCI,
    Submission,
    SuiteMean,
    VerificationStatus,
)
from vrbench.leaderboard.untrusted_input.files import attempt
from vrbench.leaderboard.untrusted_input.parsing import parse_json
from vrbench.statistics import bootstrap, pairing
from vrbench.statistics.claims import POOLS, parse, parse_all
from vrbench.statistics.comparison import claim_verdict, comparison_row
from vrbench.statistics.pairing import PairedTask
from vrbench.statistics.schema import Claim, ComparisonRow, Verdict
from vrbench.tasks.metrics import METRICS
from vrbench.tasks.spec import TaskSpec

MIN_SECONDS, MAX_SECONDS = 1e-3, 1e12
"""Seconds that answering or training may have taken; what a submission says beyond them is not shown."""

_KEPT_ALL = ScoreWithCI(value=100.0, low=100.0, high=100.0)
RankedT = TypeVar("RankedT", SuiteMean | None, RowTaskScores)
_NO_DIFFERENCE = ScoreWithCI(value=0.0, low=0.0, high=0.0)


def leaderboard_row(board: Board, submission: Submission, run: Run, baseline: Run) -> LeaderboardRow:
    """Return the row of a submission, without ranks, which need all rows.

    Args:
        run: its record and samples, recomputed from its answers.
        baseline: that of its family's baseline; its own for a baseline.
    """
    pairs = {task: pairing.pair_task(task, run, baseline) for task in board.tasks}
    rows = {task: comparison_row(task, "task", pair.baseline.suite, {task: pair}) for task, pair in pairs.items()}
    record, is_baseline = run.record, submission.is_baseline
    return LeaderboardRow(
        **submission.model_dump(include={"org", "name", "revision", "description", "family", "baseline", "submitted"}),
        is_baseline=is_baseline,
        checkpoint=record.checkpoint.id,
        digest=record.checkpoint.digest,
        dtype=record.settings.dtype,
        region=layer_region(record.checkpoint),
        cost=row_cost(record),
        visual=_mean("visual", board.suites.visual, run, pairs, is_baseline),
        text=_mean("text", board.suites.text, run, pairs, is_baseline),
        verdicts=() if is_baseline else tuple(_verdict(parse(text), board, rows, pairs) for text in board.claims),
        tasks=tuple(_task_scores(task, run, rows[task], is_baseline) for task in board.tasks),
        status=VerificationStatus(kind="rescored", by=f"vrbench {__version__}", date=submission.submitted),
    )


def _task_scores(task: str, run: Run, row: ComparisonRow, is_baseline: bool) -> RowTaskScores:
    result = run.result(task)
    assert result.score is not None  # else the submission was refused
    return RowTaskScores(
        task=task,
        n=result.n,
        n_unscored=result.n_unscored,
        clusters=result.score.clusters,
        score=ScoreWithCI(value=result.score.value, low=result.score.low, high=result.score.high),
        difference=_NO_DIFFERENCE if is_baseline else _figure(row, "difference"),
        retention=_KEPT_ALL if is_baseline else _figure(row, "retention"),
    )


def _figure(row: ComparisonRow, name: Literal["difference", "retention"]) -> ScoreWithCI:
    return ScoreWithCI(value=getattr(row, name), low=getattr(row, f"{name}_low"), high=getattr(row, f"{name}_high"))


def _mean(
    name: str, tasks: Sequence[str], run: Run, pairs: Mapping[str, PairedTask], is_baseline: bool
) -> SuiteMean | None:
    """Return the mean over a suite's tasks; perplexities are not part of it."""
    used = {task: pairs[task] for task in tasks if pairs[task].in_mean}
    if not used:
        return None
    values = [score.value for score in (run.result(task).score for task in used) if score is not None]
    ends = bootstrap.mean_interval([pair.drawn for pair in used.values() if pair.drawn is not None])
    low, high = ends if ends is not None else (None, None)
    return SuiteMean(
        tasks=tuple(used),
        n=sum(run.result(task).n for task in used),
        score=ScoreWithCI(value=sum(values) / len(values), low=low, high=high),
        retention=_KEPT_ALL if is_baseline else _figure(comparison_row(name, "suite", name, used), "retention"),
    )


def _verdict(claim: Claim, board: Board, rows: Mapping[str, ComparisonRow], pairs: Mapping[str, PairedTask]) -> Verdict:
    """Return the verdict on a claim about a task, one of the board's two means, or a suite."""
    if claim.name in rows:
        return claim_verdict(claim, rows[claim.name], [pairs[claim.name]])
    suites = {claim.name, *POOLS.get(claim.name, ())}
    of_suites = tuple(task for task, pair in pairs.items() if pair.baseline.suite in suites)
    tasks = {"visual": board.suites.visual, "text": board.suites.text}.get(claim.name, of_suites)
    if not tasks:
        return Verdict(claim=claim, verdict="undecided", reason=f"the board has no task {claim.name}")
    used = {task: pairs[task] for task in tasks}
    row = comparison_row(claim.name, "suite", claim.name, used)
    return claim_verdict(claim, row, list(used.values()))


def layer_region(ref: CheckpointRef) -> LayerRegion:
    """Return the layers tuned and removed, by a checkpoint's lineage.

    Raises:
        VrbenchError: its steps do not lead to its depth.
    """
    found = layer_origins(ref.lineage, ref.depth)
    depth = found.first_depth
    tuned = tuple(found.numbers[i] for i in found.tuned)
    removed = LayerSet.none(depth) if not ref.lineage else LayerSet.of(found.numbers, depth).complement()
    steps = [step for lineage in reversed(ref.lineage) for step in lineage.steps]
    methods = [step.method or "weights" for step in steps if step.kind == "trained" and step.stage != "heal"]
    return LayerRegion(
        depth=depth,
        tuning=methods[-1] if tuned else "none",
        tuned=str(LayerSet(tuned, depth, allow_empty=True)),
        tuned_share=len(tuned) / depth,
        removed=str(removed),
        removed_share=len(removed) / depth,
        healed=any(step.stage == "heal" for step in steps),
    )


def row_cost(record: RunRecord) -> RowCost:
    """Return what training cost, as the lineage notes it, and how many items a second were answered and scored."""
    seconds, devices = _training(record.checkpoint.lineage)
    done = [result for result in record.results if result.status == "ok"]
    is_fresh = all(result.asked and not result.reused for result in done)  # else answers were stored already
    took = sum(result.seconds for result in done)
    return RowCost(
        seconds=seconds if seconds is not None and seconds <= MAX_SECONDS else None,
        device=", ".join(devices),
        items_per_second=sum(r.n for r in done) / took if is_fresh and MIN_SECONDS <= took <= MAX_SECONDS else None,
        measured_on=record.provenance.device,
    )


def _training(lineages: Sequence[Lineage]) -> tuple[float | None, list[str]]:
    """Return seconds and devices of all steps that trained LLM layers; no seconds if a step does not record them."""
    trained = [step for line in lineages for step in line.steps if step.kind == "trained" and step.layers != "none"]
    noted = [_seconds_and_device(step.note) for step in trained]
    seconds = [seconds for seconds, _ in noted if seconds is not None]
    total = sum(seconds) if noted and len(seconds) == len(noted) else None
    return total, list(dict.fromkeys(device for _, device in noted if device))


def _seconds_and_device(note: str) -> tuple[float | None, str]:
    fields = note_fields(note) or {}
    seconds, device = fields.get("seconds"), fields.get("device")
    usable = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < float("inf")
    return float(fields["seconds"]) if usable else None, device if isinstance(device, str) else ""


def note_fields(note: str) -> dict[str, Any] | None:
    """Return the fields of a step's note, a JSON object where vrbench wrote it; None for any other text."""
    found = attempt(lambda: parse_json(note, "the note"), [])
    return found if isinstance(found, dict) else None


def build_leaderboard(board: Board, specs: Mapping[str, TaskSpec], rows: Sequence[LeaderboardRow]) -> Leaderboard:
    """Return a board's `leaderboard.json`: the rows with their ranks, and what a reader needs to know of the tasks."""
    suites = {task: "visual" for task in board.suites.visual} | {task: "text" for task in board.suites.text}
    tasks = tuple(
        LeaderboardTask(
            **spec.model_dump(include={"id", "title", "metric", "higher_is_better", "chance", "n", "version"}),
            suite=suites.get(task, ""),
            unit=METRICS[spec.metric].kind,
        )
        for task, spec in specs.items()
    )
    claims = parse_all(board.claims)
    return Leaderboard(board=board.id, title=board.title, claims=claims, tasks=tasks, rows=ranked(rows, tasks))


def ranked(rows: Sequence[LeaderboardRow], tasks: Sequence[LeaderboardTask]) -> tuple[LeaderboardRow, ...]:
    """Return the rows with every score's rank, by visual score, best first, then by what names them."""
    columns = [
        _with_ranks([row.tasks[place] for row in rows], task.higher_is_better) for place, task in enumerate(tasks)
    ]
    visual, text = _with_ranks([row.visual for row in rows]), _with_ranks([row.text for row in rows])
    found = [
        row.model_copy(update={"visual": visual[place], "text": text[place], "tasks": tuple(c[place] for c in columns)})
        for place, row in enumerate(rows)
    ]
    return tuple(sorted(found, key=_order))


def _with_ranks(records: Sequence[RankedT], higher_is_better: bool = True) -> list[RankedT]:
    """Return one record of each row, or None, with the ranks of its score and of its retention."""
    scores = rank_scores([record.score if record else None for record in records], higher_is_better)
    retentions = rank_scores([record.retention if record else None for record in records])
    return [
        record
        if record is None
        else record.model_copy(
            update={
                "score": record.score.model_copy(update={"rank": score}),
                "retention": record.retention.model_copy(update={"rank": retention}),
            }
        )
        for record, score, retention in zip(records, scores, retentions, strict=True)
    ]


def rank_scores(scores: Sequence[ScoreWithCI | None], higher_is_better: bool = True) -> list[Rank | None]:
    """Return the places that each score may have among all, in the given order.

    A score is better than another only where its whole interval is, so that rows whose intervals overlap share places.
    Scores without an interval get no rank and count for none.
    """
    sign = 1.0 if higher_is_better else -1.0
    ends: dict[int, tuple[float, float]] = {}
    for place, score in enumerate(scores):
        if score is not None and score.low is not None and score.high is not None:
            low, high = sorted((sign * score.low, sign * score.high))
            ends[place] = (low, high)
    found: list[Rank | None] = [None] * len(scores)
    for place, (low, high) in ends.items():
        best = 1 + sum(other > high for other, _ in ends.values())
        found[place] = Rank(best=best, worst=sum(other >= low for _, other in ends.values()))
    return found


def _order(row: LeaderboardRow) -> tuple[float, float, str]:
    scores = (mean.score.value if mean is not None else None for mean in (row.visual, row.text))
    visual, text = (float("-inf") if score is None else score for score in scores)
    return -visual, -text, row.key
