"""What lm-eval's own Hugging Face model says of the same weights, number for number."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.utils
import pytest
import torch
from datasets import DatasetDict
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from benchmarks.harness_models import LmEvalModel
from tests.task_data import load_task
from tests.tiny import tokenizer
from vrbench.core.errors import VrbenchError
from vrbench.data.tables import from_rows
from vrbench.evaluation import lm_eval_adapter
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.built_task import harness_config, select_items
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, truncate_request
from vrbench.evaluation.task_scores import TaskScores
from vrbench.models.llava_model import LlavaModel
from vrbench.tasks import registry

LONG = " ".join(map(str, range(600)))  # longer than the model's context, and nowhere the same
TEXTS = [
    "",
    "One.",
    "A text that is longer than the windows of the model, so that it has to be read in several of them. " * 30,
]


def adapter(vlm: LlavaModel, folder: Path) -> LmEvalModel:
    return LmEvalModel(InferenceEngine(vlm, AnswerStore(folder / "a.sqlite", "c"), show_progress=False))


@pytest.fixture
def model(vlm: LlavaModel, tmp_path: Path) -> LmEvalModel:
    return adapter(vlm, tmp_path)


@pytest.fixture(scope="module")
def reference(vlm: LlavaModel) -> Any:
    return HFLM(pretrained=vlm.model, tokenizer=vlm.tokenizer, batch_size=3)


@pytest.fixture(scope="module")
def beginning(vlm: LlavaModel) -> LlavaModel:
    """The same model with a tokenizer that puts a token in front, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    words = tokenizer()
    first = [("<s>", words.bos_token_id)]
    words.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=first)
    assert words.encode("a")[0] == words.bos_token_id
    return LlavaModel(vlm.model, words, vlm.image_processor)


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, args, 0, ("task", i, 1)) for i, args in enumerate(arguments)]


@pytest.mark.parametrize("which", ["vlm", "beginning"])
def test_loglikelihoods_are_those_of_hflm(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    asking: LlavaModel = request.getfixturevalue(which)
    model = adapter(asking, tmp_path)
    reference = HFLM(pretrained=asking.model, tokenizer=asking.tokenizer, batch_size=3)
    contexts = ["", "Question: which?", "Trailing space ", "<s>Begins with a beginning", LONG]
    pairs = [(c, o) for c in contexts for o in (" a", " b", " a long continuation", "</s>")]
    ours = model.loglikelihood(asked("loglikelihood", *pairs))
    theirs = reference.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    for pair, our, their in zip(pairs, ours, theirs, strict=True):
        assert our[0] == pytest.approx(their[0], abs=1e-4), pair
        assert our[1] == their[1], pair


@pytest.mark.parametrize("which", ["vlm", "beginning"])
def test_tokens_are_those_of_hflm(which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    asking: LlavaModel = request.getfixturevalue(which)
    reference = HFLM(pretrained=asking.model, tokenizer=asking.tokenizer, batch_size=3)
    monkeypatch.setattr(reference, "_loglikelihood_tokens", lambda pairs, **more: [pair[1:] for pair in pairs])
    headers = ["", "One.\n\n", "Question: which?\nAnswer: A\n\n" * 20]
    questions = ["", "Who\nA. x\nAnswer:", "Who\nA. x1\nAnswer:", " ", "Why? \n ", "<s>x", "<s>"]
    ends = [" a", " b", "a\n", "</s>", "<s>", "<s>a", " long\nanswer in lines"]
    pairs = [(header + question, end) for header in headers for question in questions for end in ends]
    instances = asked("loglikelihood", *pairs)
    found = lm_eval_adapter.LmEvalAdapter(asking).requests([(None, one) for one in instances])
    expected = reference.loglikelihood(instances, disable_tqdm=True)
    for pair, (ours,), (context, continuation) in zip(pairs, found, expected, strict=True):
        assert isinstance(ours, LogLikelihoodRequest)
        assert (list(ours.context), list(ours.continuation)) == (context, continuation), pair


def test_tokens_of_prompts_are_those_of_the_model(vlm: LlavaModel, beginning: LlavaModel) -> None:
    settings = {"until": ["\n"], "max_gen_toks": 9}
    texts = ["Question: which?\nAnswer: A\n\n" * 20 + end for end in ("", "Who", "Who\nis it")] + ["<s>Once", "</s>"]
    for asking in (vlm, beginning):
        instances = asked("generate_until", *((text, settings) for text in texts))
        found = lm_eval_adapter.LmEvalAdapter(asking).requests([(None, one) for one in instances])
        for text, (one,) in zip(texts, found, strict=True):
            fitting, _ = truncate_request(asking, one)
            assert isinstance(one, GenerationRequest) and isinstance(fitting, GenerationRequest)
            assert fitting.tokens == tuple(asking.encode(text))
            assert one.tokens == (() if text.startswith("<s>") else fitting.tokens)


def test_an_example_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"test": [{"q": f"Who {i}?", "a": "me"} for i in range(4)], "dev": [{"q": "Is it?", "a": "no"}] * 2}
    config = {
        "task": "t", "output_type": "generate_until", "doc_to_text": "{{q}} A:", "doc_to_target": "{{a}}",
        "test_split": "test", "fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}, "description": "Say.\n",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    task = lm_eval_adapter.LmEvalTask(config, DatasetDict({k: from_rows(v) for k, v in rows.items()}), 2)
    rendered: list[str] = []
    render = lm_eval.utils.apply_template
    monkeypatch.setattr(lm_eval.utils, "apply_template", lambda t, doc: [rendered.append(t), render(t, doc)][1])
    task.build_all_requests()
    assert rendered.count("{{q}} A:") == 2 + 4
    assert [one.args[0] for one in task.instances] == [
        f"Say.\nIs it? A: no\n\nIs it? A: no\n\nWho {i}? A:" for i in range(4)
    ]


def test_rolling_loglikelihoods_are_those_of_hflm(model: LmEvalModel, reference: Any) -> None:
    requests = asked("loglikelihood_rolling", *((text,) for text in TEXTS))
    ours = model.loglikelihood_rolling(requests)
    theirs = reference.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-3)
    assert ours[0] == 0
    assert len(TEXTS[2]) > model.engine.vlm.context_length


@pytest.mark.parametrize("which", ["vlm", "beginning"])
def test_generated_answers_are_those_of_hflm(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    asking: LlavaModel = request.getfixturevalue(which)
    model = adapter(asking, tmp_path)
    reference = HFLM(pretrained=asking.model, tokenizer=asking.tokenizer, batch_size=3)
    free = model.generate_until(asked("generate_until", ("Once", {"until": [], "max_gen_toks": 20})))[0]
    settings = [
        {"until": ["\n\n"], "max_gen_toks": 9, "do_sample": False},
        {"until": [free[4:6]], "max_gen_toks": 20, "temperature": 0.0},
    ]
    texts = ("Once", "Once upon a time", "A longer prompt, for padding", LONG)
    prompts = [(text, one) for one in settings for text in texts]
    ours = model.generate_until(asked("generate_until", *prompts))
    theirs = reference.generate_until(asked("generate_until", *prompts), disable_tqdm=True)
    assert ours == theirs
    assert len(set(ours)) > 4


def test_answers_that_leave_no_room_for_the_prompt_are_refused(model: LmEvalModel) -> None:
    with pytest.raises(VrbenchError, match="2048 tokens for an answer leave no room for a prompt in a context of 2048"):
        model.generate_until(asked("generate_until", ("Once", {"until": [], "max_gen_toks": 2048})))


@pytest.mark.parametrize("settings", [{"do_sample": True}, {"temperature": 0.7}, {"num_beams": 4}])
def test_answers_that_are_not_greedy_are_refused(model: LmEvalModel, settings: dict[str, Any]) -> None:
    with pytest.raises(VrbenchError, match="only greedy"):
        model.generate_until(asked("generate_until", ("Once", settings)))


def run(name: str, root: Path, answerer: InferenceEngine, limit: int | None = None) -> tuple[TaskScores, Any]:
    """A task through the engine, and a fresh task object of the same items for the reference."""
    spec = registry.load()[name]
    parts = select_items(spec, load_task(spec, root), limit, seed=0)
    outcome = evaluate_task(spec, parts, answerer)
    return outcome, lm_eval_adapter.LmEvalTask(harness_config(spec, parts[0].config), parts[0].rows, spec.fewshot)


def real_root() -> list[Any]:
    """The real sets too, where an environment variable says that they are there."""
    return [Path(os.environ["VRBENCH_DATA_ROOT"])] if os.environ.get("VRBENCH_DATA_ROOT") else []


@pytest.mark.parametrize("name", ["piqa", "arc_easy"])
@pytest.mark.parametrize("where", ["made", *real_root()])
def test_samples_are_those_of_lm_eval_with_hflm(
    vlm: LlavaModel, reference: Any, data_root: Path, tmp_path: Path, name: str, where: Any
) -> None:
    answerer = InferenceEngine(vlm, AnswerStore(tmp_path / "a.sqlite", "c"), show_progress=False)
    outcome, task = run(name, data_root if where == "made" else where, answerer, limit=None if where == "made" else 40)
    theirs = evaluate(reference, {name: task}, bootstrap_iters=0)
    assert outcome.official["acc"] == theirs["results"][name]["acc,none"]
    assert outcome.official["acc_norm"] == theirs["results"][name]["acc_norm,none"]
    assert 0 < outcome.official["acc"] < 1
    for ours, their in zip(outcome.samples, theirs["samples"][name], strict=True):
        logs = [response[0] for response in their["filtered_resps"]]
        assert ours.loglikelihoods == pytest.approx(logs, abs=1e-4)
        assert ours.score == their["acc"]
        assert ours.answer == task.doc_to_choice(their["doc"])[logs.index(max(logs))]


def test_too_long_contexts_lose_their_beginning(model: LmEvalModel) -> None:
    whole = LogLikelihoodRequest(tuple(range(5000)), (1, 2, 3))
    assert truncate_request(model.engine.vlm, whole) == (
        LogLikelihoodRequest(tuple(range(5000 - 2046, 5000)), (1, 2, 3)),
        True,
    )


def test_reading_the_harness_writes_and_prints_nothing(
    vlm: LlavaModel, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here: Callable[[], list[Path]] = lambda: list(tmp_path.rglob("*"))  # noqa: E731
    monkeypatch.chdir(tmp_path)
    with AnswerStore(data_root.parent / "quiet.sqlite", "c") as store:
        run("piqa", data_root, InferenceEngine(vlm, store, show_progress=False))
    assert here() == []
    assert capfd.readouterr() == ("", "")


def test_float64_sums_hold_long_texts(model: LmEvalModel, vlm: LlavaModel) -> None:
    tokens = vlm.tokenizer.encode(TEXTS[2])[:1500]
    with torch.inference_mode():
        logits = vlm.model(input_ids=torch.tensor([tokens])).logits[0, :-1].double().log_softmax(-1)
    exact = float(logits.gather(1, torch.tensor(tokens[1:])[:, None]).sum())
    ((log, _),) = model.engine.answer([LogLikelihoodRequest(tuple(tokens[:1]), tuple(tokens[1:]))])
    assert log == pytest.approx(exact, abs=2e-3)
