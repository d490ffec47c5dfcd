"""Tasks with own prompts, with several configs, with examples in the prompt, and with items that cannot be scored."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from tests.evaluation import made
from tests.task_data import load_task
from tests.tiny import llava
from vrbench.core.errors import VrbenchError
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.built_task import SubtaskData, select_items
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.requests import LogLikelihoodRequest, Unanswered
from vrbench.evaluation.task_scores import TaskScores
from vrbench.models.llava_model import LlavaModel
from vrbench.statistics import bootstrap
from vrbench.tasks import registry
from vrbench.tasks.spec import DataSource, TaskSpec

OWN = {"version": "'1'", "title": "made", "suites": "[mine]", "n": "3", "chance": "null"}


@pytest.fixture
def answerer(vlm: LlavaModel, tmp_path: Path) -> InferenceEngine:
    return InferenceEngine(vlm, AnswerStore(tmp_path / "a.sqlite", "c"), show_progress=False)


def write_task(folder: Path, name: str, rows: Sequence[dict[str, Any]], **keys: str) -> TaskSpec:
    """A user's own task: a task file and JSON lines beside it, read as --include-path reads them."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = {"id": name, **OWN, "data": f"{{kind: file, name: {name}.jsonl}}", **keys}
    (folder / f"{name}.yaml").write_text("".join(f"{key}: {value}\n" for key, value in text.items()))
    return registry.load(folder)[name]


def run(spec: TaskSpec, answerer: Any) -> TaskScores:
    return evaluate_task(spec, select_items(spec, load_task(spec), None, 0), answerer)


class Keen:
    """Stands in for the engine: keeps what is asked and says what was laid down."""

    def __init__(self, vlm: LlavaModel, said: Sequence[Any]) -> None:
        self.vlm = vlm
        self.said = said
        self.asked: list[Any] = []

    def answer(self, requests: Sequence[Any], title: str = "") -> list[Any]:
        self.asked += requests
        return list(self.said[: len(requests)])


def test_a_users_own_questions_on_pictures(vlm: LlavaModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        made.noise(name).save(tmp_path / f"{name}.png")
    items = (("a", "Red"), ("b", "2"), ("a", "no"))
    rows = [{"image": f"{name}.png", "q": f"Which {name}?", "said": said} for name, said in items]
    prompt = "'{{q}} One word.'"
    spec = write_task(
        tmp_path, "mine", rows, harness="lmms-eval", scorer="exact_match", metric="mean", prompt=prompt, target="said"
    )
    keen = Keen(vlm, ["red.", "3", "No"])
    outcome = run(spec, keen)
    assert [sample.score for sample in outcome.samples] == [1, 0, 1]  # case and punctuation do not count
    assert [sample.responses for sample in outcome.samples] == [("red.",), ("3",), ("No",)]
    assert [sample.target for sample in outcome.samples] == ["Red", "2", "no"]
    assert keen.asked[0].prompt == vlm.prompt("Which a? One word.", 1)
    assert keen.asked[0].images == keen.asked[2].images
    assert keen.asked[0].images[0].load().tobytes() == made.noise("a").tobytes()
    assert outcome.official == {"exact_match": pytest.approx(2 / 3)}


def test_a_users_own_multiple_choice(answerer: InferenceEngine, tmp_path: Path) -> None:
    rows = [{"q": f"Question {i}", "options": ["one", "two", "three"], "right": i % 3} for i in range(5)]
    spec = write_task(
        tmp_path, "mine", rows, harness="lm-eval", scorer="multiple_choice", metric="mean",
        prompt="'{{q}}:'", choices="options", target="right", delimiter="' '", description="'Choose. '",
    )  # fmt: skip
    outcome = run(spec, answerer)
    assert answerer.computed == 15
    assert all(len(sample.loglikelihoods) == 3 for sample in outcome.samples)
    encode = answerer.vlm.tokenizer.encode
    context, option = encode("Choose. Question 4:"), encode(" two")
    (answer,) = answerer.answer([LogLikelihoodRequest(tuple(context), tuple(option))])
    assert outcome.samples[4].responses[1] == answer
    assert outcome.samples[4].loglikelihoods == tuple(log for log, _ in outcome.samples[4].responses)
    assert answerer.computed == 15  # it was one of those asked


def test_an_item_whose_answer_is_no_option_is_not_scored(answerer: InferenceEngine, tmp_path: Path) -> None:
    rows = [{"q": f"Question {i}", "right": i} for i in range(4)]
    spec = write_task(
        tmp_path, "mine", rows, harness="lm-eval", scorer="multiple_choice", metric="mean",
        prompt="'{{q}}'", choices="[x, y, z]", target="right",
    )  # fmt: skip
    outcome = run(spec, answerer)
    assert [sample.unscored for sample in outcome.samples[:3]] == ["", "", ""]
    assert outcome.samples[3].unscored == "the right answer, 3, is none of the 3 options"
    assert bootstrap.score("mean", outcome.samples).n == 3


def test_an_item_that_was_not_asked_is_unscored_with_the_reason(vlm: LlavaModel, tmp_path: Path) -> None:
    made.noise("a").save(tmp_path / "a.png")
    rows = [{"image": "a.png", "q": "Which?", "said": "red"} for _ in range(3)]
    spec = write_task(
        tmp_path, "mine", rows, harness="lmms-eval", scorer="exact_match", metric="mean", prompt="'{{q}}'",
        target="said",
    )  # fmt: skip
    outcome = run(spec, Keen(vlm, ["red", Unanswered("too wide"), "blue"]))
    assert [(s.unscored, s.responses, s.score) for s in outcome.samples] == [
        ("", ("red",), 1.0), ("too wide", ("",), 0.0), ("", ("blue",), 0.0)
    ]  # fmt: skip
    assert len({sample.prompt_digest for sample in outcome.samples}) == 1  # the prompt is told all the same
    assert (bootstrap.score("mean", outcome.samples).value, bootstrap.score("mean", outcome.samples).n) == (50.0, 2)
    gone = run(spec, Keen(vlm, [Unanswered("too wide")] * 3)).samples
    with pytest.raises(VrbenchError, match=r"no sample was scored.*the first: too wide"):
        bootstrap.score("mean", gone)


def test_a_pair_of_which_one_half_was_not_asked_is_left_out_by_the_harness_too(
    vlm: LlavaModel, data_root: Path
) -> None:
    spec = registry.load()["mme"]
    parts = select_items(spec, load_task(spec, data_root), 8, 0)
    said = ["Yes", *[Unanswered("too long")], *["Yes"] * 6]
    outcome = evaluate_task(spec, parts, Keen(vlm, said))  # type: ignore[arg-type]
    assert [bool(sample.unscored) for sample in outcome.samples] == [False, True, *[False] * 6]
    assert outcome.official["mme_perception_score"] == 3 * (50 + 0)  # the pair's subtask has nothing left
    assert bootstrap.score("mme", outcome.samples).value == pytest.approx(25.0)
    assert bootstrap.score("mme", outcome.samples).n == 6


def test_a_log_likelihood_that_was_not_asked_is_not_scored(vlm: LlavaModel, tmp_path: Path) -> None:
    rows = [{"q": "Which?", "right": 0}, {"q": "Who?", "right": 1}]
    spec = write_task(
        tmp_path, "mine", rows, harness="lm-eval", scorer="multiple_choice", metric="mean", prompt="'{{q}}'",
        choices="[a, b]", target="right",
    )  # fmt: skip
    outcome = run(spec, Keen(vlm, [(-1.0, True), (-2.0, False), (-1.0, True), Unanswered("too long")]))
    assert [(s.unscored, s.score) for s in outcome.samples] == [("", 1.0), ("too long", 0.0)]
    assert outcome.official["acc"] == 1.0


def test_a_users_own_texts(answerer: InferenceEngine, tmp_path: Path) -> None:
    rows = [{"text": text} for text in ("one two three", "four  five\nsix", "seven")]
    spec = write_task(
        tmp_path, "mine", rows, harness="lm-eval", scorer="perplexity", metric="perplexity",
        higher_is_better="false", prompt="''", target="text",
    )  # fmt: skip
    outcome = run(spec, answerer)
    assert [sample.weight for sample in outcome.samples] == [3, 3, 1]
    assert [sample.responses for sample in outcome.samples] == [(sample.score,) for sample in outcome.samples]
    total = sum(sample.score for sample in outcome.samples)
    assert outcome.official["word_perplexity"] == pytest.approx(math.exp(-total / 7))
    assert bootstrap.score("perplexity", outcome.samples).value == pytest.approx(math.exp(-total / 7))


SUBJECTS = ("anatomy", "virology")


def mmlu() -> tuple[TaskSpec, list[SubtaskData]]:
    """Two of MMLU's subjects with made questions, two examples in the prompt."""
    about: Any = {"id": "two", "suites": ("made",), "title": "", "harness": "lm-eval", "scorer": "multiple_choice"}
    about |= {"harness_task": "mmlu/default/mmlu_{config}.yaml", "fewshot": 2, "metric": "mean", "chance": 25, "n": 8}
    source = DataSource(kind="hub", name="cais/mmlu", config=SUBJECTS, split="test", fewshot_split="dev")
    spec = TaskSpec(**about, data=source, cluster="subject", group="subject", version="1")

    def rows(subject: str, n: int, kind: str) -> Dataset:
        letters = ["first", "second", "third", "fourth"]
        return Dataset.from_list(
            [{"question": f"{kind} {i}?", "subject": subject, "choices": letters, "answer": i % 4} for i in range(n)]
        )

    parts = [
        SubtaskData(s, tuple(range(n)), DatasetDict(test=rows(s, n, f"{s} item"), dev=rows(s, 5, f"{s} example")))
        for s, n in zip(SUBJECTS, (6, 2), strict=True)
    ]
    return spec, parts


def test_subjects_are_answered_together_and_scored_apart(vlm: LlavaModel) -> None:
    spec, parts = mmlu()
    likely, unlikely = (-1.0, True), (-2.0, False)
    keen = Keen(vlm, [likely, unlikely, unlikely, unlikely] * 8)
    outcome = evaluate_task(spec, parts, keen)  # type: ignore[arg-type]
    assert len(keen.asked) == 32
    subjects = {"anatomy/acc": pytest.approx(2 / 6), "virology/acc": pytest.approx(1 / 2)}
    assert outcome.official == {"acc": pytest.approx(3 / 8), **subjects}
    assert [sample.group for sample in outcome.samples] == ["anatomy"] * 6 + ["virology"] * 2
    assert outcome.samples[6].id == "virology/0"
    assert outcome.samples[0].answer == "A"
    assert bootstrap.score("mean", outcome.samples).value == pytest.approx(100 * 3 / 8)


def test_the_first_examples_of_the_subject_come_first(vlm: LlavaModel) -> None:
    spec, parts = mmlu()
    keen = Keen(vlm, [(-1.0, True)] * 32)
    evaluate_task(spec, parts, keen)  # type: ignore[arg-type]
    prompt = vlm.tokenizer.decode(keen.asked[-1].context)
    options = "\nA. first\nB. second\nC. third\nD. fourth\nAnswer:"
    assert prompt == (
        "The following are multiple choice questions (with answers) about virology.\n\n"
        f"virology example 0?{options} A\n\nvirology example 1?{options} B\n\nvirology item 1?{options}"
    )


def watched(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Lengths of the rows of every batch that is computed from now on."""
    batches: list[list[int]] = []
    hidden = LlavaModel.hidden_states
    monkeypatch.setattr(
        LlavaModel,
        "hidden_states",
        lambda self, rows, *more: batches.append([len(r) for r in rows]) or hidden(self, rows, *more),
    )
    return batches


def test_examples_are_computed_once_a_subject_in_bfloat16(
    vlm: LlavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = LlavaModel(llava().bfloat16(), vlm.tokenizer, vlm.image_processor)
    batches = watched(monkeypatch)
    spec, parts = mmlu()
    evaluate_task(spec, parts, InferenceEngine(short, AnswerStore(tmp_path / "b.sqlite", "c"), show_progress=False))
    keen = Keen(vlm, [(-1.0, True)] * 32)
    evaluate_task(spec, parts, keen)  # type: ignore[arg-type]
    assert 10 * sum(map(sum, batches)) < sum(len(request.context) for request in keen.asked)


def test_in_float32_each_prompt_is_computed_alone_and_without_padding(
    vlm: LlavaModel, answerer: InferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = watched(monkeypatch)
    spec, parts = mmlu()
    evaluate_task(spec, parts, answerer)
    keen = Keen(vlm, [(-1.0, True)] * 32)
    evaluate_task(spec, parts, keen)  # type: ignore[arg-type]
    prompts = {(*request.context, *request.continuation[:-1]) for request in keen.asked}
    assert sorted(length for batch in batches for length in batch) == sorted(map(len, prompts))
    assert all(len(set(batch)) == 1 for batch in batches)
