"""Comparisons of simulated runs: figures, refusals, suites, claims."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from tests.simulated import changed, flipped, run, samples, saved
from vrbench import reporting
from vrbench.cli import evaluation
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.io import digest_of
from vrbench.core.schemas import Run
from vrbench.statistics import bootstrap
from vrbench.statistics.comparison import compare, compare_paths, comparison_row
from vrbench.statistics.pairing import pair_task
from vrbench.statistics.schema import Comparison, ComparisonRow

BASE = (np.arange(400) % 10 < 8).astype(float)
TEXTS = -np.random.default_rng(0).uniform(50, 100, 60)


def made(name: str, visual_loss: float = 0.0, text_loss: float = 0.0, stretch: float = 1.0, **settings: int) -> Run:
    """Two visual tasks (one in pairs), one textual and one perplexity; losses are shares of right answers."""
    seed = len(name)
    return run(
        name,
        {
            "pairs": ("pocket_visual", "mme", samples(flipped(BASE, visual_loss, 0, seed), 2, ("a", "b"))),
            "choice": ("pocket_visual", "mean", samples(flipped(BASE, visual_loss, 0, seed + 1))),
            "facts": ("pocket_text", "mean", samples(flipped(BASE, text_loss, 0, seed + 2))),
            "words": ("pocket_text", "perplexity", samples(TEXTS * stretch, weight=25)),
        },
        **settings,
    )


def only(comparison: Comparison) -> dict[str, ComparisonRow]:
    (candidate,) = comparison.candidates
    return {row.name: row for row in (*candidate.tasks, *candidate.suites)}


@pytest.fixture
def lossy() -> Comparison:
    return compare([made("lossy", 0.3, 0.01, 1.02)], made("base"))


def test_figures_are_those_of_the_runs(lossy: Comparison) -> None:
    rows, base, ours = only(lossy), made("base"), made("lossy", 0.3, 0.01, 1.02)
    for name in ("pairs", "choice", "facts", "words"):
        first, second = (r.result(name).score for r in (base, ours))
        assert first and second
        assert (rows[name].baseline, rows[name].candidate) == pytest.approx((first.value, second.value))
        assert rows[name].difference == pytest.approx(second.value - first.value)
        low, value, high = rows[name].retention_low, rows[name].retention, rows[name].retention_high
        assert low and value and high and low < value < high
    choice, words = rows["choice"], rows["words"]
    assert choice.retention == pytest.approx(100 * choice.candidate / choice.baseline)  # type: ignore[operator]
    assert words.retention == pytest.approx(100 * words.baseline / words.candidate)  # type: ignore[operator]
    assert words.unit == "perplexity" and words.retention < 100
    assert (choice.n, choice.clusters, rows["pairs"].clusters) == (400, 400, 200)


def test_a_suite_is_the_mean_of_its_percentages(lossy: Comparison) -> None:
    rows = only(lossy)
    visual, text = rows["pocket_visual"], rows["pocket_text"]
    assert visual.baseline == pytest.approx((rows["pairs"].baseline + rows["choice"].baseline) / 2)  # type: ignore[operator]
    assert visual.tasks == ("pairs", "choice")
    assert visual.n == 800
    assert text.tasks == ("facts",)
    assert text.baseline == rows["facts"].baseline
    assert text.note == "words not in the mean (not a 0-100 score)"


def test_a_suite_of_perplexities_alone_has_no_mean() -> None:
    def read(name: str, stretch: float) -> Run:
        rows = samples(TEXTS * stretch, weight=25)
        return run(name, {"facts": ("text", "mean", samples(BASE)), "docs": ("embedded", "perplexity", rows)})

    found = compare(read("cut", 1.1), read("base", 1.0), ["embedded>=99%"])  # one run, not in a list
    rows, (verdict,) = only(found), found.candidates[0].verdicts
    assert set(rows) == {"facts", "docs", "text"}
    assert verdict.verdict == "undecided" and verdict.reason == "no task with a 0-100 score"


def test_p_values_are_adjusted_over_tasks(lossy: Comparison) -> None:
    from vrbench.statistics.bootstrap import holm

    tasks = lossy.candidates[0].tasks
    assert [t.p_holm for t in tasks] == pytest.approx(holm([t.p for t in tasks if t.p is not None]))
    assert {t.name: t.test for t in tasks}["choice"] == "McNemar, exact"
    assert {t.name: t.test for t in tasks}["pairs"] == "sign flips of clusters"
    assert {t.name: t.p_holm for t in tasks}["choice"] < 0.001  # type: ignore[operator]


def test_verdicts_come_from_the_intervals(lossy: Comparison) -> None:
    visual, text = lossy.candidates[0].verdicts
    assert visual.verdict == "refuted" and visual.estimate == only(lossy)["pocket_visual"].retention
    assert text.claim.text == "text>=-1" and text.estimate == only(lossy)["pocket_text"].difference
    same = compare([made("same")], made("base"), ["text>=-1", "text>=99%", "choice>=-5", "words>=-1", "words>=99%"])
    assert [v.verdict for v in same.candidates[0].verdicts] == [
        "supported",
        "supported",
        "supported",
        "undecided",
        "supported",
    ]
    assert same.candidates[0].verdicts[3].reason == "it has no points; claim a retention in %"


def test_pools_join_real_and_pocket_suites() -> None:
    def both(name: str, loss: float) -> Run:
        rows = samples(flipped(BASE, loss, 0, 7))
        return run(name, {"mme": ("visual", "mean", rows), "pairs": ("pocket_visual", "mean", samples(BASE))})

    found = compare([both("cut", 0.5)], both("base", 0.0), ["visual>=99%", "pocket_visual>=99%"])
    pool, pocket = found.candidates[0].verdicts
    assert pool.n == 800 and pool.verdict == "refuted"
    assert pocket.n == 400 and pocket.estimate == 100


def test_the_seed_and_other_tasks_leave_a_tasks_interval_alone() -> None:
    base, ours = made("base"), made("lossy", 0.3)
    small = [
        run(r.record.checkpoint.id, {"choice": ("pocket_visual", "mean", r.samples["choice"])}) for r in (ours, base)
    ]
    full, part = only(compare([ours], base)), only(compare([small[0]], small[1]))
    assert full["choice"].retention_low == part["choice"].retention_low
    assert full["choice"].retention_low != only(compare([ours], base, seed=1))["choice"].retention_low


def test_a_run_may_be_given_as_its_folder_and_anything_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    base, ours = made("base"), made("ours")
    whole = compare([ours], base)
    folders = str(saved(tmp_path / "ours", ours)), saved(tmp_path / "base", base)
    for mixed in (compare(folders[0], base), compare([folders[0], ours], base), compare(ours, folders[1])):
        assert only(mixed) == only(whole)
    for wrong in (5, [None], [base.record]):
        with pytest.raises(VrbenchError, match="is not a run; give what `evaluate` or `load_run` returns"):
            compare(wrong, base)  # type: ignore[arg-type]


def test_nothing_to_compare_is_refused() -> None:
    base = made("base")
    with pytest.raises(VrbenchError, match="the only run given is the baseline itself"):
        compare([base], base)
    with pytest.raises(VrbenchError, match="none was given"):
        compare([], base)
    assert len(compare([base, made("a"), made("a")], base).candidates) == 1


def test_same_names_are_told_apart() -> None:
    base = made("base")
    twin = base.model_copy(
        update={"record": base.record.model_copy(update={"inputs_digest": digest_of("another dtype")})}
    )
    found = compare([twin], base)
    assert found.baseline_label != found.candidates[0].label
    assert found.baseline_label.startswith("base@")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": "2"}, "version '2' against the baseline's '1'"),
        ({"data_digest": "f" * 64}, "the items differ"),
        ({"fewshot": 5}, "fewshot 5 against the baseline's 0"),
        ({"harness": "lm-eval 9"}, "harness 'lm-eval 9' against"),
        ({"metric": "vanilla"}, "metric 'vanilla' against"),
        ({"definition_digest": "f" * 64}, "its prompt, generation settings or scoring differ"),
    ],
)
def test_other_ground_is_refused(fields: dict[str, object], said: str) -> None:
    base = changed(made("base"), definition_digest="a" * 64)
    with pytest.raises(MultipleErrors) as caught:
        compare([changed(made("other"), **{"definition_digest": "a" * 64, **fields})], base)
    assert len(caught.value.messages) >= 4
    for task in ("pairs", "choice", "facts", "words"):
        assert any(fault.startswith(f"other: {task}: ") and said in fault for fault in caught.value.messages)


def test_the_same_items_from_another_revision_or_place_are_compared() -> None:
    base = changed(made("base"), data="o/n test, from the hub, revision a", definition_digest="a" * 64)
    for fields in (
        {"data": "o/n test, from the data root, revision b"},
        {"definition_digest": ""},  # an older record did not have it
    ):
        assert compare([changed(base, **fields).model_copy(update={"path": None})], made("other")).candidates


def test_one_task_over_other_data_is_named_and_the_others_are_not() -> None:
    ours = made("ours")
    results = tuple(
        r.model_copy(update={"data_digest": "f" * 64}) if r.task == "choice" else r for r in ours.record.results
    )
    ours = ours.model_copy(update={"record": ours.record.model_copy(update={"results": results})})
    with pytest.raises(VrbenchError, match=r"^ours: choice: data 'ffffffffffff' against .*; the items differ$"):
        compare([ours], made("base"))


def test_other_limits_seeds_and_prompts_are_refused_all_at_once() -> None:
    rows = made("other", limit=10, seed=1)
    asked = tuple(s.model_copy(update={"prompt_digest": "other"}) for s in rows.samples["choice"])
    rows = rows.model_copy(update={"samples": rows.samples | {"choice": asked, "facts": rows.samples["facts"][:-1]}})
    with pytest.raises(MultipleErrors) as caught:
        compare([rows, made("third", limit=20, seed=3)], made("base", limit=20, seed=2), ["nothing>=3"])
    told = str(caught.value)
    assert "other: limit 10 against the baseline's 20" in told
    assert "third: seed 3 against the baseline's 2" in told
    assert "other: choice: the prompt of 400 items differs" in told
    assert "other: facts: 1 items are in one run only" in told
    assert "claim 'nothing>=3' names no task or suite" in told


def test_tasks_of_one_run_only_are_left_out_and_named() -> None:
    base, ours = made("base"), made("lossy", 0.3)
    extra = run("base", {"choice": base_part(base, "choice"), "more": base_part(base, "facts")})
    found = compare([ours], extra)
    assert list(only(found)) == ["choice", "pocket_visual"]
    assert "lossy: more left out, since only the baseline was run on it" in found.notes
    assert "lossy: pairs left out, since the baseline was not run on it" in found.notes
    assert [c.text for c in found.claims] == ["visual>=99%"]
    with pytest.raises(VrbenchError, match="no task in common"):
        compare([ours], run("base", {"more": base_part(base, "facts")}))


def base_part(base: Run, task: str) -> tuple[str, str, tuple[object, ...]]:
    result = base.result(task)
    return result.suite, result.metric, base.samples[task]


def test_a_task_that_died_is_shown_and_leaves_its_claim_open() -> None:
    base, ours = made("base"), made("lossy", 0.3)
    results = tuple(
        r.model_copy(update={"status": "error", "error": "out of memory", "score": None}) if r.task == "pairs" else r
        for r in ours.record.results
    )
    ours = ours.model_copy(update={"record": ours.record.model_copy(update={"results": results, "status": "error"})})
    found = compare([ours], base)
    row = only(found)["pairs"]
    assert row.status == "error" and row.error == "pairs failed in the candidate: out of memory"
    assert only(found)["pocket_visual"].tasks == ("choice",)
    assert only(found)["pocket_visual"].note == "without pairs, which failed"
    assert found.candidates[0].verdicts[0].verdict == "undecided"


def test_unscored_items_are_left_out_of_both() -> None:
    base, ours = made("base"), made("same")
    gap = (ours.samples["choice"][0].model_copy(update={"unscored": "no answer"}), *ours.samples["choice"][1:])
    row = only(compare([ours.model_copy(update={"samples": ours.samples | {"choice": gap}})], base))["choice"]
    assert (row.n, row.n_unscored) == (399, 1)
    assert row.note == "left out of both runs: 0 items unscored in the baseline alone, 1 in the candidate alone"
    assert row.baseline == pytest.approx(100 * BASE[1:].mean())
    nothing = tuple(s.model_copy(update={"unscored": "no answer"}) for s in gap)
    row = only(compare([ours.model_copy(update={"samples": ours.samples | {"choice": nothing}})], base))["choice"]
    assert row.status == "error" and "no item was scored in both runs" in row.error


@pytest.mark.parametrize(("gone", "is_told"), [(4, False), (5, True)])
def test_more_than_one_percent_unscored_marks_the_task(gone: int, is_told: bool) -> None:
    base, ours = made("base"), made("same")
    rows = ours.samples["choice"]
    gap = (*(s.model_copy(update={"unscored": "no answer"}) for s in rows[:gone]), *rows[gone:])
    found = compare([ours.model_copy(update={"samples": ours.samples | {"choice": gap}})], base)
    row = only(found)["choice"]
    assert row.has_many_unscored is is_told and not only(found)["facts"].has_many_unscored
    note = f"of both runs, {gone} of 400 items ({gone / 4:.1f} %) could not be scored and are left out"
    assert (note in row.note) is is_told
    for form in ("table", "markdown", "html", "latex"):
        text = reporting.render(found, form)
        assert ("choice (!)" in text) is is_told
        assert f"{400 - gone} ({gone} unscored)" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_baseline_of_zero_has_no_retention() -> None:
    def whole(name: str, scores: np.ndarray) -> Run:
        return run(name, {"choice": ("pocket_visual", "mean", samples(scores))})

    row = only(compare([whole("some", BASE)], whole("none", BASE * 0)))["choice"]
    assert row.retention is row.retention_low is None
    assert row.difference == pytest.approx(80)


def test_a_baseline_at_chance_is_said() -> None:
    rows = samples((np.arange(400) % 4 == 0).astype(float))
    base, ours = (changed(run(n, {"t": ("s", "mean", rows)}), chance=25.0) for n in ("base", "ours"))
    assert only(compare([ours], base))["t"].note == "the baseline is not above chance"


def test_from_disk_and_back(tmp_path: Path) -> None:
    base, ours = saved(tmp_path / "base", made("base")), saved(tmp_path / "ours", made("lossy", 0.3))
    found = compare_paths([ours], base)
    assert (
        Comparison.model_validate_json(found.model_dump_json()) == found == compare([made("lossy", 0.3)], made("base"))
    )
    with pytest.raises(MultipleErrors) as caught:
        compare_paths([tmp_path / "a"], tmp_path / "b")
    assert len(caught.value.messages) == 2


def test_runs_of_other_versions_of_our_code_are_refused() -> None:
    ours, base = changed(made("ours"), code={"decoding": 3, "family": 2}), changed(made("base"), code={"family": 2})
    with pytest.raises(MultipleErrors) as told:
        compare([ours], base)
    said = "vrbench's code changed between the two (decoding 3 against the baseline's 1)"
    assert f"ours: pairs: {said}; run the older one again with this vrbench" in told.value.messages
    assert len(told.value.messages) == 4
    assert compare([changed(ours, code={"family": 2})], base).candidates


def one_task(name: str, scores: np.ndarray, cluster: int = 1, **fields: object) -> Run:
    return changed(run(name, {"t": ("s", "mean", samples(scores, cluster))}), **fields)


def test_p_values_are_drawn_with_the_seed() -> None:
    base, ours = (
        run(name, {t: ("visual", "mean", samples(flipped(BASE, lost, 3 * lost, ord(t)), 2)) for t in ("a", "b")})
        for name, lost in (("base", 0.0), ("ours", 0.1))
    )
    found = compare([ours], base, seed=3)
    pairs = {t: pair_task(t, ours, base, 3) for t in ("a", "b")}
    counts = {t: p.counts for t, p in pairs.items() if p.counts is not None}
    rows = only(found)
    assert found.seed == 3
    assert rows["a"].p == bootstrap.p_value([counts["a"]], 3)[0] != bootstrap.p_value([counts["a"]], 0)[0]
    whole = list(counts.values())
    assert rows["visual"].p == bootstrap.p_value(whole, 3)[0] != bootstrap.p_value(whole, 0)[0]
    untested = comparison_row("a", "task", "visual", {"a": pairs["a"]})
    assert (untested.p, untested.test) == (None, "")
    assert untested == rows["a"].model_copy(update={"p": None, "p_holm": None, "test": ""})
    tested = comparison_row("a", "task", "visual", {"a": pairs["a"]}, {("a",): bootstrap.p_value([counts["a"]], 3)})
    assert tested == rows["a"].model_copy(update={"p_holm": None})


def test_paths_are_compared_with_their_claims_and_seed(tmp_path: Path) -> None:
    base, ours = (made(name, loss, limit=400) for name, loss in (("base", 0.0), ("lossy", 0.3)))
    found = compare_paths([saved(tmp_path / "ours", ours)], saved(tmp_path / "base", base), ["choice>=50%"], 2)
    assert found == compare([ours], base, ["choice>=50%"], 2)
    assert (found.limit, found.seed, [c.text for c in found.claims]) == (400, 2, ["choice>=50%"])


def test_a_pool_of_two_suites_has_a_row_and_of_one_has_none() -> None:
    rows = only(compare([made("lossy", 0.3)], made("base"), ["pocket>=50%", "visual>=50%"]))
    assert list(rows) == ["pairs", "choice", "facts", "words", "pocket_visual", "pocket_text", "pocket"]
    assert rows["pocket"].tasks == ("pairs", "choice", "facts")
    assert rows["pocket"].candidate == pytest.approx(np.mean([rows[t].candidate for t in rows["pocket"].tasks]))


def test_a_baseline_of_half_a_point_has_a_retention() -> None:
    row = only(compare([one_task("ours", BASE * 0 + 0.004)], one_task("base", BASE * 0 + 0.005)))["t"]
    assert row.retention == pytest.approx(80) and row.retention_low is not None
    rare = np.arange(200) == 0
    found = compare([one_task("ours", rare)], one_task("base", rare), ["t>=90%"])
    assert (only(found)["t"].retention, only(found)["t"].retention_low) == (pytest.approx(100), None)
    assert found.candidates[0].verdicts[0].reason == "there is no interval"


def test_many_baselines_of_zero_have_no_retention_either() -> None:
    """With 8 tasks nearly every draw has an item that was not seen, and so a baseline above zero."""
    base, ours = (
        run(name, {str(i): ("s", "mean", samples(scores)) for i in range(8)})
        for name, scores in (("base", np.zeros(30)), ("ours", np.ones(30)))
    )
    row = only(compare([ours], base))["s"]
    assert (row.retention, row.retention_low, row.difference) == (None, None, pytest.approx(100))


def test_one_cluster_has_no_interval() -> None:
    row = only(compare([one_task("ours", BASE * 0.5, 400)], one_task("base", BASE, 400)))["t"]
    assert row.difference == pytest.approx(-40)
    assert row.difference_low is row.difference_high is row.retention_low is row.retention_high is None


def test_a_row_notes_what_the_baseline_s_result_says() -> None:
    base = one_task("base", BASE, note="easy", complete=False, chance=25.0)
    score = base.result("t").score
    assert score is not None
    assert only(compare([one_task("ours", BASE)], base))["t"].note == "easy; not the whole task"
    base = changed(base, chance=score.low)
    note = only(compare([one_task("ours", BASE)], base))["t"].note
    assert note == "easy; not the whole task; the baseline is not above chance"


def test_a_suite_with_a_failed_task_has_the_items_of_the_others_in_its_verdict() -> None:
    base, ours = made("base"), made("lossy", 0.3)
    results = [
        r.model_copy(update={"status": "error", "score": None}) if r.task == "pairs" else r for r in ours.record.results
    ]
    ours = ours.model_copy(update={"record": ours.record.model_copy(update={"results": tuple(results)})})
    found = compare([ours], base, ["pocket_visual>=99%"])
    (verdict,) = found.candidates[0].verdicts
    assert (verdict.verdict, verdict.n, verdict.reason) == ("undecided", 400, "pairs failed")
    holm = bootstrap.holm([row.p for row in found.candidates[0].tasks if row.p is not None])
    assert [row.p_holm for row in found.candidates[0].tasks] == [None, *map(pytest.approx, holm)]


def test_tasks_without_data_and_other_settings_are_noted() -> None:
    def left_out(made_run: Run, skipped: dict[str, str]) -> Run:
        return made_run.model_copy(update={"record": made_run.record.model_copy(update={"skipped": skipped})})

    base, ours = one_task("base", BASE), one_task("ours", BASE)
    assert compare([ours], base).notes == ()
    skipped = {"gqa": "data of gqa is not in the cache", "t": "data of t is not in the cache"}
    assert compare([left_out(ours, {"t": "x"})], base).notes == ()
    for pair in ((left_out(ours, skipped), base), (ours, left_out(base, skipped))):
        (note,) = compare([pair[0]], pair[1]).notes
        assert note.endswith("gqa (not in the cache)")
    rows = {"t": ("s", "mean", samples(BASE))}
    a, b = run("base", rows, dtype="float32"), run("ours", rows, dtype="bfloat16")
    assert compare([b], a).notes == ("ours: computed in bfloat16, the baseline in float32",)
    a, b = run("base", rows, image_settings="harness"), run("ours", rows, image_settings="own")
    assert compare([b], a).notes == ("ours: image settings own, those of the baseline harness",)
    b = run("ours", rows, backend="vllm")
    assert compare([b], a).notes == ("ours: computed by vllm, the baseline by vrbench",)


def test_as_many_draws_are_made_as_asked() -> None:
    base, ours = made("base"), made("lossy", 0.3)
    few, usual = compare([ours], base, draws=200), compare([ours], base)
    assert (few.draws, usual.draws) == (200, bootstrap.DRAWS)
    row, other = only(few)["pairs"], only(usual)["pairs"]
    assert (row.difference_low, row.difference_high) != (other.difference_low, other.difference_high)
    assert (row.difference, row.p) == (other.difference, other.p)
    with pytest.raises(VrbenchError, match="99 bootstrap draws are too few for an interval; use at least 100"):
        compare([ours], base, draws=99)
    assert inspect.signature(evaluation.compare).parameters["draws"].default == bootstrap.DRAWS


def test_candidates_compared_together_are_each_compared_as_alone() -> None:
    base, *ours = (run(name, {"t": ("visual", "mean", samples(np.random.default_rng(i).uniform(size=90), 2))})
                   for i, name in enumerate(("base", "a", "b", "c")))  # fmt: skip
    together = compare(ours, base).candidates
    for candidate, one in zip(together, ours, strict=True):
        (alone,) = compare([one], base).candidates
        assert [row.p for row in candidate.tasks] == [row.p for row in alone.tasks]
        assert [row.retention_low for row in candidate.tasks] == pytest.approx([r.retention_low for r in alone.tasks])
