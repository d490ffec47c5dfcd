"""All runs on the same draws: figures are the official ones, pairs and seeds are paired."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.reproduce.sample_results import made_run
from tests.simulated import changed, saved
from vrbench.core.run_storage import samples_to_jsonl
from vrbench.core.schemas import Run
from vrbench.reproduce import run_counts
from vrbench.reproduce.joint_bootstrap import JointBootstrap
from vrbench.statistics.bootstrap import score
from vrbench.statistics.comparison import compare


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    made = {f"{model}{seed}": made_run(model, seed) for seed in (0, 1) for model in ("full", "region", "top")}
    rows = made["top1"].samples["seen"]
    gap = (rows[0].model_copy(update={"unscored": "no answer"}), *rows[1:])
    return made | {"gap1": made["top1"].model_copy(update={"samples": made["top1"].samples | {"seen": gap}})}


def _digest(run: Run, task: str) -> str:
    return hashlib.sha256(samples_to_jsonl(run.samples[task]).encode()).hexdigest()


@pytest.fixture(scope="module")
def joint(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> JointBootstrap:
    folder = tmp_path_factory.mktemp("runs")
    read = {}
    for name, run in runs.items():
        results = tuple(r.model_copy(update={"samples_digest": _digest(run, r.task)}) for r in run.record.results)
        whole = run.model_copy(update={"record": run.record.model_copy(update={"results": results})})
        read[name] = run_counts.read_counts(saved(folder / name, whole))
    return JointBootstrap(read)


SEEN, READ = ["seen"], ["read"]


def test_one_seed_is_what_compare_says(runs: dict[str, Run], joint: JointBootstrap) -> None:
    row = next(r for r in compare([runs["region0"]], runs["full0"]).candidates[0].tasks if r.name == "seen")
    kept, gained = joint.retention({0: ("region0", "full0")}, SEEN), joint.difference({0: ("region0", "full0")}, SEEN)
    assert kept is not None and gained is not None and kept.ends is not None and gained.ends is not None
    assert kept.value == pytest.approx(row.retention) and gained.value == pytest.approx(row.difference)
    assert kept.ends == pytest.approx((row.retention_low, row.retention_high), abs=0.6)  # other draws
    assert gained.ends == pytest.approx((row.difference_low, row.difference_high), abs=0.6)
    assert kept.n == row.n


def test_a_mean_over_seeds_is_that_of_each_with_its_own_baseline(runs: dict[str, Run], joint: JointBootstrap) -> None:
    found = joint.retention({s: (f"region{s}", f"full{s}") for s in (0, 1)}, SEEN)
    scores = {n: score("mean", run.samples["seen"]).value for n, run in runs.items()}
    own = [100 * scores[f"region{s}"] / scores[f"full{s}"] for s in (0, 1)]
    assert found is not None
    assert list(found.each.values()) == pytest.approx(own)
    assert found.value == pytest.approx(np.mean(own))


def test_a_mean_over_tasks_is_of_the_scores(runs: dict[str, Run], joint: JointBootstrap) -> None:
    found = joint.retention({0: ("top0", "full0")}, ["seen", "read"])
    scores = {n: [score("mean", runs[n].samples[t]).value for t in ("seen", "read")] for n in ("top0", "full0")}
    assert found is not None and found.value == pytest.approx(100 * sum(scores["top0"]) / sum(scores["full0"]))
    assert found.n == 480


def test_pairs_cancel_what_they_share(joint: JointBootstrap) -> None:
    alone = joint.score({0: "region0"}, SEEN)
    paired = joint.difference({0: ("region0", "full0")}, SEEN)
    assert alone is not None and paired is not None and alone.ends is not None and paired.ends is not None
    assert paired.ends[1] - paired.ends[0] < 0.9 * (alone.ends[1] - alone.ends[0])


def test_the_same_answers_still_leave_room_for_items_not_seen(joint: JointBootstrap) -> None:
    twin = JointBootstrap({"a": joint.runs["full0"], "b": joint.runs["full0"]})
    found = twin.difference({0: ("a", "b")}, SEEN)
    assert found is not None and found.ends is not None and found.value == 0
    assert -2.0 < found.ends[0] < -0.2 and 0.2 < found.ends[1] < 2.0


def test_less_perplexity_is_more_kept(runs: dict[str, Run], joint: JointBootstrap) -> None:
    found = joint.retention({0: ("top0", "full0")}, ["words"])
    base, ours = (score("perplexity", runs[n].samples["words"]).value for n in ("full0", "top0"))
    assert found is not None and ours > base
    assert found.value == pytest.approx(100 * base / ours)


def test_difference_of_two_retentions(joint: JointBootstrap) -> None:
    pairs = {m: {s: (f"{m}{s}", f"full{s}") for s in (0, 1)} for m in ("region", "top")}
    more = joint.retention_difference(pairs["region"], pairs["top"], SEEN)
    region, top = joint.retention(pairs["region"], SEEN), joint.retention(pairs["top"], SEEN)
    assert more is not None and region is not None and top is not None
    assert more.value == pytest.approx(region.value - top.value) and more.value > 10
    same = joint.retention_difference(pairs["region"], pairs["region"], SEEN)
    assert same is not None and same.value == 0 and same.p == 1.0


def test_items_that_one_could_not_score_are_left_out_of_all(runs: dict[str, Run], joint: JointBootstrap) -> None:
    found = joint.difference({0: ("top0", "full0"), 1: ("gap1", "full1")}, SEEN)
    assert found is not None and found.n == 239

    def mean(name: str) -> float:
        return 100 * float(np.mean([s.score for s in runs[name].samples["seen"][1:]]))

    assert list(found.each.values()) == pytest.approx([mean("top0") - mean("full0"), mean("top1") - mean("full1")])
    assert joint.draws("seen", ["top0"])["top0"].n == 240


def test_a_seed_whose_task_died_is_left_out(runs: dict[str, Run], tmp_path: Path) -> None:
    read = {n: run_counts.read_counts(saved(tmp_path / n, runs[n])) for n in ("full0", "region0", "full1")}
    dead = changed(runs["region1"], status="error", error="killed", score=None)
    read["region1"] = run_counts.read_counts(saved(tmp_path / "dead", dead))
    found = JointBootstrap(read).retention({s: (f"region{s}", f"full{s}") for s in (0, 1)}, SEEN)
    assert found is not None and list(found.each) == [0]
    assert read["region1"].failed_tasks == ("seen", "read", "words")


def test_other_items_are_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    full = run_counts.read_counts(saved(tmp_path / "full", runs["full0"]))
    region = run_counts.read_counts(saved(tmp_path / "region", runs["region0"]))
    assert run_counts.pairing_errors(region, full, "x") == []
    other = runs["region0"].record.settings.model_copy(update={"limit": 9})
    moved = runs["region0"].model_copy(update={"record": runs["region0"].record.model_copy(update={"settings": other})})
    (fault,) = run_counts.pairing_errors(run_counts.read_counts(saved(tmp_path / "moved", moved)), full, "x")
    assert fault.startswith("x: limit 9 against the baseline's 240")
