"""The recorded answers: all visual tasks have them, and they are scored as lmms-eval scores them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import documents, recorded, scorers
from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.core.errors import VrbenchError
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

LARGEST = 300_000


def test_every_visual_task_has_answers_of_several_checkpoints() -> None:
    recordings = recorded.read()
    by_task = {spec.id: [one for one in recordings if one.task == spec.id] for spec in visual()}
    assert sum(map(len, by_task.values())) == len(recordings)
    for task, mine in by_task.items():
        assert len({one.digest for one in mine}) == len({one.checkpoint for one in mine}) == len(mine) >= 3, task
        assert sum(len(one.answers) for one in mine) >= 120, task
        assert len({answer for one in mine for answer in one.answers.values()}) > 2, task
    assert recorded.FILE.stat().st_size < LARGEST


def test_the_file_is_what_would_be_written_again(tmp_path: Path) -> None:
    recorded.write(reversed(recorded.read()), tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == recorded.FILE.read_bytes()


@pytest.mark.parametrize("task", ["mme", "textvqa", "mmmu_val", "tabmwp"])
def test_recorded_answers_are_scored_as_lmms_eval_scores_them(task: str, tmp_path: Path) -> None:
    mine = [one for one in recorded.read() if one.task == task]
    line = scorers.check_recorded(registry.load()[task], mine, tmp_path)
    assert line.answers == sum(len(one.answers) for one in mine)
    assert line.items == line.answers
    assert line.figures == line.same_figures >= len(mine)
    assert line.equal


def test_answers_to_other_documents_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = registry.load()["pope"]
    mine = [one for one in recorded.read() if one.task == "pope"]
    monkeypatch.setattr(recorded, "DOCUMENTS", recorded.DOCUMENTS + 1)
    with pytest.raises(VrbenchError, match=r"recorded on other documents of pope than there are now .* --record"):
        scorers.check_recorded(spec, mine, tmp_path)
    with pytest.raises(VrbenchError, match="task 'pope' has no recorded answers"):
        scorers.check_recorded(spec, [], tmp_path)


def test_what_a_checkpoint_says_is_kept_in_place_of_what_it_said(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "DOCUMENTS", 6)
    spec, of, file = registry.load()["ocrvqa"], resolve_checkpoint(str(tiny_llava)), tmp_path / "recorded.jsonl"
    with AnswerStore(tmp_path / "answers.sqlite", of.digest) as store:
        answerer = InferenceEngine(load_vlm(of, "cpu", "float32"), store, show_progress=False)
        made = recorded.record(spec, of, answerer, tmp_path / "documents")
        assert answerer.computed == 6
    assert list(made.answers) == list("012345")
    assert any(made.answers.values())
    recorded.write([made.model_copy(update={"task": "z"}), made.model_copy(update={"digest": "old"})], file)
    recorded.record_all([str(tiny_llava)], [spec], file)
    assert recorded.read(file) == [made, made.model_copy(update={"task": "z"})]
    assert scorers.check_recorded(spec, [made], tmp_path / "again").equal


class Echo:
    """Stands in for the engine: says the question again, and keeps the limits that it was given."""

    def __init__(self) -> None:
        self.vlm = scorers.Prompts()
        self.limits: list[int] = []

    def answer(self, requests: Sequence[Any], title: str = "") -> list[str]:
        self.limits += [asked.max_new_tokens for asked in requests]
        return [asked.prompt for asked in requests]


def test_each_document_has_its_own_answer_of_limited_length(tmp_path: Path) -> None:
    asked: dict[str, list[int]] = {}
    for task in ("gqa", "seedbench"):
        echo: Any = Echo()
        nobody = Checkpoint("x", tmp_path, "", "d", "f", 1)
        made = recorded.record(registry.load()[task], nobody, echo, tmp_path)
        rows = documents.SETS[task][0](random.Random(f"{task} 0"), recorded.DOCUMENTS)
        questions = {row["id" if task == "gqa" else "question_id"]: row["question"] for row in rows}
        assert set(made.answers) == set(questions)
        assert all(questions[document] in answer for document, answer in made.answers.items())
        asked[task] = echo.limits
    assert set(asked["gqa"]) == {16}
    assert set(asked["seedbench"]) == {recorded.LONGEST}  # 1,024 by the task itself


def test_the_report_tells_made_up_from_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scorers, "REPORT", tmp_path / "scorers.md")
    monkeypatch.setattr(documents, "SETS", {"ai2d": documents.SETS["ai2d"]})
    assert scorers.main(["--items", "24"]) == 0
    (row,) = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ai2d")]
    answers = sum(len(one.answers) for one in recorded.read() if one.task == "ai2d")
    assert (row[1], row[3], row[6], row[-1]) == ("24", str(answers), f"24 + {answers}", "yes |")
    assert "pocket/region (" in (tmp_path / "scorers.md").read_text()


def visual() -> list[TaskSpec]:
    return registry.select("visual", registry.load())
