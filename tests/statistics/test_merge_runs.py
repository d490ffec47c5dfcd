"""Runs of one checkpoint from several days or machines become one; what does not fit together is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.simulated import changed, flipped, run, samples, saved
from vrbench.cli import app
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.schemas import Run
from vrbench.statistics.comparison import compare, compare_paths
from vrbench.statistics.merge_runs import join
from vrbench.statistics.schema import Comparison

BASE = (np.arange(200) % 10 < 8).astype(float)


def part(name: str, *tasks: str, loss: float = 0.0, device: str = "cpu", **settings: Any) -> Run:
    """A run of some tasks, as if made on a machine of its own."""
    made = run(name, {t: ("s", "mean", samples(flipped(BASE, loss, 0, len(t)))) for t in tasks}, **settings)
    provenance = made.record.provenance.model_copy(update={"device": device})
    return made.model_copy(update={"record": made.record.model_copy(update={"provenance": provenance})})


def died(made: Run) -> Run:
    dead = changed(made, status="error", error="out of memory", score=None)
    return dead.model_copy(update={"samples": {}, "record": dead.record.model_copy(update={"status": "error"})})


def test_tasks_of_several_runs_are_in_one_and_each_says_where_it_is_from() -> None:
    (other, joined) = join([part("b", "one"), part("a", "one"), part("a", "two", "three", device="card")])
    assert other == part("b", "one")
    assert [r.task for r in joined.record.results] == list(joined.samples) == ["one", "two", "three"]
    assert joined.record.settings.tasks == ("one", "three", "two")
    assert [(s.tasks, s.provenance.device) for s in joined.sources] == [(("one",), "cpu"), (("two", "three"), "card")]
    assert joined.record.inputs_digest not in (part("a", "one").record.inputs_digest, other.record.inputs_digest)
    assert joined.notes == ()


def test_figures_are_those_of_one_run_with_all_tasks() -> None:
    whole = compare([part("a", "one", "two", loss=0.2)], part("b", "one", "two"))
    (ours,) = join([part("a", "one", loss=0.2), part("a", "two", loss=0.2)])
    (theirs,) = join([part("b", "one"), part("b", "two")])
    found = compare([ours], theirs)
    assert found.candidates[0].tasks == whole.candidates[0].tasks
    assert found.candidates[0].suites == whole.candidates[0].suites
    assert [len(s) for s in (found.baseline_sources, found.candidates[0].sources, whole.baseline_sources)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limit": 10}, "limit None and 10"),
        ({"seed": 1}, "seed 0 and 1"),
        ({"dtype": "x"}, "dtype float32 and x"),
        ({"image_settings": "pad"}, "image_settings harness and pad"),
        ({"backend": "vllm"}, "backend vrbench and vllm"),
    ],
)
def test_other_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(VrbenchError, match=f"runs of a cannot be joined, their settings differ: {said}"):
        join([part("a", "one"), part("a", "two", **settings)])
    assert len(join([part("a", "one"), part("b", "two", **settings)])) == 2


@pytest.mark.parametrize("order", [1, -1])
def test_the_higher_version_of_a_task_is_kept_and_the_other_named(order: int) -> None:
    old, new = (changed(part("a", "one", loss=loss), version=v) for loss, v in ((0.5, "9"), (0.1, "10")))
    (joined,) = join([old, new, part("a", "two")][::order])
    assert joined.result("one") == new.result("one") and joined.samples["one"] == new.samples["one"]
    assert joined.notes == ("one version 9 is superseded by version 10",)
    assert len(joined.sources) == 2  # nothing is taken from the third
    found = compare([joined], changed(part("b", "one"), version="10"))
    assert "a: one version 9 is superseded by version 10" in found.notes
    base = changed(part("b", "one"), version="10").model_copy(update={"notes": ("said of the baseline",)})
    assert "b: said of the baseline" in compare([joined], base).notes


def test_the_same_task_twice_must_be_the_same() -> None:
    once, twice = part("a", "one"), part("a", "one", "two")
    (joined,) = join([once, twice])
    assert [s.tasks for s in joined.sources] == [("one",), ("two",)] and joined.notes == ()
    assert join([once, once])[0].record.inputs_digest == once.record.inputs_digest
    said = "one is in two of them in version '1' with other data or scores; leave out one"
    for other in (part("a", "one", "two", loss=0.1), changed(once, data_digest="f" * 64)):
        with pytest.raises(VrbenchError, match=said):
            join([once, other])
    with pytest.raises(MultipleErrors) as caught:
        join([once, changed(once, data_digest="f" * 64), part("b", "one"), part("b", "two", limit=3)])
    assert len(caught.value.messages) == 2


@pytest.mark.parametrize("order", [1, -1])
def test_a_task_that_died_gives_way_to_one_that_ran_through(order: int) -> None:
    dead, well = died(part("a", "one")), part("a", "one", "two")
    (joined,) = join([dead, well][::order])
    assert joined.record.status == "ok" and joined.result("one").status == "ok" and "one" in joined.samples
    assert joined.notes == ("one failed in one run and is taken from another",)
    assert join([dead, part("a", "two")])[0].record.status == "error"


def test_from_disk(tmp_path: Path) -> None:
    made = {"a1": part("a", "one"), "a2": part("a", "two"), "b1": part("b", "one"), "b2": part("b", "two")}
    a1, a2, b1, b2 = (saved(tmp_path / name, each) for name, each in made.items())
    found = compare_paths([a1, a2, b1], [b1, b2])  # the baseline's among them are passed over
    assert [(c.label, [row.name for row in c.tasks]) for c in found.candidates] == [("a", ["one", "two"])]
    command = ["compare", str(a1), str(a2), "--baseline", str(b1), "--baseline", str(b2), "--format", "json"]
    assert Comparison.model_validate_json(CliRunner().invoke(app, command).stdout) == found
    with pytest.raises(VrbenchError, match=r"the baseline must be runs of one checkpoint, not of 2 \(b, a\)"):
        compare_paths([a2], [b1, a1])
    with pytest.raises(VrbenchError, match="the only run given is the baseline itself"):
        compare_paths([b1, b2], [b1, b2])
