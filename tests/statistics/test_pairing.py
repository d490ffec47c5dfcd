"""Items are paired by id, and an item that either run could not score is left out of both."""

from __future__ import annotations

import numpy as np
import pytest

from tests.simulated import changed, run, samples
from vrbench.core.schemas import Run
from vrbench.statistics.pairing import labels, pair_counts, pair_task, validate_pair
from vrbench.tasks.metrics import Metric

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


def test_a_baseline_is_counted_once_for_all_candidates_with_the_same_items(monkeypatch: pytest.MonkeyPatch) -> None:
    base, *candidates = answered("base", (0,)), answered("a", ()), answered("b", (0,)), answered("c", (1,))
    counted, real = [], Metric.statistics
    monkeypatch.setattr(Metric, "statistics", lambda *given: counted.append(given) or real(*given))
    first, second, third = (pair_counts("facts", candidate, base) for candidate in candidates)
    assert len(counted) == 3 + 2
    assert first.counts is not None and second.counts is not None and third.counts is not None
    assert first.counts.baseline is second.counts.baseline
    assert (len(first.counts.baseline), len(third.counts.baseline)) == (7, 6)


def test_a_task_without_an_item_scored_in_both_has_no_counts() -> None:
    pair = pair_task("facts", answered("ours", (0, 1, 2, 3)), answered("base", (2, 3, 4, 5, 6, 7)))
    assert (pair.counts, pair.drawn, pair.n, pair.unscored, pair.unscored_alone) == (None, None, 0, 8, (4, 2))


def test_a_part_of_the_code_without_a_version_has_version_1() -> None:
    ours = changed(answered("ours", ()), code={"a": 1, "b": 2, "d": 3})
    base = changed(answered("base", ()), code={"c": 1, "b": 1, "e": 2})
    (message,) = validate_pair(ours, base, "x")
    assert "(b 2 against the baseline's 1, d 3 against the baseline's 1, e 1 against the baseline's 2)" in message
    assert not list(validate_pair(ours, base, "x", same_code=False))


def test_a_failed_task_is_not_checked() -> None:
    ours, base = answered("ours", ()), changed(answered("base", ()), version="2", data_digest="f" * 64)
    assert len(list(validate_pair(ours, base, "x"))) == 2
    for pair in ((changed(ours, status="error"), base), (ours, changed(base, status="error"))):
        assert not list(validate_pair(*pair, "x"))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"id": "0"}, "an item id occurs twice"),
        ({"cluster": "9"}, "the place of 1 items differs, such as '7'"),
        ({"group": "9"}, "the place of 1 items differs, such as '7'"),
        ({"unit": "9"}, "the place of 1 items differs, such as '7'"),
        ({"weight": 9.0}, "the place of 1 items differs, such as '7'"),
        ({"prompt_digest": "9"}, "the prompt of 1 items differs, such as '7'"),
    ],
)
def test_items_in_another_place_are_not_paired(which: int, fields: dict[str, object], what: str) -> None:
    pair = [answered("ours", ()), answered("base", ())]
    rows = pair[which].samples["facts"]
    moved = {"facts": (*rows[:-1], rows[-1].model_copy(update=fields))}
    pair[which] = pair[which].model_copy(update={"samples": moved})
    (message,) = validate_pair(pair[0], pair[1], "x")
    assert what in message


def test_runs_of_one_name_are_labelled_with_their_digest() -> None:
    named = [answered("base", ()), answered("ours", ()), answered("base", ())]
    digest = named[0].record.checkpoint.digest
    assert labels(named) == [f"base@{digest[:8]}#1", "ours", f"base@{digest[:8]}#2"]
