"""Prompts beyond the context: texts are cut as lm-eval cuts them and counted, prompts with images are not asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.made import noise
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.requests import (
    GenerationRequest,
    LogLikelihoodRequest,
    Unanswered,
    request_image,
    truncate_request,
)
from vrbench.evaluation.task_result import answer_fields
from vrbench.models.llava_model import LlavaModel

SHOWN = request_image(noise("a"), lambda: noise("a"))


@pytest.fixture
def short(vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch) -> LlavaModel:
    """The tiny model with a context of 20 tokens."""
    for name in ("context_length", "full_context"):
        monkeypatch.setitem(vars(vlm), name, 20)
    return vlm


def test_a_cut_is_counted_whether_the_answer_is_stored_or_not(short: LlavaModel, tmp_path: Path) -> None:
    long = LogLikelihoodRequest(tuple(range(65, 95)), (66, 67))
    fits = LogLikelihoodRequest(tuple(range(65, 84)), (66, 67))  # 19 and 2 tokens: the last one is not read
    words = GenerationRequest("It is a very long question.", (), 4, ())
    assert len(short.encode(words.prompt)) > 16
    asked_of = zip([long, fits, words, words], "xyzz", strict=True)
    asked = [replace(request, item=item) for request, item in asked_of]
    for number in range(2):
        with AnswerStore(tmp_path / "a.sqlite", "c") as store:
            answerer = InferenceEngine(short, store, show_progress=False)
            said = answerer.answer(asked)
        assert answerer.computed == (3 if number == 0 else 0)
        assert answerer.truncated == {"x": 1, "z": 2}
        assert not any(isinstance(answer, Unanswered) for answer in said)


def test_what_is_kept_is_the_end(short: LlavaModel) -> None:
    kept, is_cut = truncate_request(short, GenerationRequest("It is a very long question.", (), 4, ()))
    assert isinstance(kept, GenerationRequest) and is_cut
    assert kept.tokens == tuple(short.encode("It is a very long question.")[-16:])
    with pytest.raises(VrbenchError, match="20 tokens for an answer leave no room for a prompt in a context of 20"):
        truncate_request(short, GenerationRequest("?", (), 20, ()))


def test_a_prompt_with_images_fits_as_a_whole_or_is_not_asked(short: LlavaModel, tmp_path: Path) -> None:
    text = short.prompt("Is it?", 1)
    length = len(short.encode(text, [0]))
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        answerer = InferenceEngine(short, store, show_progress=False)
        vars(short)["full_context"] = length
        assert not isinstance(answerer.answer([GenerationRequest(text, (SHOWN,), 50, ())])[0], Unanswered)
        vars(short)["full_context"] = length - 1
        asked = [GenerationRequest(text, (SHOWN,), 3, ()), LogLikelihoodRequest((65,), tuple(range(65, 86)))]
        image, words = answerer.answer(asked)
    assert isinstance(image, Unanswered) and isinstance(words, Unanswered)
    assert image.reason == f"the prompt has {length} tokens with 1 image, and the model's context is {length - 1}"
    assert words.reason == "the text to be judged has 21 tokens, and the model's context is 20"
    assert (answerer.computed, len(answerer.truncated)) == (1, 0)


def test_the_result_says_what_was_cut_and_left_out() -> None:
    whole = Sample(id="a", cluster="a", score=1.0, responses=((-1.0, True), (-2.0, False)))
    gone = whole.model_copy(update={"id": "b", "unscored": "the prompt has 30 tokens"})
    told = answer_fields("mean", (whole, gone), {"a": 2}, 2048)
    assert (told["n_cut"], told["requests_cut"]) == (1, 2)
    assert told["warnings"] == (
        "2 of 4 requests, in 1 of 2 items, were longer than the model's context of 2,048 tokens and were truncated "
        "on the left",
        "1 of 2 items could not be scored and are left out, such as 'b': the prompt has 30 tokens",
    )
    assert answer_fields("mean", (whole,), {}, 2048) == {"n_cut": 0, "requests_cut": 0, "warnings": ()}
