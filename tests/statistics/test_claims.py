"""Claims: reading them, judging them, and how many items would decide them."""

from __future__ import annotations

import pytest

from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.statistics.claims import DEFAULT_CLAIMS, items_needed, judge, parse, parse_all


def test_claims_are_read() -> None:
    kept, points = (parse(text) for text in DEFAULT_CLAIMS)
    assert (kept.name, kept.unit, kept.threshold) == ("visual", "retention", 99.0)
    assert (points.name, points.unit, points.threshold) == ("text", "points", -1.0)
    assert parse(" pocket_mme >= 97.5 % ").text == "pocket_mme>=97.5%"
    assert len(parse_all(["a>=1", "a >= 1", "a>=1%"])) == 2


@pytest.mark.parametrize(
    "text", ["visual", "visual>99%", "visual>=", ">=99%", "visual>=ninety%", "a<=3", "visual>=99%%"]
)
def test_what_is_no_claim_is_refused(text: str) -> None:
    with pytest.raises(VrbenchError, match=r"cannot be read; write a name, >= and a number"):
        parse(text)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(MultipleErrors) as caught:
        parse_all(["visual", "text>=-1%", "text>=-1"])
    assert len(caught.value.messages) == 2
    assert "below 0 %" in caught.value.messages[1]


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((99.0, 101.0), "supported"),
        ((97.0, 98.9), "refuted"),
        ((97.0, 99.0), "undecided"),
        ((98.9, 103.0), "undecided"),
    ],
)
def test_the_interval_decides(ends: tuple[float, float], verdict: str) -> None:
    assert judge(parse("visual>=99%"), 100, sum(ends) / 2, ends).verdict == verdict


def test_the_items_it_would_take() -> None:
    claim = parse("visual>=99%")
    above = judge(claim, 400, 101.0, (97.0, 106.0))  # 2 above, reaches 4 down: four times the items
    assert above.n_needed == 1600
    assert "about 1,600 items would support it" in above.reason
    below = judge(claim, 400, 97.0, (90.0, 100.0))  # 2 below, reaches 3 up: 2.25 times
    assert below.n_needed == 900
    assert "refute" in below.reason
    near = judge(claim, 400, 99.001, (97.0, 101.0))
    assert near.n_needed is None
    assert near.reason == "too near the threshold for any reasonable number of items"
    assert judge(claim, 400, 99.0, (97.0, 101.0)).n_needed is None


def test_without_an_interval_nothing_is_decided() -> None:
    assert judge(parse("visual>=99%"), 5, None, None).verdict == "undecided"
    assert judge(parse("visual>=99%"), 5, 150.0, None).verdict == "undecided"


def test_a_retention_may_be_claimed_from_0_percent_on() -> None:
    assert [parse(text).threshold for text in ("a>=0%", "a>=0.5%", "a>=-0.5")] == [0.0, 0.5, -0.5]


@pytest.mark.parametrize(
    ("threshold", "n", "estimate", "ends", "needed"),
    [
        (99.0, 549, 101.0, (98.0, 101.5), 1300),  # 549 * (3 / 2) ** 2 = 1235.25, to two digits upwards
        (99.0, 400, 99.5, (98.5, 99.6), 1600),  # half a point above, the lower end a whole one below
        (99.0, 50, 98.0, (97.0, 99.0), 51),  # the end lies on the threshold: at least one item more
        (99.0, 10_000, 100.0, (90.0, 101.0), None),  # a million would do just that
        (99.0, 9_801, 100.0, (90.0, 101.0), 990_000),  # 980,100
        (99.0, 100, 99.0, (90.0, 101.0), None),
    ],
)
def test_items_needed_by_hand(
    threshold: float, n: int, estimate: float, ends: tuple[float, float], needed: int | None
) -> None:
    assert items_needed(threshold, n, estimate, ends) == needed
