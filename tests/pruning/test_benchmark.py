"""`benchmarks/pruning.py` on a tiny model: what it measures, that it goes on where it stopped, and its report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import pruning, pruning_report
from tests import tiny
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.loss_evaluator import AnswerLosses, LossEvaluator
from vrbench.pruning.questions import DevQuestions

BY = ("divergence", "loss-lazy", "gate-fisher", "angular", "angular-block", "angular-block-pruneme")


@pytest.fixture(scope="module")
def made(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run, beside a folder 'work'."""
    out = tmp_path_factory.mktemp("bench") / "pruning"
    run(tiny_llava, out)
    return out


def run(ckpt: Path, out: Path, *more: str) -> None:
    options = ["--pictures", "2", "--judged", "3", "--turns", "2", "--most", "2", "--device", "cpu", "--by", *BY]
    options += ["--work", str(out.parent / "work"), "--out", str(out), "--ckpt", str(ckpt), *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pruning", *options])
        pruning.main()


def test_sets_are_judged_on_other_pictures(made: Path, tiny_llava: Path) -> None:
    (found,) = json.loads(made.with_suffix(".json").read_text())["checkpoints"]
    judge = LossEvaluator(load_vlm(resolve_checkpoint(str(tiny_llava))), DevQuestions(3, 2, pruning.JUDGED_FROM))
    assert list(found["scores"]) == list(BY)
    for score in found["scores"].values():
        assert [len(removed) for removed in score["sets"]] == [0, 1, 2]
        for removed, judged in zip(score["sets"], score["judged"], strict=True):
            value, low, high = judged["loss"]
            assert value == pytest.approx(judge.answers(removed).mean, abs=1e-4)
            assert low < value < high
    block = found["scores"]["angular-block"]["sets"][2]
    assert block[1] == block[0] + 1
    of_pruneme = found["scores"]["angular-block-pruneme"]["sets"][2]
    assert of_pruneme[1] == of_pruneme[0] + 1 and of_pruneme[0] > 0
    for layer in range(tiny.DEPTH):
        assert found["singles"][str(layer)] == pytest.approx(judge.answers([layer]).mean, abs=1e-4)


def test_what_is_finished_is_not_measured_again(
    made: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {suffix: made.with_suffix(suffix).read_bytes() for suffix in (".md", ".json", ".png")}
    monkeypatch.setattr(pruning, "removal_order", None)
    monkeypatch.setattr(pruning, "LossEvaluator", None)
    run(tiny_llava, made)
    assert " in " not in capsys.readouterr().out.partition("# Which")[0]
    run(tiny_llava, made, "--report-only")
    assert {suffix: made.with_suffix(suffix).read_bytes() for suffix in before} == before


def test_the_report_has_a_row_for_each_score(made: Path) -> None:
    text = made.with_suffix(".md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [*BY, *BY]  # losses, and shares of right answers
    assert "| -1 " in text and "| -2 " in text and "| -4 " not in text
    assert made.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert f"]({made.name}.png)" in text
    assert "--pictures 2 --judged 3 --turns 2` on " in text and "shared it" not in text
    found = json.loads(made.with_suffix(".json").read_text())
    assert "The seconds are of 6 processes that shared it." in pruning_report.report(found | {"beside": 6}, "plot.png")


def test_agreement_is_that_of_ranks() -> None:
    one = {"scores": {"0": 5.0, "1": 7.0, "10": 6.0}}
    assert pruning_report.agreement(one, {"0": 0.1, "1": 0.9, "10": 0.3}) == pytest.approx((1.0, 1.0))
    assert pruning_report.agreement(one, {"0": 0.9, "1": 0.1, "10": 0.3}) == pytest.approx((-1.0, -1.0))


def test_intervals_draw_pictures_not_questions() -> None:
    import numpy as np

    answers = AnswerLosses(np.repeat([0.0, 1.0], 20), np.repeat([True, False], 20))
    found = pruning.intervals(answers, np.repeat([3, 8], 20))
    assert found["loss"] == [0.5, 0.0, 1.0]  # with two pictures, both may be the same one
    assert found["right"] == [0.5, 0.0, 1.0]
