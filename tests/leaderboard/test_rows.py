"""Ranks say no more than the intervals do."""

from __future__ import annotations

from vrbench.leaderboard.rows import rank_scores
from vrbench.leaderboard.schema import Rank, ScoreWithCI


def figure(low: float, high: float) -> ScoreWithCI:
    return ScoreWithCI(value=(low + high) / 2, low=low, high=high)


def test_rows_whose_intervals_overlap_share_places() -> None:
    made = [figure(90, 95), figure(80, 91), figure(70, 79), figure(60, 82)]
    assert rank_scores(made) == [
        Rank(best=1, worst=2),  # only the second may be better
        Rank(best=1, worst=3),  # above the third, and perhaps below the fourth
        Rank(best=3, worst=4),
        Rank(best=2, worst=4),
    ]


def test_separate_intervals_have_one_place_each() -> None:
    made = [figure(10, 20), figure(50, 60), figure(30, 40)]
    assert rank_scores(made) == [Rank(best=3, worst=3), Rank(best=1, worst=1), Rank(best=2, worst=2)]
    assert [rank and rank.best for rank in rank_scores(made, higher_is_better=False)] == [1, 3, 2]


def test_equal_rows_share_all_places_and_a_row_without_interval_has_none() -> None:
    made = [figure(50, 50), ScoreWithCI(value=90), figure(50, 50)]
    assert rank_scores(made) == [Rank(best=1, worst=2), None, Rank(best=1, worst=2)]
