"""Intervals and tests: a small version of benchmarks/coverage.py, and the edges."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial, norm, permutation_test

from benchmarks.coverage import coverage, family_error, official_test
from benchmarks.simulation import Setting, counts, figure, right, truth
from tests.simulated import samples
from vrbench.core.schemas import Sample
from vrbench.statistics import bootstrap, resampling, sign_flips
from vrbench.tasks.metrics import METRICS


def paired(base: list[float], ours: list[float], metric: str = "mean", cluster: int = 1) -> bootstrap.PairedCounts:
    kind = METRICS[metric]
    first, second = samples(base, cluster), samples(ours, cluster)
    return bootstrap.PairedCounts(kind, kind.statistics(first), kind.statistics(second), kind.outcomes(first))


def retention(pair: bootstrap.PairedCounts) -> tuple[float, float]:
    found = bootstrap.retention_interval([bootstrap.draw(pair, 0)], pair.metric.higher_is_better)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "setting",
    [
        Setting("mean", 100, 1, 0.8, 1.0),
        Setting("mean", 100, 4, 0.8, 0.9),
        Setting("mean", 200, 4, 0.65, 0.7),
        Setting("mme", 200, 2, 0.8, 0.9),
        Setting("circular", 200, 4, 0.9, 0.9),
        Setting("perplexity", 100, 1, 0.8, 0.9),
        Setting("mean", 100, 4, 0.8, 0.9, tasks=3),
    ],
    ids=str,
)
def test_intervals_cover(setting: Setting) -> None:
    share, _ = coverage(setting, trials=100, draws=1000)
    assert 0.885 <= share <= 0.99  # 95 % and three standard errors of 100 trials, and not all of them


@pytest.mark.parametrize("clusters", [2, 13, 14, 300])
def test_sign_flips_give_the_p_value_of_scipys_permutation_test(clusters: int) -> None:
    """All flips of up to 13 clusters, random ones of more, in several blocks."""
    effects = np.random.default_rng(1).choice([-1.0, 0.5, 1.5], clusters) / 36
    known = permutation_test(
        (effects,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=sign_flips.SIGN_FLIPS, batch=max(100, 2_000_000 // clusters), random_state=7,
    )  # fmt: skip
    assert sign_flips.sign_flip(effects, 7) == known.pvalue


def test_sign_flips_are_those_of_a_test_alone_after_other_tests_with_the_seed() -> None:
    rng = np.random.default_rng(2)
    effects = [rng.normal(size=size) for size in (40, 1000, 7, 20, 999)]
    alone = []
    for of in effects:
        sign_flips._random_sign_flips.cache_clear()
        alone.append(sign_flips.sign_flip(of, 3))
    sign_flips._random_sign_flips.cache_clear()
    assert [sign_flips.sign_flip(of, 3) for of in effects] == alone


def test_many_clusters_change_their_signs_by_eight() -> None:
    """Each sum is one of a subset, and each effect is in half of them; p is that of the sum's normal distribution."""
    sums = sign_flips._random_subset_sums(2.0 ** np.arange(19), 3).astype(int)
    chosen = sums[:, None] >> np.arange(19) & 1
    assert sums.max() < 2**19
    assert chosen.mean(0) == pytest.approx(np.full(19, 0.5), abs=0.025)  # five standard errors
    assert abs(np.corrcoef(chosen.T) - np.eye(19)).max() < 0.05
    effects = np.random.default_rng(0).normal(0.02, 1, sign_flips.MANY_CLUSTERS + 1)
    known = 2 * norm.sf(effects.sum() / np.sqrt((effects**2).sum()))
    assert 0.01 < known < 0.9
    assert sign_flips.sign_flip(effects, 1) == pytest.approx(known, abs=0.02)
    assert sign_flips.sign_flip(np.append(effects, np.zeros(99)), 1) == sign_flips.sign_flip(effects, 1)


def changed_groups(rows: tuple[Sample, ...], groups: tuple[str, ...]) -> tuple[Sample, ...]:
    """Groups that go round item by item, so that clusters have several."""
    return tuple(row.model_copy(update={"group": groups[i % len(groups)]}) for i, row in enumerate(rows))


def test_many_rows_are_summed_ratio_by_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of groups that clusters share, each takes the rows that have it; what runs have in common is summed once."""
    monkeypatch.setattr(resampling, "MANY_ROWS", 10)
    rng, groups = np.random.default_rng(6), tuple("abcdefgh")
    runs = [changed_groups(samples(rng.uniform(size=400), 3), groups) for _ in range(4)]
    counts = [METRICS["macro"].statistics(rows) for rows in runs]
    pairs = [bootstrap.PairedCounts(METRICS["macro"], counts[0], of, 400) for of in counts[1:]]
    numbered: dict[int, Any] = {}
    tables = [bootstrap._with_unseen(pair, numbered) for pair in pairs]
    assert len({id(base) for (base, _), _ in tables}) == 1
    drawn = rng.integers(0, 4, (5, len(counts[0]) + 2)).astype(float)
    for sums, (sides, _) in zip(resampling._sums_by_ratio(tables)(drawn), tables, strict=True):
        assert sums == pytest.approx(drawn @ np.concatenate(sides, axis=1))
    parts = resampling._parts_of([tables[0][0][0], *(candidate for (_, candidate), _ in tables)])
    assert sum(values.size for _, _, values, _ in parts) <= (400 + 2 * 8) * (len(runs) + 1)  # scores and weights


@pytest.mark.parametrize("collide", [False, True])
def test_distinct_rows_are_those_of_numpy(collide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    table = rng.choice([-0.0, 0.0, 1.0, -2.5, 1e-300], (500, 6))
    table[100:] = table[rng.integers(0, 100, 400)]
    if collide:
        monkeypatch.setattr(resampling, "_odd_numbers", lambda count: np.zeros(count, np.uint64))
    for found, known in zip(resampling.distinct_rows(table), np.unique(table, axis=0, return_counts=True), strict=True):
        assert found.tolist() == known.tolist()


def drawn_alone(pair: bootstrap.PairedCounts, seed: list[int]) -> np.ndarray:
    """Values of baseline and candidate on each draw, [2, draws], from rows that are drawn and added up one by one."""
    table = np.stack([pair.baseline, pair.candidate], axis=1)
    best, worst = bootstrap.unseen_allowance(pair.baseline, pair.outcomes)
    table = np.concatenate([table, [[best, worst]], [[worst, best]]]).reshape(len(table) + 2, -1)
    rows, counts = np.unique(table, axis=0, return_counts=True)
    if len(table) > resampling.MANY_ROWS:  # the same rows in another order
        expected = np.repeat(rows, counts, axis=0)
        sides, counts = bootstrap._with_unseen(pair, {})
        rows = np.concatenate(sides, axis=1)
        assert sorted(np.repeat(rows, counts, axis=0).tolist()) == expected.tolist()
    rng, total = np.random.default_rng(seed), len(table)
    if 20 * len(rows) < total:
        sums = rng.multinomial(total, counts / total, size=bootstrap.DRAWS) @ rows
    else:
        sums = np.repeat(rows, counts, axis=0)[rng.integers(total, size=(bootstrap.DRAWS, total), dtype=np.uint32)].sum(
            1
        )
    return np.stack([pair.metric.value(of) for of in np.moveaxis(sums.reshape(bootstrap.DRAWS, 2, -1, 2), 1, 0)])


@pytest.mark.parametrize("many", [resampling.MANY_ROWS, 10])
def test_draws_of_several_candidates_are_those_of_each_alone(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are drawn one by one, all different or not; rows drawn as multinomial counts; fewer clusters."""
    monkeypatch.setattr(resampling, "MANY_ROWS", many)
    rng = np.random.default_rng(5)
    base = rng.uniform(size=300)
    halves = np.where(np.arange(300) % 2, base, 0.0)
    pairs = [paired(list(base), list(ours)) for ours in (rng.uniform(size=300), halves, base)]
    pairs += [paired(list(halves), list(halves)), paired([1.0, 0.0] * 150, [1.0] * 300)]
    pairs += [paired(list(base[:n]), list(halves[:n])) for n in (200, 60)]
    for together, pair in zip(bootstrap.draw_all(pairs, [0, 7]), pairs, strict=True):
        assert np.stack([together.baseline, together.candidate]) == pytest.approx(drawn_alone(pair, [0, 7]), rel=1e-12)
        assert together.clusters == len(pair.baseline)


def test_holm_keeps_the_family_wise_error() -> None:
    assert family_error(1, 200, 6, 2, 60, official_test) <= 0.12
    assert bootstrap.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert bootstrap.holm([]) == []


def test_the_simulation_counts_as_the_metrics_do() -> None:
    hits = right(np.random.default_rng(0), Setting("mme", 64, 2, 0.8, 0.9))[0]
    rows = samples(hits.ravel(), cluster=2, groups=("a", "b", "c", "d"))
    for name in ("mean", "macro", "mme", "circular"):
        made, official = counts(name, hits), METRICS[name].statistics(rows)
        assert METRICS[name].value(made.sum(0)) == pytest.approx(METRICS[name].value(official.sum(0)))
        assert sorted(made.sum((1, 2))) == sorted(official.sum((1, 2)))


@pytest.mark.parametrize("metric", ["macro", "mme", "circular"])
def test_the_simulated_truth_is_true(metric: str) -> None:
    setting = Setting(metric, 400_000, 4, 0.8, 0.9)
    base, ours = (counts(metric, hits).sum(0) for hits in right(np.random.default_rng(0), setting))
    value = METRICS[metric].value
    assert value(base) == pytest.approx(100 * figure(metric, 4, 0.8), abs=0.4)
    assert 100 * value(ours) / value(base) == pytest.approx(truth(setting), abs=0.5)


def test_an_unchanged_candidate_has_an_interval_that_shrinks_with_n() -> None:
    widths = []
    for n in (100, 1000):
        scores = [1.0] * (8 * n // 10) + [0.0] * (2 * n // 10)
        low, high = retention(paired(scores, scores))
        assert low < 100 < high
        widths.append(high - low)
    assert 2 < widths[0] < 7
    assert widths[1] < widths[0] / 5


def test_circular_allows_for_unseen_units_not_items() -> None:
    hits = [1.0] * 320 + [0.0] * 80
    whole = retention(paired(hits, hits, "circular", cluster=4))
    alone = retention(paired([1.0] * 80 + [0.0] * 20, [1.0] * 80 + [0.0] * 20))
    assert whole == pytest.approx(alone, abs=0.6)


def test_few_clusters_widen_the_tails() -> None:
    from scipy.stats import norm, t

    assert bootstrap.tail_share([1.0], [25]) == pytest.approx(norm.cdf(-((25 / 24) ** 0.5) * t.ppf(0.975, 24)))
    assert bootstrap.tail_share([1.0], [100_000]) == pytest.approx(0.025, abs=1e-5)
    assert bootstrap.tail_share([1.0, 1.0], [25, 25]) == pytest.approx(norm.cdf(-((25 / 24) ** 0.5) * t.ppf(0.975, 48)))
    assert bootstrap.tail_share([0.0, 0.0], [25, 25]) == bootstrap.tail_share([1.0, 1.0], [25, 25])


@pytest.mark.parametrize("distinct", [3, 200])
def test_draws_are_multinomial_whichever_way_they_are_made(distinct: int) -> None:
    table = np.resize(np.arange(distinct, dtype=float), 200)[:, None, None]
    sums = resampling.resample(table, 20_000, np.random.default_rng(0))[:, 0, 0]
    shares = np.full(distinct, 1 / distinct) if distinct == 200 else np.bincount(table[:, 0, 0].astype(int)) / 200
    kinds = np.arange(distinct)
    variance = kinds @ multinomial(200, shares).cov() @ kinds
    assert sums.mean() == pytest.approx(table.sum(), rel=0.01)
    assert sums.var() == pytest.approx(variance, rel=0.05)


def test_draws_repeat_with_the_seed_and_pair_both_runs() -> None:
    pair = paired([1.0, 0.0] * 50, [1.0, 0.0] * 50)
    first, again, other = (bootstrap.draw(pair, seed) for seed in ([0, 1], [0, 1], [0, 2]))
    assert (first.baseline == again.baseline).all()
    assert (first.baseline != other.baseline).any()
    assert np.corrcoef(first.baseline, first.candidate)[0, 1] > 0.9


def test_retention_of_perplexity_is_baseline_over_candidate() -> None:
    rng = np.random.default_rng(0)
    base = -rng.uniform(100, 200, 80)
    low, high = retention(paired(list(base), list(base * 1.02), "perplexity"))
    assert low < 100 * np.exp(0.02 * base.mean()) < high


def test_no_ratio_to_a_baseline_of_nothing_and_no_interval_from_one_cluster() -> None:
    zero = paired([0.0] * 50, [1.0] * 10 + [0.0] * 40)
    assert bootstrap.retention_interval([bootstrap.draw(zero, 0)]) is None
    assert bootstrap.difference_interval([bootstrap.draw(zero, 0)]) is not None
    single = bootstrap.draw(paired([1.0, 0.0], [1.0, 1.0], cluster=2), 0)
    assert bootstrap.retention_interval([single]) is None
    assert bootstrap.difference_interval([single]) is None


def test_mcnemar_is_exact_and_needs_single_outcomes() -> None:
    base, ours = [1.0] * 30 + [0.0] * 20, [1.0] * 18 + [0.0] * 12 + [1.0] * 3 + [0.0] * 17
    p, test = bootstrap.p_value([paired(base, ours)])
    assert test == "McNemar, exact"
    assert p == pytest.approx(binomtest(3, 15).pvalue)
    assert bootstrap.p_value([paired(base, ours, cluster=2)])[1] == "sign flips of clusters"
    assert bootstrap.p_value([paired([0.5, 1.0], [1.0, 0.3])])[1] == "sign flips of clusters"


def test_sign_flips_agree_with_mcnemar_where_both_apply() -> None:
    pair = paired([1.0] * 30 + [0.0] * 20, [1.0] * 20 + [0.0] * 10 + [1.0] * 3 + [0.0] * 17)
    assert sign_flips.sign_flip(bootstrap.cluster_differences(pair)) == pytest.approx(binomtest(3, 13).pvalue, rel=1e-6)
    assert sign_flips.sign_flip(np.zeros(20)) == 1
    assert sign_flips.sign_flip(np.array([0.0, 3.0])) == 1  # one changed cluster proves nothing


def test_contributions_add_up_to_the_difference() -> None:
    rng = np.random.default_rng(0)
    for metric in ("mean", "macro", "mme", "circular"):
        kind = METRICS[metric]
        first, second = (samples(rng.integers(0, 2, 60), 4, ("a", "b"), unit=2) for _ in range(2))
        pair = bootstrap.PairedCounts(kind, kind.statistics(first), kind.statistics(second), 60)
        assert bootstrap.cluster_differences(pair).sum() == pytest.approx(pair.values[1] - pair.values[0])


def constant(baseline: float, candidate: float, clusters: int = 20) -> bootstrap.BootstrapDraws:
    return bootstrap.BootstrapDraws(np.full(50, baseline), np.full(50, candidate), clusters)


def test_a_mean_over_tasks_by_hand() -> None:
    drawn = [constant(20.0, 30.0), constant(10.0, 40.0), constant(0.3, 0.9)]
    assert bootstrap.mean_interval(drawn) == pytest.approx((70.9 / 3, 70.9 / 3))
    assert bootstrap.difference_interval(drawn) == pytest.approx((40.6 / 3, 40.6 / 3))
    assert bootstrap.retention_interval(drawn) == pytest.approx((100 * 70.9 / 30.3, 100 * 70.9 / 30.3))
    assert bootstrap.retention_interval(drawn, False) == pytest.approx((100 * 30.3 / 70.9, 100 * 30.3 / 70.9))
    below_one_point = [constant(0.5, 0.25)]
    assert bootstrap.retention_interval(below_one_point) == pytest.approx((50.0, 50.0))


@pytest.mark.parametrize(("empty", "has_ratio"), [(0, True), (1, True), (2, False)])
def test_a_ratio_needs_a_baseline_above_zero_in_all_but_half_a_percent_of_the_draws(
    empty: int, has_ratio: bool
) -> None:
    baseline = np.array([0.0] * empty + [50.0] * (200 - empty))
    found = bootstrap.retention_interval([bootstrap.BootstrapDraws(baseline, np.full(200, 25.0), 30)])
    assert (found is not None) is has_ratio


def test_two_clusters_have_an_interval() -> None:
    rng = np.random.default_rng(0)
    drawn = [bootstrap.BootstrapDraws(rng.uniform(40, 60, 500), rng.uniform(30, 50, 500), 2)]
    for interval in (bootstrap.mean_interval, bootstrap.difference_interval, bootstrap.retention_interval):
        found = interval(drawn)
        assert found is not None and found[0] < found[1]
    words = np.array([[[-2.0, 1.0]], [[-4.0, 1.0]]])
    low, high = bootstrap.score_interval(METRICS["perplexity"], words, 2)
    assert low < np.exp(3.0) < high
    assert bootstrap.score_interval(METRICS["perplexity"], words[:1], 1) == pytest.approx((np.exp(2.0),) * 2)
    assert bootstrap.score_interval(METRICS["mean"], np.ones((1, 1, 2)), 1) == (0.0, 100.0)


def test_an_interval_is_around_the_figure_not_around_the_clusters_mean() -> None:
    """10 clusters of 100 wrong answers and 30 of one right answer: 2.9 % are right, in the mean cluster 75 %."""
    table = np.array([[[0.0, 100.0]]] * 10 + [[[1.0, 1.0]]] * 30)
    low, high = bootstrap.score_interval(METRICS["mean"], table, 1030)
    assert low < 100 * 30 / 1030 < high < 20


def test_a_retention_s_tails_follow_what_each_task_adds_to_its_variance() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(50, 4, (2, 4000))
    moved = shared * [[0.5], [1.0]] + rng.normal(0, [[1.0], [3.0]], (2, 4000))
    drawn = [bootstrap.BootstrapDraws(shared[i], moved[i], clusters) for i, clusters in enumerate((4, 400))]
    centre = moved.mean() / shared.mean()
    share = bootstrap.tail_share([float((moved[i] - centre * shared[i]).var()) for i in (0, 1)], [4, 400])
    ratio = 100 * moved.mean(0) / shared.mean(0)
    assert bootstrap.retention_interval(drawn) == pytest.approx(tuple(np.quantile(ratio, [share, 1 - share])), rel=1e-6)


def test_what_clusters_add_to_a_perplexity_is_its_logarithm() -> None:
    base, ours = -np.array([100.0, 150.0, 130.0]), -np.array([110.0, 149.0, 150.0])
    pair = paired(list(base), list(ours), "perplexity")
    added = bootstrap.cluster_differences(pair)
    assert added == pytest.approx((base - ours) / 3)
    assert added.sum() == pytest.approx(np.log(pair.values[1] / pair.values[0]))


def test_a_p_value_is_at_most_1() -> None:
    two_lost_two_gained = paired([1.0, 1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0, 1.0])
    assert bootstrap.mcnemar(two_lost_two_gained) == 1.0
    assert sign_flips.sign_flip(np.array([1.0, -1.0])) == 1.0
    assert bootstrap.holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("scale", [1e-9, 1 / 30, 1e6 / 30])
@pytest.mark.parametrize("effects", [[1, 2, -3, 10], [1, 2, 3, 7], [7, 11, -18, 13, 2, 5, -20, 9]])
def test_ties_with_what_was_observed_count_at_any_scale(effects: list[int], scale: float) -> None:
    """Scaled, 1 + 2 - 3 is not quite zero in floating point; the flip of all three is a tie all the same."""
    sums = [int(np.dot(effects, signs)) for signs in itertools.product((1, -1), repeat=len(effects))]
    ends = [sum(s <= sum(effects) for s in sums), sum(s >= sum(effects) for s in sums)]
    assert sign_flips.sign_flip(scale * np.array(effects)) == min(1.0, 2 * min(ends) / len(sums))


def test_a_score_is_drawn_with_its_seed() -> None:
    rows = samples(np.random.default_rng(0).uniform(size=40), 2, ("a", "b"))
    kind = METRICS["mean"]
    expected = bootstrap.score_interval(kind, kind.statistics(rows), 40, 5)
    found = bootstrap.score("mean", rows, 5)
    assert (found.low, found.high) == expected
    assert (found.value, found.n, found.clusters) == (pytest.approx(100 * np.mean([s.score for s in rows])), 40, 20)
    assert (found.low, found.high) != bootstrap.score_interval(kind, kind.statistics(rows), 40, 0)
    groups = bootstrap.score_groups("mean", rows, 5)
    assert list(groups) == ["a", "b"]
    for name, score in groups.items():
        assert score == bootstrap.score("mean", [s for s in rows if s.group == name], 5)
        assert score != bootstrap.score("mean", [s for s in rows if s.group == name], 0)


def test_three_quarters_of_an_item_lost_and_gained_are_drawn_with_the_others() -> None:
    """Rows [baseline, candidate] of (right, of): three items, then one lost and one gained of 0.75 items."""
    items = [[(1, 1), (1, 1)], [(0, 1), (1, 1)], [(1, 1), (0, 1)]]
    rows = np.array([*items, [(0.75, 0.75), (0, 0.75)], [(0, 0.75), (0.75, 0.75)]], float)
    sums = resampling.resample(rows[:, :, None], 4000, np.random.default_rng([0, 1]))
    found = bootstrap.draw(paired([1.0, 0.0, 1.0], [1.0, 1.0, 0.0]), [0, 1])
    assert found.baseline == pytest.approx(100 * sums[:, 0, 0, 0] / sums[:, 0, 0, 1])
    assert found.candidate == pytest.approx(100 * sums[:, 1, 0, 0] / sums[:, 1, 0, 1])
    assert found.clusters == 3
