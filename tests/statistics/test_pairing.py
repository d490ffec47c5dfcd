"""Items are paired by id, and an item that either run could not score is left out of both."""

from __future__ import annotations

import numpy as np
import pytest

from tests.simulated import run, samples
from vrbench.core.schemas import Run
from vrbench.statistics.pairing import pair_task

RIGHT = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0])


def answered(name: str, unscored: tuple[int, ...]) -> Run:
    rows = samples(RIGHT)
    rows = tuple(s.model_copy(update={"unscored": "no answer"}) if i in unscored else s for i, s in enumerate(rows))
    made = run(name, {"facts": ("text", "mean", samples(RIGHT))})
    return made.model_copy(update={"samples": {"facts": rows}})


@pytest.mark.parametrize(
    ("in_baseline", "in_candidate", "alone", "n"),
    [((), (), (0, 0), 8), ((0,), (), (1, 0), 7), ((), (0, 2), (0, 2), 6), ((0, 2, 4), (2, 5), (2, 1), 4)],
)
def test_items_unscored_in_either_run_are_counted_and_left_out_of_both(
    in_baseline: tuple[int, ...], in_candidate: tuple[int, ...], alone: tuple[int, int], n: int
) -> None:
    pair = pair_task("facts", answered("ours", in_candidate), answered("base", in_baseline))
    assert (pair.unscored_alone, pair.n, pair.unscored) == (alone, n, 8 - n)
    kept = [value for i, value in enumerate(RIGHT) if i not in (*in_baseline, *in_candidate)]
    assert pair.counts is not None
    assert pair.counts.values == pytest.approx((100 * np.mean(kept), 100 * np.mean(kept)))
