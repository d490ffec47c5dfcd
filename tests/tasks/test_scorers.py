"""A small part of `benchmarks/scorers.py`, and MME's official calculation by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from benchmarks import answer_variants, documents, scorers
from vrbench.evaluation.built_task import SubtaskData
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.tasks import metrics, registry
from vrbench.tasks.scorers import SCORERS

ITEMS = 30


@pytest.mark.parametrize("name", list(documents.SETS))
def test_made_up_answers_are_scored_as_lmms_eval_scores_them(name: str, tmp_path: Path) -> None:
    line = scorers.check(registry.load()[name], ITEMS, tmp_path)
    assert line.answers >= ITEMS
    assert 0 < line.right < line.answers
    assert (line.items, line.same_figures) == (line.answers, line.figures)
    assert line.equal


def test_another_score_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = SCORERS["mmmu"]
    other = replace(scorer, score=lambda document: replace(scorer.score(document), score=1.0))
    monkeypatch.setitem(SCORERS, "mmmu", other)
    monkeypatch.setattr("vrbench.evaluation.task_scores.check_aggregates", lambda *_: None)
    line = scorers.check(registry.load()["mmmu_val"], ITEMS, tmp_path)
    assert line.items < line.answers
    assert not line.equal


def test_the_answers_come_in_many_variants() -> None:
    documents = [{"answer": "B", **{f"choice_{x}": "a dog" for x in "abcd"}}] * 2000
    said = set(answer_variants.answers("seedbench", documents))
    assert {"B", "B.", "(B)", "B. a dog", "**B**", "Answer: B", "b", "", "我不知道。", "A DOG"} <= said
    assert max(map(len, said)) > 5000


# Fu et al. 2023: of each subtask acc = right answers / answers x 100, acc+ = pictures with both answers right / all
# pictures x 100; its score is acc + acc+, and perception and cognition are the sums over their ten and four subtasks.
# (subtask, what was said to the two questions of each picture, whose answers are Yes and No, acc, acc+)
MME_CASES: list[tuple[str, list[tuple[str, str]], float, float]] = [
    ("existence", [("Yes", "No")], 100, 100),
    ("count", [("Yes", "No"), ("Yes", "Yes")], 75, 50),
    ("position", [("No", "Yes")], 0, 0),
    ("color", [("Yes", "Yes"), ("No", "No")], 50, 0),
    ("posters", [("yes.", "NO"), ("Yes, it is", "No, it is not")], 100, 100),
    ("celebrity", [("Y", "N")], 100, 100),
    ("scene", [("", "")], 0, 0),
    ("landmark", [("Certainly yes", "Certainly no")], 0, 0),  # beyond the first four characters
    ("artwork", [("Yes", "No"), ("", "No"), ("Yes", "maybe")], 200 / 3, 100 / 3),
    ("OCR", [("是", "否")], 0, 0),
    ("commonsense_reasoning", [("Yes", "No"), ("Yes", "No"), ("No", "No"), ("No", "Yes")], 62.5, 50),
    ("numerical_calculation", [("yes", "yes"), ("no", "no"), ("yes", "no")], 400 / 6, 100 / 3),
    ("text_translation", [("Not sure", "Not sure")], 50, 0),  # "not" begins with "no"
    ("code_reasoning", [("**Yes**", "**No**")], 50, 0),  # the first four characters are "**ye" and "**no"
]


def test_mmes_official_calculation() -> None:
    rows, said = [], []
    for subtask, pairs, _, _ in MME_CASES:
        for number, pair in enumerate(pairs):
            for answer, text in zip(("Yes", "No"), pair, strict=True):
                about = {"question_id": f"{subtask}/{number}", "category": subtask, "answer": answer}
                rows.append({**about, "question": "Is it?", "image": documents.picture(subtask)})
                said.append(text)
    spec = registry.load()["mme"]
    table = Dataset.from_list(rows).cast_column("image", documents.dataset_schemas.Image())
    part = SubtaskData("default", tuple(range(len(rows))), DatasetDict(test=table))
    answerer: Any = scorers.Says(said)
    outcome = evaluate_task(spec, [part], answerer)
    points = metrics.mme_points(outcome.samples)
    assert points == {subtask: pytest.approx(acc + plus) for subtask, _, acc, plus in MME_CASES}
    assert outcome.official == {
        "mme_perception_score": pytest.approx(sum(acc + plus for _, _, acc, plus in MME_CASES[:10])),
        "mme_cognition_score": pytest.approx(sum(acc + plus for _, _, acc, plus in MME_CASES[10:])),
    }
    for subtask, _, acc, plus in MME_CASES:
        mine = [sample for sample in outcome.samples if sample.group == subtask]
        assert 100 * sum(sample.score for sample in mine) / len(mine) == pytest.approx(acc)
        assert plus <= acc
