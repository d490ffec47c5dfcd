"""Each request is computed once, the answers do not depend on the batches, and memory may run out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.made import noise
from vrbench.core import provenance
from vrbench.core.errors import VrbenchError
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine, _ItemProgress
from vrbench.evaluation.requests import (
    GenerationRequest,
    LogLikelihoodRequest,
    Request,
    answer_conditions,
    request_image,
)
from vrbench.models.llava_model import LlavaModel


def requests(vlm: LlavaModel) -> list[Request]:
    """Both kinds, with and without pictures, some with common beginnings, some twice."""
    encode = vlm.tokenizer.encode
    asked: list[Request] = []
    for context in ("Question: what is it? Answer:", "Question: where is it? Answer:", "Why", "One, two, three, four"):
        for option in (" a", " b", " something longer"):
            asked.append(LogLikelihoodRequest(tuple(encode(context)), tuple(encode(option))))
    for seed in ("a", "b", "c"):
        shown = request_image(noise(seed), lambda seed=seed: noise(seed))
        for text in ("Is it red?", "Is it a very big and very old dog?", "Is it?"):
            asked.append(GenerationRequest(vlm.prompt(text, 1), (shown,), 6, ("\n\n",)))
    two = tuple(request_image(noise(s), lambda s=s: noise(s)) for s in ("b", "a"))
    asked.append(GenerationRequest(vlm.prompt("Which of the two?", 2), two, 6, ()))
    asked.append(GenerationRequest(vlm.prompt("No picture?"), (), 6, ()))
    return asked + asked[:3] + asked[12:14]


def answers(vlm: LlavaModel, store: Path, batch_size: int | str = "auto") -> tuple[list[Any], int]:
    with AnswerStore(store, "c") as opened:
        answerer = InferenceEngine(vlm, opened, batch_size, show_progress=False)
        return answerer.answer(requests(vlm)), answerer.computed


@pytest.fixture(scope="module")
def expected(vlm: LlavaModel, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return answers(vlm, tmp_path_factory.mktemp("expected") / "a.sqlite", 1)[0]


def same(ours: list[Any], theirs: list[Any]) -> bool:
    logs = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, tuple)]
    texts = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, str)]
    assert len(logs) == 15 and len(texts) == 13
    return all(a[0] == pytest.approx(b[0], abs=1e-4) and a[1] == b[1] for a, b in logs) and all(
        a == b for a, b in texts
    )


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64, "auto"])
def test_answers_do_not_depend_on_the_batches(
    vlm: LlavaModel, tmp_path: Path, expected: list[Any], batch_size: int | str
) -> None:
    found, asked = answers(vlm, tmp_path / "a.sqlite", batch_size)
    assert same(found, expected)
    assert asked == 12 + 11  # those asked twice count once
    assert len({a for a in found if isinstance(a, str)}) > 5


def test_nothing_is_asked_again(vlm: LlavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = answers(vlm, tmp_path / "a.sqlite")
    monkeypatch.setattr(LlavaModel, "hidden_states", None)  # calling it would fail
    again, asked = answers(vlm, tmp_path / "a.sqlite")
    assert (again, asked) == (first, 0)


def test_stored_answers_keep_the_commit_that_computed_them(
    vlm: LlavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(requests: list[Request], code: tuple[str, bool | None]) -> list[tuple[bool, int, str, bool | None]]:
        monkeypatch.setattr(provenance, "commit_of", lambda _: code)
        provenance.own_commit.cache_clear()
        with AnswerStore(tmp_path / "a.sqlite", "c") as store:
            answerer = InferenceEngine(vlm, store, show_progress=False)
            answerer.answer(requests)
            return sorted((a.reused, a.requests, a.commit, a.dirty) for a in answerer.answered)

    one, two, three = (LogLikelihoodRequest((5,), (6 + i,)) for i in range(3))
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:  # as it was kept before commits were
        store.put({one.key(answer_conditions(vlm)): [-1.0, False]}, {"vrbench": "0.3", "packages": {}, "device": "CPU"})
    try:
        assert answered([one, two], ("a" * 40, True)) == [(False, 1, "a" * 40, True), (True, 1, "", None)]
        now = [(False, 1, "b" * 40, False), (True, 1, "", None), (True, 1, "a" * 40, True)]
        assert answered([one, two, three], ("b" * 40, False)) == now
    finally:
        provenance.own_commit.cache_clear()


def test_each_batch_is_stored_before_the_next(vlm: LlavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, hidden = [], LlavaModel.hidden_states

    def dies_at_the_fourth(self: LlavaModel, *args: Any) -> Any:
        calls.append(len(args[0]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return hidden(self, *args)

    monkeypatch.setattr(LlavaModel, "hidden_states", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        answers(vlm, tmp_path / "a.sqlite", 1)
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        written = len(store)
    assert written >= 3
    monkeypatch.setattr(LlavaModel, "hidden_states", hidden)
    assert answers(vlm, tmp_path / "a.sqlite", 1)[1] == 23 - written


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory. Tried to allocate"), MemoryError()])
@pytest.mark.parametrize("batch_size", ["auto", 64])
def test_batches_are_halved_until_they_fit(
    vlm: LlavaModel,
    tmp_path: Path,
    expected: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    batch_size: int | str,
) -> None:
    sizes, hidden = [], LlavaModel.hidden_states

    def holds_two(self: LlavaModel, rows: Any, *args: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise error
        return hidden(self, rows, *args)

    monkeypatch.setattr(LlavaModel, "hidden_states", holds_two)
    assert same(answers(vlm, tmp_path / "a.sqlite", batch_size)[0], expected)
    assert max(sizes) > 2


def test_other_faults_are_not_taken_for_a_lack_of_memory(
    vlm: LlavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*_: Any) -> None:
        calls.append(1)
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(LlavaModel, "hidden_states", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        answers(vlm, tmp_path / "a.sqlite")
    assert len(calls) == 1


def test_the_key_knows_all_that_decides_an_answer() -> None:
    settings = {"loglikelihood": "likely", "text": "text", "images": "images"}
    a, b = (request_image(noise(s), lambda: noise("a")) for s in ("a", "b"))
    different = [
        GenerationRequest("p", (), 5, ()),
        GenerationRequest("q", (), 5, ()),
        GenerationRequest("p", (a,), 5, ()),
        GenerationRequest("p", (b,), 5, ()),
        GenerationRequest("p", (a, b), 5, ()),
        GenerationRequest("p", (b, a), 5, ()),
        GenerationRequest("p", (), 6, ()),
        GenerationRequest("p", (), 5, ("\n",)),
        LogLikelihoodRequest((1, 2), (3,)),
        LogLikelihoodRequest((1,), (2, 3)),
    ]
    keys = [request.key(settings) for request in different]
    keys += [
        request.key({"loglikelihood": "other", "text": "other", "images": "other"})
        for request in (*different[:3], different[8])
    ]
    assert len(set(keys)) == len(keys)
    assert GenerationRequest("p", (a,), 5, ()).key(settings) == different[2].key(settings)


def test_an_item_is_done_with_its_last_request() -> None:
    progress = _ItemProgress(["x", "x", "y", "z", "z"], ["a", "b", "a", "c", "c"], {"c": 1})
    assert (progress.total, progress.done) == (3, 1)
    assert [progress.answered([key]) for key in ("a", "b")] == [1, 1]


def test_progress_is_told_in_items(vlm: LlavaModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = requests(vlm)[:12]
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        answerer = InferenceEngine(vlm, store)
        answerer.answer([replace(one, item=i // 3) for i, one in enumerate(asked[:5])], "begun")
        answerer.answer([replace(one, item=i // 3) for i, one in enumerate(asked)], "whole")
    told = capsys.readouterr().err.replace("\r", "\n")
    assert "begun: 100%" in told and "2/2" in told
    assert "whole:  25%" in told and "4/4" in told and "items/s" in told


@pytest.mark.parametrize("number", [0, 12])
def test_scores_that_are_no_numbers_are_refused_and_not_stored(vlm: LlavaModel, tmp_path: Path, number: int) -> None:
    norm = vlm.language_model.norm.weight
    kept = norm.detach().clone()
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        try:
            norm.data.fill_(float("nan"))
            with pytest.raises(VrbenchError, match="scores of tokens are NaN or infinite"):
                InferenceEngine(vlm, store, show_progress=False).answer(requests(vlm)[number : number + 1])
        finally:
            norm.data.copy_(kept)
        assert len(store) == 0
