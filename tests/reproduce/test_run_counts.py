"""Runs reduced to counts: what a claim's name covers, clusters without a score, and which runs can be paired."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.simulated import changed, run, samples
from vrbench.core.schemas import Run, Sample
from vrbench.reproduce.run_counts import RunCounts, count_run, leave_out, pairing_errors

ROWS = samples([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], 2)


def counted(made: Run) -> RunCounts:
    return count_run(lambda: made)


def one_task(name: str, rows: tuple[Sample, ...] = ROWS) -> Run:
    made = run(name, {"t": ("s", "mean", ROWS)})
    return made.model_copy(update={"samples": {"t": rows}})


def test_a_pool_has_the_percentages_of_its_suites() -> None:
    kinds = {
        "a": ("visual", "mean"), "b": ("pocket_visual", "mme"), "c": ("text", "mean"), "d": ("pocket_text", "mean"),
        "e": ("pocket_text", "perplexity"), "f": ("other", "mean"), "g": ("visual", "mean"),
    }  # fmt: skip
    made = run("x", {task: (suite, metric, ROWS) for task, (suite, metric) in kinds.items()})
    results = tuple(
        r.model_copy(update={"higher_is_better": False}) if r.task == "g" else r for r in made.record.results
    )
    pools = RunCounts(made.record.model_copy(update={"results": results}), {}, lambda: made)
    found = {name: "".join(pools.pool(name)) for name in ("visual", "pocket_visual", "text", "pocket", "other", "none")}
    assert found == {"visual": "ab", "pocket_visual": "b", "text": "cd", "pocket": "bd", "other": "f", "none": ""}


def test_a_cluster_without_a_scored_item_has_a_row_of_zeros() -> None:
    unscored = tuple(s.model_copy(update={"unscored": "x"}) if i in (0, 2, 3) else s for i, s in enumerate(ROWS))
    found = counted(one_task("x", unscored)).tasks["t"]
    assert found.table.tolist() == [[[0.0, 1.0]], [[0.0, 0.0]], [[1.0, 2.0]]]
    assert (found.n, found.outcomes, found.unscored) == (3, 3, {"0", "2", "3"})
    whole = counted(one_task("x"))
    assert np.array_equal(leave_out(whole, "t", frozenset({"0", "2", "3"})).table, found.table)
    assert whole.tasks["t"].table.tolist() == [[[1.0, 2.0]], [[2.0, 2.0]], [[1.0, 2.0]]]
    macro = run("x", {"t": ("s", "macro", samples([1.0] * 6, 2, ("a", "b")))})
    left = leave_out(counted(macro), "t", frozenset({"2", "3"}))
    assert left.table.tolist() == [[[2.0, 2.0]], [[0.0, 0.0]], [[2.0, 2.0]]]


@pytest.mark.parametrize(
    "fields", [{"id": "9"}, {"cluster": "9"}, {"group": "9"}, {"unit": "9"}, {"weight": 2.0}, {"prompt_digest": "9"}]
)
def test_items_are_the_same_in_any_order_and_with_any_score(fields: dict[str, Any]) -> None:
    digest = counted(one_task("x")).tasks["t"].items_digest
    scored = tuple(s.model_copy(update={"score": 0.5}) for s in ROWS[::-1])
    assert counted(one_task("x", scored)).tasks["t"].items_digest == digest
    other = (*ROWS[:-1], ROWS[-1].model_copy(update=fields))
    assert counted(one_task("x", other)).tasks["t"].items_digest != digest


def test_runs_of_other_versions_of_the_code_may_be_paired() -> None:
    ours = counted(changed(one_task("a"), definition_digest="a" * 64, code={"x": 2}))
    assert pairing_errors(ours, counted(changed(one_task("b"), code={"x": 1})), "a") == []  # not alike: no definition
    moved = (*ROWS[:-1], ROWS[-1].model_copy(update={"cluster": "9"}))
    (error,) = pairing_errors(ours, counted(one_task("b", moved)), "a")
    assert error.startswith("a: t: the place of 1 items differs")
