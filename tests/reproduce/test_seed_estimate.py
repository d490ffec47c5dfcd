"""A mean over seeds has an interval that knows of items and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmarks.seeds import Setting, coverage
from vrbench.reproduce.seed_estimate import ONE_SEED, SeedEstimate, estimate

DRAWN = np.random.default_rng(0).normal(50.0, 2.0, 4000)


def made(each: dict[int, float], spread: float = 2.0) -> SeedEstimate:
    drawn = np.mean(list(each.values())) + (DRAWN - 50.0) * spread / 2.0
    return estimate(each, drawn, [1.0], [400], n=400)


def test_one_seed_has_the_items_interval_and_says_so() -> None:
    found = made({3: 50.0})
    assert found.ends == found.items
    assert found.ends is not None and found.ends[0] == pytest.approx(np.quantile(DRAWN, 0.025), abs=0.1)
    assert found.note == ONE_SEED and found.sd is None and found.seeds_needed(40) is None
    assert made({0: 50.0, 1: 51.0}).note == ""


def test_without_an_items_part_it_is_students() -> None:
    values = {0: 3.0, 1: 4.5, 2: 8.0}
    found = made(values, spread=1e-9)
    student = scipy_stats.ttest_1samp(list(values.values()), 0)
    assert found.ends == pytest.approx(tuple(student.confidence_interval(0.95)))
    assert found.p == pytest.approx(student.pvalue)


def test_seeds_that_agree_leave_the_items_interval() -> None:
    found = made({0: 50.0, 1: 50.0, 2: 50.0})
    assert found.ends == pytest.approx(found.items)


def test_both_parts_by_hand() -> None:
    found = made({0: 49.0, 1: 50.0, 2: 51.0})
    assert found.items is not None and found.ends is not None
    t = scipy_stats.t.ppf
    items, seeds = (50.0 - found.items[0]) / t(0.975, 399), 1.0 / 3**0.5
    freedom = (items**2 + seeds**2) ** 2 / (items**4 / 399 + seeds**4 / 2)
    half = max(t(0.975, freedom) * (items**2 + seeds**2) ** 0.5, t(0.975, 2) * seeds)
    assert found.ends[0] == pytest.approx(50.0 - half)
    assert half > 50.0 - found.items[0]


def test_a_lopsided_interval_stays_so() -> None:
    drawn = np.random.default_rng(1).gamma(1.0, 2.0, 4000)
    found = estimate({0: 1.9, 1: 2.1}, drawn, [1.0], [400])
    assert found.ends is not None
    assert found.ends[1] - 2.0 > 1.5 * (2.0 - found.ends[0])


def test_p_and_interval_say_the_same() -> None:
    rng = np.random.default_rng(2)
    said = set()
    for _ in range(200):
        each = dict(enumerate(rng.normal(rng.uniform(-6, 6), 1.5, rng.integers(1, 5))))
        found = made(each)
        assert found.ends is not None and found.p is not None
        is_clear = found.ends[0] > 0 or found.ends[1] < 0
        assert (found.p < 0.05) == is_clear
        said.add(is_clear)
    assert said == {True, False}


def test_as_many_seeds_as_it_says_would_decide() -> None:
    found = made({0: 96.0, 1: 98.5, 2: 97.0}, spread=0.2)
    assert found.ends is not None and found.ends[1] > 99
    count = found.seeds_needed(99.0)
    assert count is not None and count > 3
    rng = np.random.default_rng(3)
    shifts = rng.normal(size=count)
    shifts = (shifts - shifts.mean()) / shifts.std(ddof=1) * found.sd
    for number, decided in ((count, True), (count - 1, False)):
        other = SeedEstimate(found.value, found.items, found.sd, dict.fromkeys(range(number), 0.0), 400, found.freedom)
        assert other.ends is not None and (other.ends[1] < 99.0) is decided
    assert made({0: 96.0, 1: 98.5, 2: 97.0}, spread=9.0).seeds_needed(99.0) is None  # the items' part alone is too wide


def test_one_cluster_gives_no_interval() -> None:
    found = estimate({0: 50.0, 1: 52.0}, DRAWN, [1.0], [1])
    assert found.value == 51.0 and found.ends is None and found.p is None


def test_the_interval_holds_where_that_of_the_items_does_not() -> None:
    row = coverage((Setting(seeds=3, size=1, retention=0.9, scatter=5.0), 60))
    assert row["both"][0] >= 88.0
    assert row["items alone"][0] <= 75.0


def test_a_narrow_interval_of_one_seed_is_that_of_its_items() -> None:
    found = made({3: 50.0}, spread=0.02)
    assert found.ends == pytest.approx(found.items)
    assert found.ends is not None and found.ends[1] - found.ends[0] < 0.1


def test_the_side_of_the_threshold_decides_how_many_seeds_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The items' interval reaches 0.1 down and 4 up, so no number of seeds would separate it from 11."""
    found = SeedEstimate(10.0, (9.9, 14.0), 0.3, {0: 9.8, 1: 10.2}, 400, 399.0)
    count = found.seeds_needed(9.5)
    assert count is not None and count > 3
    assert found.seeds_needed(11.0) is None
    turned = SeedEstimate(10.0, (6.0, 10.1), 0.3, {0: 9.8, 1: 10.2}, 400, 399.0)
    assert (turned.seeds_needed(10.5), turned.seeds_needed(9.0)) == (count, None)
    assert found.seeds_needed(10.0) is None
    assert SeedEstimate(10.0, (9.9, 10.1), 1e-3, {0: 10.0, 1: 10.0}, 400, 399.0).seeds_needed(0.0) == 3  # one more
    monkeypatch.setattr("vrbench.reproduce.seed_estimate.MAX_SEEDS", count)
    assert found.seeds_needed(9.5) == count
    monkeypatch.setattr("vrbench.reproduce.seed_estimate.MAX_SEEDS", count - 1)
    assert found.seeds_needed(9.5) is None


def test_an_estimate_by_hand() -> None:
    each = {0: 1.0, 4: 3.0}
    assert estimate(each, DRAWN, [1.0], [1], 7) == SeedEstimate(2.0, None, pytest.approx(2**0.5), each, 7)
    two = estimate(each, DRAWN - 48.0, [1.0], [2], 7)
    assert (two.value, two.sd, two.each, two.n, two.freedom) == (2.0, pytest.approx(2**0.5), each, 7, 1.0)
    assert two.items is not None and two.items[0] < 2.0 < two.items[1]
