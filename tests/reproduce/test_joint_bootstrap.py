"""All runs on the same draws: figures are the official ones, pairs and seeds are paired."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.seed_study import read_counts
from tests.reproduce.sample_results import made_run
from tests.simulated import changed, run, samples, saved
from vrbench.core.run_storage import samples_to_jsonl
from vrbench.core.schemas import Run
from vrbench.reproduce import joint_bootstrap, run_counts
from vrbench.reproduce.joint_bootstrap import JointBootstrap
from vrbench.reproduce.run_counts import RunCounts, count_run
from vrbench.reproduce.seed_estimate import SeedEstimate, estimate
from vrbench.statistics import bootstrap
from vrbench.statistics.bootstrap import score
from vrbench.statistics.comparison import compare
from vrbench.statistics.resampling import draw_counts
from vrbench.tasks.metrics import METRICS


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    made = {f"{model}{seed}": made_run(model, seed) for seed in (0, 1) for model in ("full", "region", "top")}
    rows = made["top1"].samples["seen"]
    gap = (rows[0].model_copy(update={"unscored": "no answer"}), *rows[1:])
    return made | {"gap1": made["top1"].model_copy(update={"samples": made["top1"].samples | {"seen": gap}})}


def _digest(run: Run, task: str) -> str:
    return hashlib.sha256(samples_to_jsonl(run.samples[task]).encode()).hexdigest()


@pytest.fixture(scope="module")
def read_runs(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunCounts]:
    folder = tmp_path_factory.mktemp("runs")
    read = {}
    for name, made in runs.items():
        results = tuple(r.model_copy(update={"samples_digest": _digest(made, r.task)}) for r in made.record.results)
        whole = made.model_copy(update={"record": made.record.model_copy(update={"results": results})})
        read[name] = read_counts(saved(folder / name, whole))
    return read


@pytest.fixture
def joint(read_runs: dict[str, RunCounts]) -> JointBootstrap:
    return JointBootstrap(read_runs)


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
    read = {n: read_counts(saved(tmp_path / n, runs[n])) for n in ("full0", "region0", "full1")}
    dead = changed(runs["region1"], status="error", error="killed", score=None)
    read["region1"] = read_counts(saved(tmp_path / "dead", dead))
    found = JointBootstrap(read).retention({s: (f"region{s}", f"full{s}") for s in (0, 1)}, SEEN)
    assert found is not None and list(found.each) == [0]
    assert read["region1"].failed_tasks == ("seen", "read", "words")


def test_other_items_are_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    full = read_counts(saved(tmp_path / "full", runs["full0"]))
    region = read_counts(saved(tmp_path / "region", runs["region0"]))
    assert run_counts.pairing_errors(region, full, "x") == []
    other = runs["region0"].record.settings.model_copy(update={"limit": 9})
    moved = runs["region0"].model_copy(update={"record": runs["region0"].record.model_copy(update={"settings": other})})
    (fault,) = run_counts.pairing_errors(read_counts(saved(tmp_path / "moved", moved)), full, "x")
    assert fault.startswith("x: limit 9 against the baseline's 240")


def counted(name: str, tasks: dict[str, tuple[str, str, np.ndarray]]) -> RunCounts:
    made = run(name, {task: (suite, metric, samples(scores)) for task, (suite, metric, scores) in tasks.items()})
    return count_run(lambda: made)


@pytest.mark.parametrize("block", [joint_bootstrap._BLOCK, 242 * 300])
@pytest.mark.parametrize("task", ["seen", "words"])
def test_draws_by_hand(task: str, block: int, read_runs: dict[str, RunCounts], monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters drawn with the seed and the task's name; of a percentage also what was not seen, on either side."""
    monkeypatch.setattr(joint_bootstrap, "_BLOCK", block)
    counts = {name: read_runs[name].tasks[task] for name in ("full0", "region0")}
    found = joint_bootstrap._draw(counts, task, 3)
    metric, full = METRICS[counts["full0"].result.metric], counts["full0"]
    extra = [bootstrap.unseen_allowance(full.table, full.outcomes)] if task == "seen" else []
    clusters = len(full.table) + 2 * len(extra)
    rng = np.random.default_rng([3, zlib.crc32(task.encode())])
    at_once = block // clusters
    sizes = [min(at_once, bootstrap.DRAWS - first) for first in range(0, bootstrap.DRAWS, at_once)]
    weights = np.concatenate([draw_counts(clusters, size, rng) for size in sizes])
    for name, draws in found.items():
        table = counts[name].table
        for side, values in ((1, draws.baseline), (-1, draws.candidate)):
            whole = np.concatenate([table, *(np.stack(pair[::side]) for pair in extra)])
            assert values == pytest.approx(metric.value(np.tensordot(weights, whole, 1)))
        assert (draws.value, draws.clusters, draws.n) == (metric.value(table.sum(0)), len(table), counts[name].n)


PAIRS = {m: {s: (f"{m}{s}", f"full{s}") for s in (0, 1)} for m in ("region", "top")}
BOTH = ["seen", "read"]


def parts_of(joint: JointBootstrap, pairs: dict[int, tuple[str, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Retentions [seeds], their draws [seeds, draws], and what each task adds to them [tasks, draws]."""
    names = sorted({name for pair in pairs.values() for name in pair})
    tasks = [joint.draws(task, names) for task in BOTH]
    values, draws, parts = [], [], []
    for ours, theirs in pairs.values():
        base = np.mean([t[theirs].value for t in tasks])
        kept = np.mean([t[ours].value for t in tasks]) / base
        values.append(100 * kept)
        above, below = (np.array([t[ours].candidate for t in tasks]), np.array([t[theirs].baseline for t in tasks]))
        draws.append(100 * above.mean(0) / below.mean(0))
        parts.append((above - kept * below) / base)
    return np.array(values), np.array(draws), np.mean(parts, axis=0)


def made_estimate(values: np.ndarray, draws: np.ndarray, parts: np.ndarray) -> SeedEstimate:
    return estimate(dict(enumerate(values)), draws.mean(0), [p.var() for p in parts], [120, 240], 480)


def is_close(found: SeedEstimate | None, expected: SeedEstimate) -> bool:
    assert found is not None and found.items is not None and expected.items is not None
    numbers = [(e.value, *e.items, e.sd, e.freedom, e.n) for e in (found, expected) if e.items is not None]
    return list(found.each) == list(expected.each) and numbers[0] == pytest.approx(numbers[1])


def test_retentions_over_two_tasks_and_two_seeds_by_hand(joint: JointBootstrap) -> None:
    region, top = (parts_of(joint, pairs) for pairs in PAIRS.values())
    assert is_close(joint.retention(PAIRS["region"], BOTH), made_estimate(*region))
    difference = made_estimate(*(a - b for a, b in zip(region, top, strict=True)))
    assert is_close(joint.retention_difference(PAIRS["region"], PAIRS["top"], BOTH), difference)


def test_a_score_over_two_tasks_by_hand(joint: JointBootstrap) -> None:
    names = ["region0", "region1"]
    tasks = [joint.draws(task, names) for task in BOTH]
    values = np.array([np.mean([t[name].value for t in tasks]) for name in names])
    draws = np.array([[t[name].candidate for t in tasks] for name in names])
    expected = made_estimate(values, draws.mean(1), draws.mean(0))
    assert is_close(joint.score(dict(enumerate(names)), BOTH), expected)


def test_a_difference_of_retentions_is_over_the_seeds_that_both_have(joint: JointBootstrap) -> None:
    found = joint.retention_difference(PAIRS["region"], {1: PAIRS["top"][1]}, SEEN)
    assert found is not None and list(found.each) == [1]
    assert joint.retention_difference(PAIRS["region"], {}, SEEN) is None


def kept(base: list[np.ndarray], ours: float, others: list[np.ndarray] | None = None) -> SeedEstimate | None:
    """The retention of so many points over a baseline's tasks, and over another seed's."""
    bases = [base, *([others] if others else [])]
    runs = {f"base{s}": counted(f"base{s}", {str(i): ("s", "mean", t) for i, t in enumerate(b)})
            for s, b in enumerate(bases)}  # fmt: skip
    runs["ours"] = counted("ours", {str(i): ("s", "mean", t * 0 + ours / 100) for i, t in enumerate(base)})
    joint = JointBootstrap(runs)
    pairs = {s: ("ours", f"base{s}") for s in range(len(bases))}
    return joint.retention(pairs, [str(i) for i in range(len(base))])


def right(count: int, of: int = 40) -> np.ndarray:
    return (np.arange(of) < count).astype(float)


def test_a_baseline_must_be_above_zero_on_nearly_all_draws() -> None:
    """With k right answers and the allowance for one more, some exp(-k - 1) of the draws have none."""
    few = kept([right(5)], 25.0)
    assert few is not None and few.value == pytest.approx(200) and few.ends is not None and few.ends[1] < 1500
    assert kept([right(3)], 25.0) is None
    tiny = kept([right(40) * 0.005], 0.4)  # half a point
    assert tiny is not None and tiny.value == pytest.approx(80) and tiny.ends is not None
    assert 0 < tiny.ends[0] < 80 < tiny.ends[1] < 5000
    zeros = [right(0)] * 8  # nearly every draw has an item that was not seen
    assert kept(zeros, 25.0) is None
    assert kept(zeros, 25.0, [right(40)] * 8) is None


def test_a_difference_of_retentions_needs_both_on_the_same_draws() -> None:
    scores = {"most": right(30), "few": right(5), "none": right(0)}
    joint = JointBootstrap({name: counted(name, {"t": ("s", "mean", scores[name])}) for name in scores})
    whole, few, none = ({0: ("most", name)} for name in scores)
    assert joint.retention_difference(whole, none, ["t"]) is joint.retention_difference(none, whole, ["t"]) is None
    a, b = joint._retention(whole, ["t"]), joint._retention(few, ["t"])
    assert a is not None and b is not None and a.usable.all() and not b.usable.all()
    draws = (a.draws - b.draws)[0, b.usable]
    found = joint.retention_difference(whole, few, ["t"])
    assert found is not None and found.items == estimate({0: -500.0}, draws, [1.0], [40]).items


def test_a_task_that_no_run_has_whole_is_drawn_when_it_is_asked_for(read_runs: dict[str, RunCounts]) -> None:
    joint = JointBootstrap({"gap1": read_runs["gap1"]}, seed=2)
    first, again = (joint.draws("seen", ["gap1"])["gap1"] for _ in range(2))
    assert first.n == 239 and (first.baseline == again.baseline).all()
    other = JointBootstrap({"gap1": read_runs["gap1"]}, seed=3).draws("seen", ["gap1"])["gap1"]
    assert (first.baseline != other.baseline).any()
