"""The paper's claims, C1 to C6: whether the results of one scale support, refute or leave them undecided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from vrbench.reporting.formatting import interval, number
from vrbench.reproduce.results import PlanResults
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import CLAIMS, PaperClaim
from vrbench.statistics.claims import judge, parse
from vrbench.statistics.schema import Verdict

ClaimVerdict = Literal["supported", "refuted", "undecided"]

RETENTION = "visual>=99%"
"""What the claims ask for."""

REMOVED_CHEAP = (1, 2, 3, 4)
"""Numbers of removed layers that cost little according to the paper."""

REMOVED_BETTER = (3, 4)
"""Layers removed at which the paper finds the region clearly better."""

OFFICIAL_SCORE = "angular"
"""The paper's score of layers to remove."""

NOT_JUDGED = "not judged"
"""Reason of evidence without a verdict."""


@dataclass(frozen=True)
class ClaimEvidence:
    """One value that a claim is judged by, or that is reported without a verdict.

    Attributes:
        what: what it measures.
        figure: with its interval and unit.
        verdict: what it implies for the claim; None where it is only shown.
        reason: why it is undecided, and notes.
    """

    what: str
    figure: str
    verdict: ClaimVerdict | None = None
    reason: str = ""

    def without_verdict(self) -> ClaimEvidence:
        """Return the same without a verdict."""
        return replace(self, verdict=None, reason=NOT_JUDGED)


@dataclass(frozen=True)
class ClaimResult:
    """One of the paper's claims and the verdict of the results, at this scale."""

    claim: PaperClaim
    verdict: ClaimVerdict
    evidence: tuple[ClaimEvidence, ...]
    reason: str = ""

    @property
    def short(self) -> str:
        """The verdict with its figure where one decides it, or with the reason why there is none."""
        judged = [one.figure for one in self.evidence if one.verdict is not None]
        detail = self.reason or (judged[0] if len(judged) == 1 else "")
        return ": ".join(filter(None, [self.verdict, detail]))


def claim_results(results: PlanResults) -> tuple[ClaimResult, ...]:
    """Return one result a claim, in the paper's order."""
    tests: dict[str, Callable[[PlanResults], Iterator[ClaimEvidence]]] = {
        "C1": _c1, "C2": _c2, "C3": _c3, "C4": _c4, "C5": _c5, "C6": _c6,
    }  # fmt: skip
    return tuple(_result(claim, tuple(tests[claim.id](results))) for claim in CLAIMS)


def _result(claim: PaperClaim, evidence: tuple[ClaimEvidence, ...]) -> ClaimResult:
    verdicts = {one.verdict for one in evidence if one.verdict is not None}
    if not verdicts:
        reason = "" if claim.id == "C5" else "no evidence has been measured"
        return ClaimResult(claim, "undecided", evidence, reason)
    if len(verdicts) == 1:
        return ClaimResult(claim, verdicts.pop(), evidence)
    if claim.id == "C4" and "refuted" in verdicts:
        return ClaimResult(claim, "refuted", evidence, "the claim covers each part")
    return ClaimResult(claim, "undecided", evidence, "the evidence is mixed")


def judge_estimate(what: str, claim: str, found: SeedEstimate | None) -> ClaimEvidence:
    """Judge a figure against a threshold by `vrbench.statistics.claims`.

    Args:
        what: what it measures.
        claim: such as 'visual>=99%'.
        found: the figure; None where it is missing.
    """
    if found is None:
        return ClaimEvidence(what, "-", None, "not measured")
    verdict = judge(parse(claim), found.n, found.value, found.ends)
    points = verdict.claim.unit == "points"
    figure = with_interval(found, 2, " points", signed=True) if points else with_interval(found, 1, " %")
    reasons = [_undecided(verdict, found) if verdict.verdict == "undecided" else "", found.note]
    return ClaimEvidence(what, figure, verdict.verdict, "; ".join(filter(None, reasons)))


def _undecided(verdict: Verdict, found: SeedEstimate) -> str:
    """Return what would decide the claim: more seeds where they vary, else more items."""
    if not found.sd:
        return verdict.reason
    count = found.seeds_needed(verdict.claim.threshold)
    if count is None:
        return "more seeds alone would not decide it"
    side = "support" if found.value > verdict.claim.threshold else "refute"
    return f"if mean and deviation hold, about {count} seeds would {side} it"


def with_interval(found: SeedEstimate, digits: int, unit: str, signed: bool = False) -> str:
    """Return a text such as '98.1 [96.0, 100.2] %'."""
    low, high = found.ends or (None, None)
    return interval(found.value, low, high, digits, signed) + unit


def _c1(results: PlanResults) -> Iterator[ClaimEvidence]:
    row = results.region()
    found = results.retention(row, results.pool("visual")) if row else None
    yield judge_estimate("visual score kept by the region", RETENTION, found)


def _c2(results: PlanResults) -> Iterator[ClaimEvidence]:
    row = results.region()
    found = results.difference(row, results.pool("text")) if row else None
    yield judge_estimate("text score of the region against all layers", "text>=-1", found)
    for task in results.perplexities():
        if row and (kept := results.retention(row, [task])):
            yield ClaimEvidence(f"perplexity of {task}, kept", with_interval(kept, 1, " %"), None, NOT_JUDGED)


def _c3(results: PlanResults) -> Iterator[ClaimEvidence]:
    """Yield time saved by 25 % of the layers: by each setting of the profile, and by the plan's own trainings."""
    timed = {row.key: row for row in results.profile if row.kind == "train" and row.seconds_per_step}
    for row in timed.values():
        whole = timed.get(row.reference_key)
        if whole is None or whole is row or not row.layers.startswith("sparse-uniform"):
            continue
        saved = 100 * (1 - (row.seconds_per_step or 0.0) / (whole.seconds_per_step or 1.0))
        recomputed = "on" if row.checkpointing else "off"
        what = f"{row.shape}, {row.tuning}, checkpointing {recomputed}, {row.layers} of {row.depth}: time saved a step"
        yield ClaimEvidence(what, f"{number(saved, 0)} %", "supported" if saved > 0 else "refuted")
    if seconds := _training_seconds(results):
        text = ", ".join(f"{number(100 * (1 - own / whole), 0)} %" for own, whole in seconds)
        reason = f"wall time including start-up, on GPUs that steps may share; {NOT_JUDGED}"
        yield ClaimEvidence("time saved by the region's own trainings, seed by seed", text, None, reason)


def _training_seconds(results: PlanResults) -> list[tuple[float, float]]:
    """Return seconds of the region's and of the baseline's training, seed by seed."""
    row, steps = results.region(), {step.name: step for step in results.plan.steps}
    found = []
    for pair in row.pairs.values() if row else ():
        trained = [next((n for n in steps[run].needs if steps[n].kind == "train"), "") for run in pair]
        if all(name in results.done for name in trained):
            found.append((results.done[trained[0]].seconds, results.done[trained[1]].seconds))
    return found


def _c4(results: PlanResults) -> Iterator[ClaimEvidence]:
    tasks = results.pool("visual")
    names = [row.series.removeprefix("region, by ") for row in results.rows.get("pruning", ())]
    scores = dict.fromkeys(name for name in names if name and "," not in name)
    for by in sorted(scores, key=lambda name: name != OFFICIAL_SCORE):
        for x in REMOVED_CHEAP:
            pairs = _pruned_pairs(results, f"region, by {by}", x)
            if found := results.bootstrap.retention(pairs, tasks):
                one = judge_estimate(f"visual score kept, {x} removed from the region, by {by}", RETENTION, found)
                yield one if by == OFFICIAL_SCORE else one.without_verdict()
    for x in REMOVED_BETTER:
        region, full = (_pruned_pairs(results, f"{s}, by {OFFICIAL_SCORE}", x) for s in ("region", "full"))
        if more := results.bootstrap.retention_difference(region, full, tasks):
            what = f"visual score kept, {x} removed by {OFFICIAL_SCORE}: region against all layers tuned"
            yield judge_estimate(what, "visual>=0", more)


def _pruned_pairs(results: PlanResults, series: str, x: float) -> dict[int, tuple[str, str]]:
    """Return seed -> the run with x layers removed, and the run of the same curve with none removed."""
    rows = {row.x: row for row in results.rows.get("pruning", ()) if row.series == series}
    if x not in rows or 0 not in rows:
        return {}
    whole = rows[0].runs
    return {seed: (run, whole[seed]) for seed, run in rows[x].runs.items() if seed in whole}


def _c5(results: PlanResults) -> Iterator[ClaimEvidence]:
    shapes = sorted({row.shape for row in results.profile})
    known = f"scores are from one family, {results.plan.family}"
    known += f"; time and memory from {', '.join(shapes)}" if shapes else ""
    yield ClaimEvidence("families measured here", known, None, "one family cannot decide it")


def _c6(results: PlanResults) -> Iterator[ClaimEvidence]:
    rows = [row for row in results.rows.get("restoring", ()) if row.x]
    for row in rows:
        fewest = min(r.x for r in rows if r.series == row.series and r.x is not None)
        found = results.retention(row, results.pool("visual"))
        one = judge_estimate(f"visual score kept, {row.label} ({row.series})", RETENTION, found)
        yield one if row.x == fewest else one.without_verdict()
