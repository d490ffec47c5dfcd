"""How far a stored figure may be from what the answers give."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulated import result, samples
from vrbench.leaderboard import mismatches
from vrbench.leaderboard.mismatches import MAX_FIGURES, differences, validate_result, validate_samples


@pytest.mark.parametrize(
    ("clusters", "low", "high", "slack"),
    [
        (4, 10.0, 90.0, 0.05 * 80 + 25),  # one cluster of four moves the figure by 25 points
        (1, 40.0, 60.0, 0.05 * 20 + 20),  # but no further than the interval is wide
        (100, 40.0, 60.0, 0.05 * 20 + 1),
        (None, 40.0, 60.0, 0.05 * 20),
        (0, 40.0, 60.0, 0.05 * 20),
        ("2", 40.0, 60.0, 0.05 * 20),
    ],
)
@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("above", [0, 1])
def test_an_end_of_an_interval_may_differ_by_a_share_of_its_width_and_one_cluster(
    clusters: Any, low: float, high: float, slack: float, end: str, above: int
) -> None:
    """The clusters stand beside the interval or one level above it."""

    def nested(**ends: float) -> dict[str, Any]:
        here = {} if clusters is None else {"clusters": clusters}
        inside = {"low": low, "high": high} | ends
        return {"a": {"b": {**here, "c": inside} if above else here | inside}}

    name = "a.b.c." + end if above else "a.b." + end
    value = {"low": low, "high": high}[end]
    for sign in (-1, 1):
        assert differences(nested(**{end: value + sign * 0.999 * slack}), nested()) == []
        far = value + sign * 1.004 * slack
        assert differences(nested(**{end: far}), nested()) == [(name, far, value)]


def test_what_is_no_end_of_an_interval_may_not_differ() -> None:
    for ends in ({"low": 2.0, "high": None}, {"low": None, "high": 2.0}, {"low": 2.0}, {"high": 2, "low": 1.0}):
        name, value = next((n, v) for n, v in ends.items() if v is not None)
        assert differences({"a": ends | {name: value + 1}}, {"a": ends}) == [(f"a.{name}", value + 1, value)]
    assert differences({"a": {"low": 40.0}}, {"a": {"low": 40.0, "high": None}}) == [("a.high", "missing", None)]
    score = {"value": 50.0, "low": 40.0, "high": 60.0, "clusters": 9}
    assert differences(score | {"value": 50.1}, score) == [("value", 50.1, 50.0)]
    assert differences({"a": [1, (2, 3)], "b": []}, {"a": [1, (2, 4)], "b": []}) == [("a.1.1", 3, 4)]


@pytest.mark.parametrize(
    ("a", "b", "is_equal"),
    [
        (1.0, 1.0 + 1e-12, True), (1e6, 1e6 + 1e-4, True), (1.0, 1.0 + 1e-8, False), (0.0, 1e-10, True),
        (1.0, 1, False), (1, 1.0, False), (None, 1.0, False), (True, 1, False), ("a", "a", True),
        ((1.0, 2), (1.0 + 1e-12, 2), True), ((1,), (1, 2), False), ((1,), 1, False), (1, (1,), False), ((), (), True),
    ],
)  # fmt: skip
def test_values_are_equal_up_to_the_last_digits(a: Any, b: Any, is_equal: bool) -> None:
    assert mismatches._is_equal(a, b) is is_equal


@pytest.mark.parametrize(("count", "rest"), [(0, 0), (1, 0), (MAX_FIGURES, 0), (MAX_FIGURES + 2, 2)])
def test_only_so_many_figures_are_listed(count: int, rest: int) -> None:
    made = result("t", "s", "mean", samples([1.0, 0.0]), official={f"f{i}": 1.0 for i in range(9)})
    other = made.model_copy(update={"official": {f"f{i}": 1.0 + (i < count) for i in range(9)}})
    messages = list(validate_result(other, made))
    assert len(messages) == count - rest + (rest > 0)
    assert (f"{rest} more of its " in "".join(messages)) is (rest > 0)


def test_samples_are_compared_field_by_field() -> None:
    rows = samples([1.0, 0.0, 1.0])
    assert not list(validate_samples(rows, rows))
    other = (rows[0].model_copy(update={"score": 0.5, "loglikelihoods": (-1.0,)}), *rows[1:])
    assert [m.split(" of 1 sample ")[0] for m in validate_samples(other, rows)] == ["the score", "the loglikelihoods"]
