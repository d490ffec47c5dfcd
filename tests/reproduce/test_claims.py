"""Claim by claim: what the results of one scale say, and what they leave open."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from tests.reproduce.sample_results import made_folder, made_plan, made_profile
from vrbench.reproduce.claims import ClaimResult, claim_results, judge_estimate
from vrbench.reproduce.plan import save_plan
from vrbench.reproduce.report_tables import pairwise_tests
from vrbench.reproduce.results import read_results
from vrbench.reproduce.seed_estimate import ONE_SEED, SeedEstimate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_folder(tmp_path_factory.mktemp("results"), seeds=range(4))
    made_profile(made, 0.7)
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, ClaimResult]:
    return {f.claim.id: f for f in claim_results(read_results(folder))}


def test_they_are_in_the_papers_order(found: dict[str, ClaimResult]) -> None:
    assert list(found) == ["C1", "C2", "C3", "C4", "C5", "C6"]


def test_a_region_that_loses_a_tenth_refutes_99_percent(found: dict[str, ClaimResult]) -> None:
    assert found["C1"].verdict == "refuted"
    assert found["C1"].short.startswith("refuted: 89.7 [") and found["C1"].short.endswith("] %")


def test_text_is_judged_in_points_with_perplexity_beside(found: dict[str, ClaimResult]) -> None:
    points, perplexity = found["C2"].evidence
    assert points.figure.endswith(" points") and points.verdict is not None
    assert perplexity.what == "perplexity of words, kept" and perplexity.verdict is None


def test_time_is_judged_at_true_shapes(found: dict[str, ClaimResult], folder: Path) -> None:
    profiled, own = found["C3"].evidence
    assert found["C3"].verdict == "supported"
    assert profiled.what.startswith("llava-1.5-7b, lora, checkpointing off, sparse-uniform:8 of 32")
    assert profiled.figure == "30 %"
    assert own.figure == "25 %, 25 %, 25 %, 25 %" and own.verdict is None
    made_profile(folder, 1.2)
    slower = {f.claim.id: f for f in claim_results(read_results(folder))}["C3"]
    assert slower.verdict == "refuted" and slower.evidence[0].figure == "\N{MINUS SIGN}20 %"
    (folder / "profile.json").unlink()
    assert {f.claim.id: f for f in claim_results(read_results(folder))}["C3"].verdict == "undecided"


def test_pruning_is_against_the_same_model_unpruned(found: dict[str, ClaimResult], folder: Path) -> None:
    cost, better = found["C4"].evidence
    results = read_results(folder)
    pairs = {s: (f"run-pruned-s{s}", f"run-region-s{s}") for s in range(4)}
    own = results.bootstrap.retention(pairs, ("seen",))
    assert own is not None and cost.figure.startswith(f"{own.value:.1f} [")
    assert (cost.verdict, better.verdict, found["C4"].verdict) == ("refuted", "refuted", "refuted")
    whole = results.bootstrap.retention({s: (f"run-full-pruned-s{s}", f"run-full-s{s}") for s in range(4)}, ("seen",))
    assert whole is not None and better.figure.startswith(f"\N{MINUS SIGN}{whole.value - own.value:.2f} [")


def test_one_family_cannot_tell(found: dict[str, ClaimResult]) -> None:
    assert found["C5"].verdict == "undecided" and "one family, pocket" in found["C5"].evidence[0].figure


def test_restoring_is_judged_at_the_fewest_layers(found: dict[str, ClaimResult]) -> None:
    (part,) = found["C6"].evidence
    assert part.what == "visual score kept, 4 restored (middle)" and part.verdict == found["C6"].verdict


@pytest.mark.parametrize("table", ["layers", "text", "strategies"])
def test_any_table_that_has_the_region_tells_of_it(tmp_path: Path, table: str) -> None:
    plan, folder = made_plan(), made_folder(tmp_path)
    whole = [f.evidence[0].figure for f in claim_results(read_results(folder))[:2]]
    only = tuple(entry for entry in plan.entries if entry.table == table)
    save_plan(plan.model_copy(update={"tables": (table,), "entries": only}), folder)
    assert [f.evidence[0].figure for f in claim_results(read_results(folder))[:2]] == whole
    assert whole[0].endswith("] %") and whole[1].endswith("] points")


def test_nothing_measured_decides_nothing(tmp_path: Path) -> None:
    gone = [f"train-region-s{s}" for s in (0, 1)]
    left = {f.claim.id: f for f in claim_results(read_results(made_folder(tmp_path, without=gone)))}
    assert left["C1"].verdict == "undecided" and left["C1"].short.endswith("has been measured")


def test_undecided_says_what_would_decide() -> None:
    each = {0: 98.0, 1: 99.5, 2: 97.0}
    wide = SeedEstimate(98.2, (97.9, 98.5), 1.25, each, 400, 399)
    assert "about 13 seeds would refute it" in judge_estimate("x", "visual>=99%", wide).reason
    by_items = SeedEstimate(98.2, (97.0, 99.4), 0.0, each, 400, 399)
    assert "items would refute it" in judge_estimate("x", "visual>=99%", by_items).reason
    apart = SeedEstimate(98.9, (97.0, 100.8), 1.25, each, 400, 399)
    assert judge_estimate("x", "visual>=99%", apart).reason == "more seeds alone would not decide it"
    one = SeedEstimate(98.2, (97.0, 98.4), None, {0: 98.2}, 400, 399)
    assert ONE_SEED in judge_estimate("x", "visual>=99%", one).reason


def test_rows_are_told_apart_after_holm(folder: Path) -> None:
    results = read_results(folder)
    rows = [row for row in results.rows["strategies"] if not row.is_baseline]
    every = pairwise_tests(results, list(combinations(rows, 2)), ("seen",))
    assert len(every) == 3 and all(o.difference.value >= 0 for o in every)
    raw = sorted(o.difference.p or 0 for o in every)
    assert sorted(o.p_holm for o in every)[0] == pytest.approx(min(1, 3 * raw[0]))
    best = next(o for o in every if {o.better, o.worse} == {"sparse-uniform", "top"})
    assert best.better == "sparse-uniform" and best.is_significant
    (one,) = pairwise_tests(results, [(rows[0], rows[1])], ("seen",))
    assert one.p_holm == pytest.approx(one.difference.p)
