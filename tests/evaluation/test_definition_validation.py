"""Names in a task file that would be missed only after answering are told before weights are loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.evaluation import made
from tests.evaluation.test_task_scores import write_task
from tests.task_data import load_task
from vrbench.core.errors import VrbenchError
from vrbench.data.locate import locate
from vrbench.evaluation import definition_validation, item_validation
from vrbench.evaluation.built_task import select_items
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

ARC = {"harness": "lm-eval", "harness_task": "arc/arc_easy.yaml", "metric": "mean"}


def told(spec: TaskSpec, root: Path | None = None) -> list[str]:
    parts = select_items(spec, load_task(spec, root), 3, 0)
    return list(item_validation.validate_items(spec, parts, locate(spec, root)))


def test_a_scorer_that_reads_no_metric_of_the_harness_s_task(tmp_path: Path) -> None:
    (fault,) = told(write_task(tmp_path, "mine", made.arc(), scorer="exact_match", **ARC))
    assert fault == (
        "task 'mine': scorer 'exact_match' does not go with arc/arc_easy.yaml, for which the harness gives acc, "
        "acc_norm; scorers that read them: multiple_choice, multiple_choice_norm, last_word"
    )


def test_a_filter_that_there_is_not(tmp_path: Path) -> None:
    (fault,) = told(write_task(tmp_path, "mine", made.arc(), scorer="multiple_choice", filter="loose", **ARC))
    assert fault == "task 'mine': there is no filter 'loose'; there are 'none'"


def test_generation_settings_that_are_not_greedy() -> None:
    task = SimpleNamespace(OUTPUT_TYPE="generate_until", config=SimpleNamespace(generation_kwargs={"do_sample": True}))
    assert list(definition_validation.generation_errors(task)) == [
        "the task asks for sampled answers; only greedy ones are supported"
    ]


@pytest.mark.parametrize("name", ["piqa", "arc_easy", "mme", "pocket_facts"])
def test_sound_tasks_have_no_fault(name: str, data_root: Path) -> None:
    assert told(registry.load()[name], data_root) == []


def test_a_generator_or_split_that_there_is_not_is_told_with_the_task(tmp_path: Path) -> None:
    spec = registry.load()["pocket_facts"]
    for changes, said in (
        ({"name": "pocket_fact"}, "'pocket_fact' are unknown; there are "),
        ({"split": "val"}, "test and"),
    ):
        with pytest.raises(VrbenchError, match=f"^task 'pocket_facts': .*{said}"):
            locate(spec.model_copy(update={"data": spec.data.model_copy(update=changes)}))


def test_the_longest_answer_is_the_harness_s_or_the_task_s() -> None:
    specs = registry.load()
    names = ("bbh", "gsm8k", "mmlu", "mme", "lambada")
    found = {name: definition_validation.max_answer_tokens(specs[name]) for name in names}
    assert found == {"bbh": 1024, "gsm8k": 256, "mmlu": None, "mme": None, "lambada": None}
