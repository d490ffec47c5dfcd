"""Every text task over small data of the hub's columns: what vrbench says is what lm-eval with its own model says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

import vrbench
from benchmarks import parity_text
from benchmarks.harness_models import LmEvalModel
from tests.evaluation.made_text import part_of, put
from tests.task_data import load_task
from vrbench.core.errors import VrbenchError
from vrbench.evaluation import lm_eval_adapter
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.built_task import SubtaskData, harness_config, select_items
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.models.llava_model import LlavaModel
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

SPECS = {name: spec for name, spec in registry.load().items() if "text" in spec.suites}
FEW = {"mmlu": 2, "mmlu_0shot": 2, "bbh": 2, "ceval": 2, "cmmlu": 2}
"""Configs of the tasks that have many, for speed."""


def small(name: str) -> TaskSpec:
    spec = SPECS[name]
    return part_of(spec, spec.data.configs[: FEW[name]]) if name in FEW else spec


def parts_of(spec: TaskSpec, root: Path) -> list[SubtaskData]:
    put(root, spec)
    return select_items(spec, load_task(spec, root), None, seed=0)


def an_answerer(vlm: LlavaModel, folder: Path) -> InferenceEngine:
    return InferenceEngine(vlm, AnswerStore(folder / "a.sqlite", "c"), show_progress=False)


@pytest.fixture(scope="module")
def reference(vlm: LlavaModel) -> Any:
    return HFLM(pretrained=vlm.model, tokenizer=vlm.tokenizer, batch_size=1)


@pytest.mark.parametrize("name", [name for name in SPECS if name not in ("piqa", "arc_easy")])
def test_each_text_task_is_lm_evals_to_the_item(vlm: LlavaModel, reference: Any, tmp_path: Path, name: str) -> None:
    spec = parity_text.limited(small(name), 12)
    parts = parts_of(spec, tmp_path)
    line = parity_text.compare(spec, parts, an_answerer(vlm, tmp_path), reference)
    assert line.unequal == ()
    assert line.equal, line
    assert line.unscored == 0
    assert line.items == 5 * len(spec.data.configs)
    assert (line.generations is None) == (spec.scorer != "exact_match")
    assert (line.difference is None) == (spec.scorer == "exact_match")
    assert line.figures >= (3 if name in FEW else 1)
    assert line.ours == pytest.approx(line.theirs, rel=1e-4)


def test_a_difference_is_found(
    vlm: LlavaModel, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS["openbookqa"]
    parts = parts_of(spec, tmp_path)
    answer = InferenceEngine.answer

    def off(self: Any, *given: Any) -> list[tuple[float, bool]]:
        return [(log + 9 * (i % 4 == 3), greedy) for i, (log, greedy) in enumerate(answer(self, *given))]

    monkeypatch.setattr(InferenceEngine, "answer", off)
    line = parity_text.compare(spec, parts, an_answerer(vlm, tmp_path), reference)
    assert not line.equal
    assert line.difference == pytest.approx(9, abs=1e-3)
    assert line.flips > 0


class Scripted:
    """Stands in for the engine: each answer is laid down."""

    def __init__(self, vlm: LlavaModel, said: Sequence[Any]) -> None:
        self.vlm = vlm
        self.said = said
        self.asked: list[Any] = []

    def answer(self, requests: Sequence[Any], title: str = "") -> list[Any]:
        self.asked = list(requests)
        return [self.said[i % len(self.said)] for i in range(len(requests))]


SAID = {
    "bbh": [
        "So the answer is True.", "the answer is (A).", "The answer is 7", "",
        "the answer is True. Or the answer is 7.",
        "I do not know.", "so the answer is  true.", "答案 the answer is (A)。",
    ],
    "gsm8k": [
        "1 + 0 = 1.\n#### 1,000", "#### 1001.", "It costs $1,002.", "#### 1003 cups", "", "none", "#### -5 or 1000",
        "1004",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ["bbh", "gsm8k"])
def test_generated_answers_are_filtered_and_scored_as_lm_eval_does(vlm: LlavaModel, tmp_path: Path, name: str) -> None:
    spec = small(name)
    put(tmp_path, spec, n=len(SAID[name]))
    parts = select_items(spec, load_task(spec, tmp_path), None, seed=0)
    scripted: Any = Scripted(vlm, SAID[name])
    outcome = evaluate_task(spec, parts, scripted)
    tasks = {p.config: lm_eval_adapter.LmEvalTask(harness_config(spec, p.config), p.rows, spec.fewshot) for p in parts}
    found = parity_text.evaluated(spec, tasks, LmEvalModel(scripted))
    assert parity_text._figures(spec, tasks, found) == pytest.approx(outcome.official)
    theirs = [s for task in tasks.values() for s in found["samples"][task.config.task] if s["filter"] == spec.filter]
    assert [s.answer for s in outcome.samples] == [s["filtered_resps"][0] for s in theirs]
    assert [s.score for s in outcome.samples] == [s["exact_match"] for s in theirs]
    assert 0 < sum(s.score for s in outcome.samples) < len(outcome.samples)
    assert len({s.answer for s in outcome.samples}) > 3


def test_gsm8k_is_scored_strictly_and_shows_the_flexible_figure_too(vlm: LlavaModel, tmp_path: Path) -> None:
    spec = SPECS["gsm8k"]
    scripted: Any = Scripted(vlm, ["so 1,000", "#### 1001", "it is 1002", "#### 1003", "3"])
    outcome = evaluate_task(spec, parts_of(spec, tmp_path), scripted)
    assert outcome.official == {"exact_match,strict-match": 0.4, "exact_match,flexible-extract": 0.8}
    assert [s.score for s in outcome.samples] == [0, 1, 0, 1, 0]
    assert [s.answer for s in outcome.samples] == ["[invalid]", "1001", "[invalid]", "1003", "[invalid]"]
    flexible = spec.model_copy(update={"filter": "flexible-extract"})
    again = evaluate_task(flexible, parts_of(spec, tmp_path), scripted)
    assert [s.score for s in again.samples] == [1, 1, 1, 1, 0]
    with pytest.raises(VrbenchError, match="no filter 'loose'; there are strict-match, flexible-extract"):
        evaluate_task(spec.model_copy(update={"filter": "loose"}), parts_of(spec, tmp_path), scripted)


def test_the_answer_is_the_likeliest_option_a_character(vlm: LlavaModel, tmp_path: Path) -> None:
    spec = SPECS["openbookqa"]
    parts = parts_of(spec, tmp_path)
    options = {"text": ["tea", "a long and winding road", "cup", "dog"], "label": list("ABCD")}
    rows = parts[0].rows["test"].map(lambda row: {**row, "choices": options, "answerKey": "B"})
    parts[0].rows["test"] = rows
    scripted: Any = Scripted(vlm, [(-5.0, False), (-9.0, False), (-6.0, False), (-7.0, False)])
    outcome = evaluate_task(spec, parts, scripted)
    assert outcome.official == {"acc": 0, "acc_norm": 1}
    assert {(s.answer, s.target, s.score) for s in outcome.samples} == {("a long and winding road",) * 2 + (1.0,)}


def test_winogrande_scores_what_follows_the_gap(vlm: LlavaModel, tmp_path: Path) -> None:
    scripted: Any = Scripted(vlm, [(-1.0, False), (-2.0, False)])
    parts = parts_of(SPECS["winogrande"], tmp_path)
    outcome = evaluate_task(SPECS["winogrande"], parts, scripted)
    first, second = scripted.asked[:2]
    assert first.continuation == second.continuation and first.context != second.context
    rows = parts[0].rows["validation"]
    for sample, row in zip(outcome.samples, rows, strict=True):
        before = row["sentence"].split("_")[0]
        assert (sample.unscored, sample.answer) == ("", before + row["option1"])
        assert sample.target == before + row[f"option{row['answer']}"]
        assert sample.score == (row["answer"] == "1")


def test_bbh_asks_as_the_harness_does(vlm: LlavaModel, tmp_path: Path) -> None:
    spec = small("bbh")
    scripted: Any = Scripted(vlm, [""])
    outcome = evaluate_task(spec, parts_of(spec, tmp_path), scripted)
    first = scripted.asked[0]
    assert first.max_new_tokens == 1024
    assert first.until == ("</s>", "Q", "\n\n")
    assert first.prompt.count("Q: ") == 4  # three examples, and the question
    assert first.prompt.endswith("A: Let's think step by step.\n")
    assert {s.group for s in outcome.samples} == {s.cluster for s in outcome.samples} == set(spec.data.configs)


def test_subjects_of_different_sizes_weigh_by_their_items(vlm: LlavaModel, reference: Any, tmp_path: Path) -> None:
    spec = small("ceval")
    loaded = load_task(spec, tmp_path) if put(tmp_path, spec, n=9) is None else {}
    first, second = select_items(spec, loaded, None, seed=0)
    fewer = select_items(part_of(spec, [second.config]), {second.config: loaded[second.config]}, 2, seed=0)
    line = parity_text.compare(spec, [first, *fewer], an_answerer(vlm, tmp_path), reference)
    assert (line.items, line.parts, line.unequal) == (11, 2, ())


def test_unusable_truthfulqa_items_are_not_scored(vlm: LlavaModel, tmp_path: Path) -> None:
    spec = SPECS["truthfulqa_mc2"]
    parts = parts_of(spec, tmp_path)
    rows = parts[0].rows["validation"].map(lambda row, i: unmarked(row) if i == 2 else row, with_indices=True)
    parts[0].rows["validation"] = rows
    outcome = evaluate_task(spec, parts, an_answerer(vlm, tmp_path))
    assert [s.unscored for s in outcome.samples] == ["", "", "no option is marked as true", "", ""]
    assert all(0 < s.score < 1 for s in outcome.samples if not s.unscored)


def unmarked(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "mc2_targets": {"choices": row["mc2_targets"]["choices"], "labels": [0, 0, 0, 0]}}


def test_tasks_of_several_kinds_run_together(tiny_llava: Path, tmp_path: Path) -> None:
    names = ["hellaswag", "lambada", "openbookqa"]
    for name in names:
        put(tmp_path, SPECS[name], n=3)
    run = vrbench.evaluate(tiny_llava, names, data_root=tmp_path, out=tmp_path / "out", device="cpu")
    results = {result.task: result for result in run.results}
    assert list(results) == names
    assert {(result.status, result.n) for result in results.values()} == {("ok", 3)}
    assert set(results["hellaswag"].groups) == {"indomain", "zeroshot"}
    assert results["hellaswag"].score.clusters == 2  # type: ignore[union-attr]
    assert set(results["lambada"].official) == {"acc", "perplexity"}
    assert set(results["openbookqa"].official) == {"acc", "acc_norm"}


def test_too_few_examples_are_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    spec = small("mmlu")
    put(tmp_path, spec.model_copy(update={"fewshot": 0}), n=4)
    with pytest.raises(VrbenchError, match=r"abstract_algebra/dev.parquet has 4 rows, but the prompt needs 5 examples"):
        load_task(spec, tmp_path)


def test_lm_evals_own_files_name_the_same_hub_sets() -> None:
    tasks = Path(lm_eval.__file__).parent / "tasks"
    for spec in SPECS.values():
        for config, path in spec.harness_files().items():
            told = load_yaml(tasks / path)
            assert (told["dataset_path"], told.get("dataset_name") or "default") == (spec.data.name, config)


@pytest.mark.parametrize("name", sorted(parity_text.GROUPS))
def test_lm_evals_groups_weigh_subtasks_by_size(name: str) -> None:
    told = lm_eval_adapter.LmEvalAdapter().read_config(parity_text.GROUPS[name])
    assert all(one["weight_by_size"] for one in told["aggregate_metric_list"])
