"""A user's own scorer in Python: only where he allows it, pinned by its source, scored through either harness."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from vrbench.core.errors import VrbenchError
from vrbench.evaluation.built_task import SubtaskData, documents_of
from vrbench.evaluation.harness_adapter import silence_output
from vrbench.evaluation.inputs_digest import definition_digest
from vrbench.tasks import registry
from vrbench.tasks.document_scorer import DocumentScorer
from vrbench.tasks.scoring import ItemKey, ScoredDocument
from vrbench.tasks.spec import TaskSpec

CODE = "def score(answer, item):\n    return 1.0 if item['answer'] in answer else len(answer) % 2 / 2\n"


def write(folder: Path, code: str = CODE, scorer: str = "mine.py:score", harness: str = "lm-eval") -> Path:
    (folder / "mine.py").write_text(code)
    file = folder / "own.yaml"
    file.write_text(
        f"id: own\nsuites: [mine]\ntitle: t\nharness: {harness}\nscorer: {scorer}\nprompt: '{{{{question}}}}'\n"
        "target: answer\ndata: {kind: file, name: own.jsonl}\nmetric: mean\nchance: 0\nn: 1\nversion: '1'\n"
    )
    return file


def test_it_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    file = write(tmp_path, "raise SystemExit('it ran')\n")
    with pytest.raises(VrbenchError, match=r"is Python code .* allow it with --trust-task-code") as refused:
        registry.read(file)
    assert "\n" not in str(refused.value)
    with pytest.raises(VrbenchError, match="--trust-task-code"):
        registry.load(tmp_path)  # what leaderboards do
    (error,) = registry.load_for("own", tmp_path).errors
    assert "--trust-task-code" in error


def test_its_source_is_part_of_the_definition(tmp_path: Path) -> None:
    file = write(tmp_path)
    first, again = registry.read(file, True), registry.read(file, True)
    assert definition_digest(first) == definition_digest(again)
    (tmp_path / "mine.py").write_text(CODE + "\n")
    assert definition_digest(registry.read(file, True)) != definition_digest(first)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert definition_digest(registry.read(write(elsewhere), True)) == definition_digest(first)


@pytest.mark.parametrize("harness", ["lm-eval", "lmms-eval"])
def test_it_scores_answers(tmp_path: Path, harness: str) -> None:
    spec = registry.read(write(tmp_path, harness=harness), True)
    rows = DatasetDict(test=Dataset.from_list([{"question": "q", "answer": "red"}]))
    with silence_output():
        task = SubtaskData("default", (0,), rows).harness_task(spec)
        row, key = documents_of(task)[0], ItemKey("0", "0", "", "0")
        for answer, expected in (("It is red", 1.0), ("blu", 0.5), ("blue", 0.0)):
            metrics = DocumentScorer().metrics(task, key, row, [answer])
            found = DocumentScorer().score(spec, ScoredDocument(task, row, [answer], metrics, key))
            assert (found.score, found.answer, found.target) == (expected, answer, "red")


@pytest.mark.parametrize(
    ("code", "scorer", "message"),
    [
        (CODE, "../mine.py:score", "not of the form file.py:function"),
        (CODE, "/etc/mine.py:score", "not of the form file.py:function"),
        (CODE, "mine.py:score@0123456789abcdef", "not of the form file.py:function"),
        (CODE, "mine.py", "not of the form file.py:function"),
        (CODE, "other.py:score", "other.py cannot be read"),
        (CODE, "mine.py:other", "has no function other"),
        ("score = 1\n", "mine.py:score", "has no function score"),
        ("1 / 0\n", "mine.py:score", "cannot be run: ZeroDivisionError"),
        ("def score(:\n", "mine.py:score", "cannot be run: SyntaxError"),
    ],
)
def test_what_is_wrong_with_it_is_reported_with_the_file(tmp_path: Path, code: str, scorer: str, message: str) -> None:
    file = write(tmp_path, code, f"'{scorer}'")
    with pytest.raises(VrbenchError, match=message) as found:
        registry.read(file, True)
    assert str(found.value).startswith(f"{file}: ")


@pytest.mark.parametrize("value", ["2", "-0.1", "float('nan')", "'1'", "None"])
def test_a_score_is_a_number_from_0_to_1(tmp_path: Path, value: str) -> None:
    spec = registry.read(write(tmp_path, f"def score(answer, item):\n    return {value}\n"), True)
    rows = DatasetDict(test=Dataset.from_list([{"question": "q", "answer": "red"}]))
    with silence_output(), pytest.raises(VrbenchError, match="a score is a number from 0 to 1"):
        task = SubtaskData("default", (0,), rows).harness_task(spec)
        DocumentScorer().metrics(task, ItemKey("0", "0", "", "0"), documents_of(task)[0], ["red"])


def test_it_needs_a_prompt_of_the_task_itself(tmp_path: Path) -> None:
    spec = registry.read(write(tmp_path), True)
    fields = {**spec.model_dump(), "prompt": None, "target": None, "harness_task": "gsm8k/gsm8k.yaml"}
    with pytest.raises(ValueError, match="needs a prompt of one's own"):
        TaskSpec.model_validate(fields)
