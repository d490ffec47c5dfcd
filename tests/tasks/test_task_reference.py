"""docs/tasks.md and CONTRIBUTING.md say of task files what the code does, and their examples can be asked."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from benchmarks import task_reference
from tests.task_data import load_task
from vrbench.cli import task_listing
from vrbench.evaluation import lmms_eval_adapter
from vrbench.evaluation.built_task import documents_of, select_items
from vrbench.evaluation.harness_adapter import silence_output
from vrbench.tasks import registry
from vrbench.tasks.item_keys import identify
from vrbench.tasks.metrics import METRICS
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.scoring import ScoredDocument

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(my_tasks/\w+\.\w+)`:\n\n( *)```(?:json|yaml)\n(.*?)\n\2```", re.DOTALL)


def test_the_tables_are_those_of_the_code() -> None:
    page = task_reference.PAGE.read_text(encoding="utf-8")
    assert page == task_reference.whole(page), "python -m benchmarks.task_reference"


def test_every_scorer_and_metric_says_its_rule() -> None:
    assert [name for name, one in {**SCORERS, **METRICS}.items() if not re.fullmatch(r"\S.{20,}\.", one.rule)] == []


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the examples of both pages, written as a reader would write them."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "my_tasks").mkdir()
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/tasks.md", "CONTRIBUTING.md")]
    for name, indent, block in (found for page in pages for found in NAMED.findall(page)):
        (folder / name).write_text(textwrap.dedent(indent + block) + "\n", encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", pages[0], re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, "docs/tasks.md", "exec"), {})
    return folder / "my_tasks"


SHOWN = {
    "capitals": ("Question: What is the capital of", "max_new_tokens 8"),
    "animal_sounds": ("Which animal says", "cow"),
    "shapes_yes_no": ("in the image?\nAnswer the question using", "128 x 128"),
    "shapes_letters": ("A. a square\n", "128 x 128"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_can_be_asked(name: str, examples: Path) -> None:
    found = registry.load(examples)[name]
    text = re.sub(r"^  \| ", "", task_listing.describe_task(found, None), flags=re.MULTILINE)
    assert "no example can be shown" not in text
    for part in SHOWN[name]:
        assert part in text


def test_there_are_no_other_examples(examples: Path) -> None:
    assert {file.stem for file in examples.glob("*.yaml")} == set(SHOWN)


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("shapes_yes_no", {"Yes": 1, "yes.": 1, "Yes, there is": 0, "No": 0}),
        ("shapes_letters", {"A": 1, "a": 1, "A. a square": 1, "a star": 1, "(A)": 0, "B": 0}),
        ("capitals", {"Paris": 1, "paris.": 1, "It is Paris": 0}),
    ],
)
def test_answers_are_scored_as_the_page_says(name: str, scores: dict[str, float], examples: Path) -> None:
    spec = registry.load(examples)[name]
    (part,) = select_items(spec, load_task(spec), limit=None, seed=0)
    with silence_output():
        task = part.harness_task(spec)
        row = next(iter(documents_of(task)))
        identity = identify(spec, row, part.config, part.positions[0])
        for answer, score in scores.items():
            document = ScoredDocument(task, row, [answer], task.process_results(row, [answer]), identity)
            assert SCORERS[spec.scorer].score(document).score == score, answer


ITEM = {
    "index": 1, "question": "q", "hint": "", "A": "a", "B": "b", "C": "c", "D": "d", "source": "s", "split": "dev",
    "category": "existence", "L2-category": "x", "choice_a": "a", "choice_b": "b", "choice_c": "c", "choice_d": "d",
    "data_type": "image", "question_id": "1", "answers": ["a"], "type": "human", "id": "validation_Art_1",
    "question_type": "multiple-choice", "options": "['a', 'b']", "gt_answer": "1", "choices": None, "unit": "",
}  # fmt: skip
"""A value for every column that some scorer reads."""


VISUAL = [name for name, one in SCORERS.items() if one.harnesses == ("lmms-eval",)]


@pytest.mark.parametrize("name", [name for name in VISUAL if name != "anls"])
def test_a_scorer_reads_the_columns_that_it_names_and_no_other(name: str) -> None:
    """That of `anls` is a metric of the harness, which gets the target."""
    scorer = SCORERS[name]
    told = lmms_eval_adapter.LmmsEvalAdapter().read_config(scorer.template) if scorer.template else scorer.config
    row = {column: ITEM.get(column, "yes" if name in ("mme", "pope") else "A") for column in scorer.columns}
    found: dict[str, Any] = told["process_results"](row, ["Yes"])  # type: ignore[index]
    assert found
    left_to_vrbench = {f"choice_{x}" for x in "abcd"} | set("ABCD") | {"gt_answer", "answers"}
    for column in set(scorer.columns) - left_to_vrbench:
        with pytest.raises(KeyError):
            told["process_results"]({key: row[key] for key in row if key != column}, ["Yes"])  # type: ignore[index]
