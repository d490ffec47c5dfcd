"""Answers scored again are scored as they were when a model gave them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import parity_text
from tests.evaluation.made_text import part_of, put
from tests.evaluation.test_task_scores import write_task
from tests.leaderboard.made import KINDS, answered, rescorers_of, write_tasks
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample, TaskResult
from vrbench.evaluation import task_result
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import plan_task
from vrbench.leaderboard.rescore import MAX_RESPONSE, Rescorer
from vrbench.models.llava_model import LlavaModel
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

BARE = {"cluster": "", "score": 0.0}


@pytest.fixture(scope="module")
def rescorers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rescorer]:
    """Every kind of made-up task, 16 items each."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder, tuple(KINDS), 16)
    return rescorers_of(folder, tuple(KINDS))


def bare(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Nothing of samples but what the model answered and was shown."""
    return tuple(Sample(id=s.id, responses=s.responses, prompt_digest=s.prompt_digest, **BARE) for s in samples)


def answers(rescorer: Rescorer, task: str, seed: int) -> tuple[Sample, ...]:
    return answered(rescorer, task, "tiny", 0.6, random.Random(seed))


class Says:
    """Stands in for the engine: gives the responses that were laid down, in the order in which they are asked for."""

    def __init__(self, vlm: LlavaModel, said: Sequence[Any]) -> None:
        self.vlm = vlm
        self.said = said

    def answer(self, requests: Sequence[Any], title: str = "") -> list[Any]:
        assert len(requests) == len(self.said)
        return list(self.said)


@pytest.mark.parametrize("task", KINDS)
def test_the_same_as_a_run_of_the_same_answers(task: str, rescorers: dict[str, Rescorer], vlm: LlavaModel) -> None:
    """A harness task that was never answered before, answered through the engine's own path, is the reference."""
    rescorer = rescorers[task]
    given = answers(rescorer, task, 1)
    said = [response for sample in given for response in sample.responses]
    if KINDS[task].like == "pocket_pydoc":
        said = [(log, False) for log in said]  # one window each
    outcome = evaluate_task(rescorer.job.spec, rescorer.job.subtasks, Says(vlm, said))  # type: ignore[arg-type]
    expected = TaskResult(**task_result.task_fields(rescorer.job), **task_result.score_fields(rescorer.job, outcome, 0))
    result, samples = rescorer.score(bare(outcome.samples))
    assert result == expected
    assert samples == outcome.samples


def test_a_models_own_answers(vlm: LlavaModel, tmp_path: Path) -> None:
    """The walk from a model to the samples, and from the samples back to the same result."""
    rows = [{"q": f"Question {i}", "options": ["one", "two", "three"], "right": i % 3} for i in range(6)]
    spec = write_task(
        tmp_path, "mine", rows, harness="lm-eval", scorer="multiple_choice", metric="mean", n="6",
        prompt="'{{q}}:'", choices="options", target="right",
    )  # fmt: skip
    rescorer = rescorer_of(spec)
    answerer = InferenceEngine(vlm, AnswerStore(tmp_path / "a.sqlite", "c"), show_progress=False)
    outcome = evaluate_task(spec, rescorer.job.subtasks, answerer)
    assert len({sample.responses for sample in outcome.samples}) == 6
    assert rescorer.score(bare(outcome.samples))[1] == outcome.samples


def rescorer_of(spec: TaskSpec) -> Rescorer:
    return Rescorer(plan_task(spec, RunConfig()))


@pytest.mark.parametrize("task", KINDS)
def test_one_submission_leaves_nothing_behind_for_the_next(task: str, rescorers: dict[str, Rescorer]) -> None:
    rescorer = rescorers[task]
    first = rescorer.score(answers(rescorer, task, 1))
    assert rescorer.score(answers(rescorer, task, 2)) != first
    assert rescorer.score(answers(rescorer, task, 1)) == first


def test_what_is_drawn_at_random_elsewhere_is_left_alone(rescorers: dict[str, Rescorer]) -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    rescorers["made_mmbench"].score(answers(rescorers["made_mmbench"], "made_mmbench", 1))
    assert random.random() == expected


def test_the_prompt_of_a_text_task_is_made_anew(rescorers: dict[str, Rescorer]) -> None:
    given = answers(rescorers["made_facts"], "made_facts", 1)
    samples = rescorers["made_facts"].score(given)[1]
    assert all(sample.prompt_digest != bare.prompt_digest for sample, bare in zip(samples, given, strict=True))
    assert len({sample.prompt_digest for sample in samples}) == len(samples)


def test_the_prompt_of_a_visual_task_is_taken_as_it_is(rescorers: dict[str, Rescorer]) -> None:
    given = answers(rescorers["made_words"], "made_words", 1)
    samples = rescorers["made_words"].score(given)[1]
    assert [sample.prompt_digest for sample in samples] == [sample.prompt_digest for sample in given]


def test_a_known_digest_stands_for_the_samples_only_if_they_follow(rescorers: dict[str, Rescorer]) -> None:
    rescorer = rescorers["made_words"]
    result, whole = rescorer.score(answers(rescorer, "made_words", 1))
    assert rescorer.score(whole, 0, "f" * 64)[0].samples_digest == "f" * 64
    other = (whole[0].model_copy(update={"target": "changed"}), *whole[1:])
    assert rescorer.score(other, 0, "f" * 64)[0].samples_digest == result.samples_digest


@pytest.mark.parametrize(
    ("task", "responses", "said"),
    [
        ("made_words", (), "has 0 responses; the task asks 1"),
        ("made_words", (1.5,), "has a response that is not a text of at most 20,000 characters"),
        ("made_words", ("x" * (MAX_RESPONSE + 1),), "has a response that is not a text"),
        ("made_facts", ((-1.0, True),), "has 1 responses; the task asks 4"),
        ("made_facts", ((-1.0, True), (-2.0, False), (-3.0, False), (0.5, False)), "of at most 0, is greedy"),
        ("made_facts", (-1.0, -2.0, -3.0, -4.0), "has a response that is not (log-likelihood"),
        ("made_pydoc", ("text",), "has a response that is not a log-likelihood of at most 0"),
        ("made_pydoc", ((-1.0, True),), "has a response that is not a log-likelihood"),
    ],
)
def test_responses_of_another_shape(
    task: str, responses: tuple[Any, ...], said: str, rescorers: dict[str, Rescorer]
) -> None:
    given = list(answers(rescorers[task], task, 1))
    given[5] = given[5].model_copy(update={"responses": responses})
    with pytest.raises(VrbenchError) as told:
        rescorers[task].score(given)
    assert said in str(told.value)
    assert repr(given[5].id) in str(told.value)


def test_samples_that_are_not_the_tasks(rescorers: dict[str, Rescorer]) -> None:
    rescorer = rescorers["made_words"]
    given = list(answers(rescorer, "made_words", 1))
    cases = {
        "1 sample is missing, such as": given[1:],
        "2 samples are missing": given[2:],
        "1 sample is of no item of the task, such as 'mine'": [*given, given[0].model_copy(update={"id": "mine"})],
        "1 samples are there more than once": [*given, given[0]],
        "in another order than the task's items, from line 3 on": [*given[:2], given[3], given[2], *given[4:]],
    }
    for said, samples in cases.items():
        with pytest.raises(VrbenchError, match=said):
            rescorer.score(samples)


TEXT = {name: spec for name, spec in registry.load().items() if "text" in spec.suites}


@pytest.mark.parametrize("name", ["mmlu", "bbh", "gsm8k", "truthfulqa_mc2"])
def test_tasks_of_the_hub_with_configs_filters_and_examples(name: str, vlm: LlavaModel, tmp_path: Path) -> None:
    spec = TEXT[name]
    spec = part_of(spec, spec.data.configs[:2]) if len(spec.data.configs) > 1 else spec
    spec = parity_text.limited(spec, 3)
    put(tmp_path, spec)
    rescorer = Rescorer(plan_task(spec, RunConfig(data_root=tmp_path)))
    answerer = InferenceEngine(vlm, AnswerStore(tmp_path / "a.sqlite", "c"), show_progress=False)
    outcome = evaluate_task(spec, rescorer.job.subtasks, answerer)
    result, samples = rescorer.score(bare(outcome.samples))
    assert samples == outcome.samples
    assert result.official == outcome.official
    assert len(result.official) > 1 or name == "truthfulqa_mc2"


def test_only_short_answers_are_kept_and_not_too_many(rescorers: dict[str, Rescorer]) -> None:
    from vrbench.tasks.document_scorer import MAX_CACHED_LENGTH, CachedDocumentScorer

    rescorer = Rescorer(rescorers["made_words"].job)
    kept = CachedDocumentScorer(20)
    rescorer._scorer = kept
    given = answers(rescorer, "made_words", 1)
    first = rescorer.score(given)
    assert (len(kept._metrics), len(kept._scores)) == (16, 16)
    long = tuple(sample.model_copy(update={"responses": ("x" * (MAX_CACHED_LENGTH + 1),)}) for sample in given)
    rescorer.score(long)
    assert len(kept._metrics) == 16
    other = tuple(sample.model_copy(update={"responses": ("no",)}) for sample in given)
    assert rescorer.score(other)[0].score != first[0].score
    assert len(kept._metrics) <= 20
    assert rescorer.score(given) == first
