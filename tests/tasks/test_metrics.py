"""Metrics against hand-made cases and against the harnesses' own aggregation functions."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tests.simulated import samples
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample
from vrbench.statistics import bootstrap
from vrbench.tasks import metrics


def item(number: int, score: float, group: str = "", unit: str = "", cluster: str = "", weight: float = 1.0) -> Sample:
    return Sample(
        id=str(number), cluster=cluster or unit or str(number), group=group, unit=unit, score=score, weight=weight
    )


def value(name: str, rows: list[Sample]) -> float:
    metric = metrics.METRICS[name]
    return float(metric.value(metric.statistics(rows).sum(0)))


def test_mme_is_acc_plus_acc_plus_per_subtask() -> None:
    rows = [item(0, 1, "count", "a"), item(1, 1, "count", "a"), item(2, 1, "count", "b"), item(3, 0, "count", "b")]
    rows += [item(4, 0, "position", "c"), item(5, 1, "position", "c")]
    assert metrics.mme_points(rows) == {"count": 75 + 50, "position": 50 + 0}
    assert value("mme", rows) == pytest.approx((125 + 50) / 400 * 100)


def test_mme_equals_the_official_aggregate() -> None:
    from lmms_eval.tasks.mme.utils import mme_aggregate_results

    rng = random.Random(1)
    rows = [
        item(2 * i + j, float(rng.random() < 0.7), group, f"{group}/{i}")
        for i in range(120)
        for group in [rng.choice(["existence", "count", "OCR"])]
        for j in (0, 1)
    ]
    rng.shuffle(rows)
    official = mme_aggregate_results([{"question_id": s.unit, "category": s.group, "score": s.score} for s in rows])
    assert sum(metrics.mme_points(rows).values()) == pytest.approx(official, rel=1e-12)
    assert value("mme", rows) == pytest.approx(official / 600 * 100, rel=1e-12)


def test_circular_equals_the_official_aggregate() -> None:
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    rng = random.Random(2)
    rows, official = [], []
    for question in range(60):
        for turn in range(4):
            right = rng.random() < 0.8
            index, target = question + turn * 1_000_000, "ABCD"[(question + turn) % 4]
            prediction = target if right else "ABCD"[(question + turn + 1) % 4]
            rows.append(item(index, float(right), unit=str(question)))
            fields = {"index": index, "answer": target, "prediction": prediction, "category": "c", "l2-category": "l"}
            official.append({"question": "q", "split": "dev", **fields, **{c: f"option {c}" for c in "ABCD"}})
    overall, _, _ = MMBench_Evaluator().eval_result(official, eval_method="static")
    assert 0 < overall < 1
    assert value("circular", rows) == pytest.approx(100 * overall, rel=1e-12)
    assert value("vanilla", rows) == pytest.approx(100 * sum(s.score for s in rows) / len(rows))


def test_mean_equals_the_official_seed_aggregate() -> None:
    from lmms_eval.tasks.seedbench.utils import seed_aggregation_result

    rng = random.Random(3)
    pairs = [(rng.choice("ABCD"), rng.choice("ABCD")) for _ in range(200)]
    official = seed_aggregation_result([{"pred": p, "answer": a} for p, a in pairs])
    rows = [item(i, float(p == a)) for i, (p, a) in enumerate(pairs)]
    assert value("mean", rows) == pytest.approx(100 * official, rel=1e-12)


def test_perplexity_equals_the_official_aggregate() -> None:
    from lm_eval.api.metrics import weighted_perplexity

    rng = random.Random(4)
    pairs = [(-rng.uniform(50, 400), rng.randint(20, 90)) for _ in range(50)]
    rows = [item(i, score, weight=float(words)) for i, (score, words) in enumerate(pairs)]
    assert value("perplexity", rows) == pytest.approx(weighted_perplexity(pairs), rel=1e-12)
    assert not metrics.METRICS["perplexity"].higher_is_better


def test_macro_weighs_groups_alike() -> None:
    rows = [item(i, 1, "big") for i in range(90)] + [item(90 + i, 0, "small") for i in range(10)]
    assert value("macro", rows) == 50
    assert value("mean", rows) == 90


def test_rows_mean_the_same_in_any_order() -> None:
    rows = list(samples([1, 0, 1, 1, 0, 1], cluster=2, groups=("a", "b")))
    for name, metric in metrics.METRICS.items():
        forth, back = metric.statistics(rows), metric.statistics(rows[::-1])
        assert forth.tolist() == back.tolist(), name


def by_cluster(name: str, rows: list[Sample]) -> list[list[list[float]]]:
    """The table of `Metric.statistics`, sample by sample."""
    cells: dict[tuple[str, str], list[float]] = {}
    units: dict[tuple[str, str, str], list[float]] = {}
    for s in rows:
        units.setdefault((s.cluster, s.group, s.unit or s.id), []).append(s.score)
        if name not in ("mme", "circular"):
            cell = cells.setdefault((s.cluster, s.group if name == "macro" else ""), [0.0, 0.0])
            cell[0], cell[1] = cell[0] + s.score, cell[1] + s.weight
    for (cluster, group, _), scores in units.items():
        right = float(all(score >= 1 for score in scores))
        added = {
            "circular": {"": (right, 1)},
            "mme": {f"{group}/acc": (sum(scores), len(scores)), f"{group}/acc+": (right, 1)},
        }
        for ratio, parts in added.get(name, {}).items():
            cell = cells.setdefault((cluster, ratio), [0.0, 0.0])
            cell[0], cell[1] = cell[0] + parts[0], cell[1] + parts[1]
    clusters, ratios = (sorted({key[i] for key in cells}) for i in (0, 1))
    return [[cells.get((cluster, ratio), [0.0, 0.0]) for ratio in ratios] for cluster in clusters]


@pytest.mark.parametrize("name", metrics.METRICS)
def test_counts_by_column_are_those_of_each_sample(name: str) -> None:
    rng = random.Random(6)
    rows = [
        Sample(
            id=str(i), cluster=f"c{i // 5}", group=f"g{i // 5 % 3}", unit=rng.choice(["", f"u{i // 5}"]),
            score=rng.choice([0.0, 1.0, 0.3, 2.0]), weight=rng.choice([1.0, 0.7]),
        )
        for i in range(400)
    ]  # fmt: skip
    rng.shuffle(rows)
    expected = np.array(by_cluster(name, rows))
    assert metrics.METRICS[name].statistics(rows) == pytest.approx(expected, rel=1e-12)


def test_a_draw_without_a_group_is_the_mean_of_the_others() -> None:
    metric = metrics.METRICS["macro"]
    table = metric.statistics([item(0, 1, "a"), item(1, 0, "b"), item(2, 1, "b")])
    assert metric.value(table[1:].sum(0)) == 50


def test_unscored_items_are_left_out_and_take_their_unit_with_them() -> None:
    rows = list(samples([1, 1, 1, 0, 0, 0], cluster=2))
    rows[1] = rows[1].model_copy(update={"unscored": "no answer"})
    assert value("mean", rows) == pytest.approx(40)
    assert value("circular", rows) == 0
    assert bootstrap.score("mean", rows).n == 5
    assert bootstrap.score("circular", rows).n == 4
    assert metrics.METRICS["circular"].outcomes(rows) == 2


def test_groups_are_scored_alone() -> None:
    rows = [item(0, 1, "a", "u"), item(1, 1, "a", "u"), item(2, 0, "b", "v"), item(3, 1, "b", "v")]
    found = bootstrap.score_groups("mme", rows)
    assert [(g, s.value, s.n, s.clusters) for g, s in found.items()] == [("a", 100, 2, 1), ("b", 25, 2, 1)]


def test_faults_are_told() -> None:
    with pytest.raises(VrbenchError, match=r"metric 'f1' is unknown; there are mean"):
        bootstrap.score("f1", samples([1.0]))
    with pytest.raises(VrbenchError, match="no sample was scored"):
        bootstrap.score("mean", [])
    with pytest.raises(VrbenchError, match="is in clusters"):
        bootstrap.score("circular", [item(0, 1, unit="u", cluster="a"), item(1, 1, unit="u", cluster="b")])


def test_an_interval_holds_its_value_and_does_not_vanish_at_the_edge() -> None:
    found = bootstrap.score("mean", samples([1.0] * 100))
    assert found.high == found.value == 100
    assert 95 < found.low < 99  # the rule of three says 97
    alone = bootstrap.score("mean", samples([1.0, 1.0, 0.0], cluster=3))
    assert (alone.low, alone.high) == (0, 100)
    text = bootstrap.score("perplexity", samples([-100.0], weight=50))
    assert text.value == text.low == text.high == pytest.approx(math.exp(2))


@pytest.mark.parametrize(("metric", "outcomes"), [("mean", 6), ("vanilla", 6), ("circular", 3), ("mme", 3)])
def test_outcomes_are_items_or_units(metric: str, outcomes: int) -> None:
    rows = samples([1.0] * 6, 2)
    assert metrics.METRICS[metric].outcomes(rows) == outcomes
    unscored = (rows[0].model_copy(update={"unscored": "no answer"}), *rows[1:])
    assert metrics.METRICS[metric].outcomes(unscored) == outcomes - 1
