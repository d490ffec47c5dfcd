"""The paper's claims, C1 to C6, as statements that the results of one scale support, refute or leave undecided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from vrbench.reporting.formatting import interval, number
from vrbench.reproduce.published import CLAIMS, PaperClaim
from vrbench.reproduce.results import PlanResults
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.statistics.claims import judge, parse
from vrbench.statistics.schema import Verdict

Said = Literal["supported", "refuted", "undecided"]

KEEPS = 99.0
"""Retention in percent that the claims ask for."""

PRUNED = (1, 2, 3, 4)
"""Layers removed of which the paper says that they cost little."""

BETTER = (3, 4)
"""Layers removed at which the paper finds the region clearly better."""

OFFICIAL_SCORE = "angular"
"""What chooses the layers that go in the paper."""


@dataclass(frozen=True)
class ClaimEvidence:
    """One figure that a claim is judged by, or that is told beside it.

    Attributes:
        what: what it is a figure of.
        figure: with its interval and unit.
        verdict: what it says of the claim; None where it is only told.
        reason: why it is undecided, and what else a reader must know.
    """

    what: str
    figure: str
    verdict: Said | None = None
    reason: str = ""


@dataclass(frozen=True)
class ClaimResult:
    """One of the paper's claims and what the results say of it, at this scale."""

    statement: PaperClaim
    verdict: Said
    parts: tuple[ClaimEvidence, ...]
    reason: str = ""

    @property
    def short(self) -> str:
        """The verdict with its figure where one decides it, or with why there is none."""
        judged = [part for part in self.parts if part.verdict is not None]
        told = [self.reason] if self.reason else [judged[0].figure] if len(judged) == 1 else []
        return ": ".join([self.verdict, *told])


def claim_results(results: PlanResults) -> tuple[ClaimResult, ...]:
    """One a claim, in the paper's order."""
    made = {"C1": _c1, "C2": _c2, "C3": _c3, "C4": _c4, "C5": _c5, "C6": _c6}
    return tuple(_finding(statement, results, made[statement.id](results)) for statement in CLAIMS)


def _finding(statement: PaperClaim, results: PlanResults, parts: Sequence[ClaimEvidence]) -> ClaimResult:
    said = [part.verdict for part in parts if part.verdict is not None]
    if not said:
        reason = "" if statement.id == "C5" else "nothing that would tell has been measured"
        return ClaimResult(statement, "undecided", tuple(parts), reason)
    if len(set(said)) == 1:
        return ClaimResult(statement, said[0], tuple(parts))
    if statement.id == "C4" and "refuted" in said:
        return ClaimResult(statement, "refuted", tuple(parts), "it is meant of each part")
    return ClaimResult(statement, "undecided", tuple(parts), "the parts come out differently")


def judged(what: str, claim: str, found: SeedEstimate | None, note: str = "") -> ClaimEvidence:
    """A figure against a threshold, as `claims` judges it; what would decide it is told in seeds or items.

    Args:
        what: what it is a figure of.
        claim: such as 'visual>=99%'.
        found: the figure; None where it is missing.
    """
    if found is None:
        return ClaimEvidence(what, "-", None, note or "not measured")
    verdict = judge(parse(claim), found.n, found.value, found.ends)
    points = verdict.claim.unit == "points"
    figure = told(found, 2, " points", signed=True) if points else told(found, 1, " %")
    said = [_undecided(verdict, found) if verdict.verdict == "undecided" else "", found.note, note]
    return ClaimEvidence(what, figure, verdict.verdict, "; ".join(filter(None, said)))


def _undecided(verdict: Verdict, found: SeedEstimate) -> str:
    """What would decide it: seeds where they scatter, items where not."""
    if not found.scatter:
        return verdict.reason
    count = found.seeds_needed(verdict.claim.threshold)
    if count is None:
        return "more seeds alone would not decide it"
    side = "support" if found.value > verdict.claim.threshold else "refute"
    return f"if mean and scatter hold, about {count} seeds would {side} it"


def _c1(results: PlanResults) -> list[ClaimEvidence]:
    row = results.region()
    tasks = results.pool("visual")
    found = results.kept(row, tasks) if row else None
    return [judged("visual score kept by the region", f"visual>={KEEPS:.0f}%", found)]


def _c2(results: PlanResults) -> list[ClaimEvidence]:
    row, tasks = results.region(), results.pool("text")
    found = results.gained(row, tasks) if row else None
    parts = [judged("text score of the region against all layers", "text>=-1", found)]
    for task in results.ratios():
        kept = results.kept(row, [task]) if row else None
        if kept is not None:
            parts.append(ClaimEvidence(f"perplexity of {task}, kept", told(kept, 1, " %"), None, "told beside it"))
    return parts


def told(found: SeedEstimate, digits: int, unit: str, signed: bool = False) -> str:
    """'98.1 [96.0, 100.2] %'."""
    low, high = found.ends or (None, None)
    return interval(found.value, low, high, digits, signed) + unit


def _c3(results: PlanResults) -> list[ClaimEvidence]:
    parts = list(_profiled(results))
    seconds = _seconds(results)
    if seconds:
        text = ", ".join(f"{number(100 * (1 - ours / whole), 0)} %" for ours, whole in seconds)
        told_by = "wall time with what is not training, on cards that steps may share; told beside it"
        parts.append(ClaimEvidence("time saved by the region's own trainings, seed by seed", text, None, told_by))
    return parts


def _profiled(results: PlanResults) -> Iterable[ClaimEvidence]:
    """Each setting of the profile: time saved by 25 % of the layers, median of the timed steps."""
    whole = {row.key: row for row in results.profile if row.kind == "train" and row.seconds_per_step}
    for row in whole.values():
        other = whole.get(row.reference_key)
        if other is None or other is row or not row.layers.startswith("sparse-uniform"):
            continue
        assert row.seconds_per_step is not None and other.seconds_per_step is not None
        saved = 100 * (1 - row.seconds_per_step / other.seconds_per_step)
        recomputed = "on" if row.checkpointing else "off"
        what = f"{row.shape}, {row.tuning}, checkpointing {recomputed}, {row.layers} of {row.depth}: time saved a step"
        yield ClaimEvidence(what, f"{number(saved, 0)} %", "supported" if saved > 0 else "refuted")


def _seconds(results: PlanResults) -> list[tuple[float, float]]:
    """Seconds of the region's and of the baseline's training, seed by seed."""
    row = results.region()
    steps = {step.name: step for step in results.plan.steps}
    found = []
    for pair in row.pairs.values() if row else ():
        trained = [next((n for n in steps[run].needs if steps[n].kind == "train"), "") for run in pair]
        if all(name in results.done for name in trained):
            found.append((results.done[trained[0]].seconds, results.done[trained[1]].seconds))
    return found


def _c4(results: PlanResults) -> list[ClaimEvidence]:
    tasks = results.pool("visual")
    parts = []
    for by in _scores(results):
        series = f"region, by {by}"
        note = "" if by == OFFICIAL_SCORE else "told beside it"
        for x in PRUNED:
            pairs = unpruned_pairs(results, series, x)
            found = results.bootstrap.kept(pairs, tasks) if pairs else None
            if found is not None:
                part = judged(f"visual score kept, {x} removed from the {series}", f"visual>={KEEPS:.0f}%", found, note)
                parts.append(part if not note else ClaimEvidence(part.what, part.figure, None, note))
    for x in BETTER:
        ours, others = (unpruned_pairs(results, f"{s}, by {OFFICIAL_SCORE}", x) for s in ("region", "full"))
        more = results.bootstrap.kept_more(ours, others, tasks) if ours and others else None
        if more is not None:
            what = f"visual score kept, {x} removed by {OFFICIAL_SCORE}: region against all layers tuned"
            parts.append(judged(what, "visual>=0", more))
    return parts


def _scores(results: PlanResults) -> list[str]:
    """What chose the layers that went from the region; the paper's first."""
    names = [r.series.removeprefix("region, by ") for r in results.rows.get("pruning", ())]
    found = dict.fromkeys(n for n in names if n and "," not in n)
    return sorted(found, key=lambda name: name != OFFICIAL_SCORE)


def unpruned_pairs(results: PlanResults, series: str, x: float) -> dict[int, tuple[str, str]]:
    """Seed -> the run with x layers removed and the run of the same line with none removed."""
    rows = {row.x: row for row in results.rows.get("pruning", ()) if row.series == series}
    if x not in rows or 0 not in rows:
        return {}
    whole = rows[0].runs
    return {seed: (run, whole[seed]) for seed, run in rows[x].runs.items() if seed in whole}


def _c5(results: PlanResults) -> list[ClaimEvidence]:
    shapes = sorted({row.shape for row in results.profile})
    known = f"scores are from one family, {results.plan.family}"
    known += f"; time and memory from {', '.join(shapes)}" if shapes else ""
    return [ClaimEvidence("families measured here", known, None, "one family cannot tell")]


def _c6(results: PlanResults) -> list[ClaimEvidence]:
    rows = [row for row in results.rows.get("restoring", ()) if row.x]
    parts = []
    for row in rows:
        fewest = min(r.x for r in rows if r.series == row.series and r.x is not None)
        found = results.kept(row, results.pool("visual"))
        part = judged(f"visual score kept, {row.label} ({row.series})", f"visual>={KEEPS:.0f}%", found)
        parts.append(part if row.x == fewest else ClaimEvidence(part.what, part.figure, None, "told beside it"))
    return parts
