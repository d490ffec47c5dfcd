"""Every scorer and metric gives what the examples in its own entry say, through the harness's own task object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from vrbench.core.schemas import Sample
from vrbench.evaluation.built_task import SubtaskData, documents_of
from vrbench.evaluation.harness_adapter import preserve_rng, silence_output
from vrbench.tasks.document_scorer import DocumentScorer
from vrbench.tasks.metrics import METRICS
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.scoring import ItemKey, Row, ScoredDocument, ScorerExample
from vrbench.tasks.spec import TaskSpec

EXAMPLES = [(name, number) for name, one in SCORERS.items() for number in range(len(one.examples))]


def task_of(name: str, item: Row) -> tuple[TaskSpec, Any]:
    """A task with its own prompt over one item, and the harness's object for it."""
    keys = {key: key if key in item else "question" for key in SCORERS[name].needs}
    target = next(column for column in ("answer", "answers", "question") if column in item)
    spec = TaskSpec.model_validate({
        "id": "example", "suites": ["own"], "title": "t", "harness": SCORERS[name].harnesses[0], "scorer": name,
        "prompt": "{{question}}", "target": target, "metric": "mean", "chance": 0, "n": 1, "version": "1",
        "choices": "choices" if isinstance(item.get("choices"), list) else None,
        "data": {"kind": "file", "name": "x.jsonl"}, **keys,
    })  # fmt: skip
    rows = DatasetDict(test=Dataset.from_list([dict(item)]))
    with silence_output():
        return spec, SubtaskData("default", (0,), rows).harness_task(spec)


def scores(name: str, example: ScorerExample, answers: Sequence[Any]) -> list[float]:
    """The scores of some answers to the item of an example."""
    spec, task = task_of(name, example.item)
    key, found = ItemKey("0", "0", "", "0"), []
    with silence_output(), preserve_rng():
        row = documents_of(task)[0]
        for answer in answers:
            responses = [answer] if isinstance(answer, str) else answer
            metrics = DocumentScorer().metrics(task, key, row, responses)
            found.append(DocumentScorer().score(spec, ScoredDocument(task, row, responses, metrics, key)).score)
    return found


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_a_scorer_gives_its_examples_their_scores(name: str, number: int) -> None:
    example = SCORERS[name].examples[number]
    assert scores(name, example, example.right) == [1.0] * len(example.right)
    assert scores(name, example, example.wrong) == [0.0] * len(example.wrong)


@pytest.mark.parametrize("name", SCORERS)
def test_the_items_of_examples_have_the_columns_and_the_right_answers_that_their_scorer_wants(name: str) -> None:
    scorer = SCORERS[name]
    assert scorer.examples or scorer.metric == "perplexity", "an entry needs answers that score 1 and 0"
    for example in scorer.examples:
        assert set(scorer.columns) <= set(example.item)
        answer = example.item.get("answer", example.item.get("answers"))
        assert scorer.check_target(answer, example.item) == ""


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_its_examples_their_figures(name: str) -> None:
    metric = METRICS[name]
    assert metric.examples
    for rows, figure in metric.examples:
        samples = [Sample(id=str(i), cluster=str(row.get("unit", i)), **row) for i, row in enumerate(rows)]
        assert metric.compute(samples) == pytest.approx(figure)
