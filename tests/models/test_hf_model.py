"""The plain way of answering: when answers end, what may share a batch, and folders in the layouts that exist."""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import tiny_families
from tests.evaluation.made import hub, noise
from tests.tiny import tokenizer
from vrbench import evaluate
from vrbench.checkpoints.families import FAMILIES
from vrbench.core import run_storage
from vrbench.core.errors import VrbenchError
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.requests import GenerationRequest, Unanswered, request_image
from vrbench.models.decoding import StopCriteria
from vrbench.models.hf_model import HFModel
from vrbench.models.load import load_vlm
from vrbench.models.processors import UnsupportedImageError, allow_threads, encode_with_images, load_processor
from vrbench.models.prompt_reading import _WholeBatch
from vrbench.models.resolve import resolve_checkpoint


def load(folder: Path) -> HFModel:
    found = load_vlm(resolve_checkpoint(str(folder)))
    assert isinstance(found, HFModel)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_families.save("smolvlm", tmp_path_factory.mktemp("plain") / "smolvlm")


@pytest.fixture(scope="module")
def vlm(folder: Path) -> HFModel:
    return load(folder)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnswerStore]:
    with AnswerStore(tmp_path / "a.sqlite", "c") as opened:
        yield opened


def asked(vlm: HFModel, until: tuple[str, ...] = ()) -> list[GenerationRequest]:
    texts = [f"Is it {'very ' * i}red?" for i in range(4)]
    shown = [request_image(noise(f"{i}"), lambda i=i: noise(f"{i}")) for i in range(4)]
    return [GenerationRequest(vlm.prompt(texts[i], 1), (shown[i],), 6 + i, until) for i in range(4)]


def answers(vlm: HFModel, requests: list[GenerationRequest], limits: list[StopCriteria]) -> list[str]:
    pictures = [[p.load() for p in request.images] for request in requests]
    return vlm.generate(vlm.encode_with_images([request.prompt for request in requests], pictures), limits)


def test_each_answer_ends_at_its_own_limit_or_stop_text(folder: Path) -> None:
    vlm = load(folder)
    letters = set(vlm.tokenizer("".join(map(chr, range(33, 127))))["input_ids"])
    vlm.model.generation_config.suppress_tokens = [i for i in range(len(vlm.tokenizer)) if i not in letters]
    requests = asked(vlm)
    whole = answers(vlm, requests, [StopCriteria(8)] * 4)
    assert [len(text) for text in whole] == [8, 8, 8, 8]  # a letter a token
    limits = [
        StopCriteria(3),
        StopCriteria(8, (whole[1][2:4], "never")),
        StopCriteria(7, ("never", "")),
        StopCriteria(5, (whole[3][4:8],)),
    ]
    expected = [whole[0][:3], whole[1].split(whole[1][2:4])[0], whole[2][:7], whole[3][:5]]
    assert answers(vlm, requests, limits) == expected


def test_a_prompt_longer_than_the_context_is_not_asked(
    vlm: HFModel, store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, *_, longest = asked(vlm)
    length = vlm.length(one.prompt, [one.images[0].load().size])
    monkeypatch.setitem(vars(vlm), "full_context", length)
    said, none = InferenceEngine(vlm, store, show_progress=False).answer([one, longest])
    assert not isinstance(said, Unanswered) and isinstance(none, Unanswered)
    assert none.reason.endswith(f"tokens with 1 image, and the model's context is {length:,}")


def test_no_token_is_computed_after_the_last_stop(vlm: HFModel) -> None:
    (request,) = asked(vlm)[:1]
    inputs = vlm.encode_with_images([request.prompt], [[p.load() for p in request.images]])
    first = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=1)[0, -1:]
    calls: list[int] = []
    hook = vlm.model.register_forward_hook(lambda *_: calls.append(1))
    assert vlm.generate(inputs, [StopCriteria(50, (vlm.tokenizer.decode(first),))]) == [""]
    hook.remove()
    assert len(calls) == 1


def test_every_end_of_the_generation_config_ends_an_answer(folder: Path) -> None:
    vlm = load(folder)
    (request,) = asked(vlm)[:1]
    whole = answers(vlm, [request], [StopCriteria(8)])[0]
    inputs = vlm.encode_with_images([request.prompt], [[p.load() for p in request.images]])
    said = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, -8:].tolist()
    vlm = load(folder)
    vlm.model.generation_config.eos_token_id = [vlm.eos_token_id, said[3]]
    assert vlm.stop_token_ids == {vlm.eos_token_id, said[3]}
    ended = answers(vlm, [request], [StopCriteria(8)])[0]
    assert ended == vlm.tokenizer.decode(said[: said.index(said[3]) + 1], skip_special_tokens=True) != whole


@pytest.mark.parametrize("in_slots", [False, True])
def test_batches_are_halved_until_they_fit(
    in_slots: bool, vlm: HFModel, store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    generate, read = HFModel.generate, _WholeBatch.logits

    def fits(size: int) -> None:
        sizes.append(size)
        if size > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate")

    expected = [answers(vlm, [request], [StopCriteria(request.max_new_tokens)])[0] for request in asked(vlm)]
    monkeypatch.setattr(HFModel, "generates_in_slots", in_slots)
    monkeypatch.setattr(HFModel, "generate", lambda self, i, limits: fits(len(limits)) or generate(self, i, limits))
    monkeypatch.setattr(_WholeBatch, "logits", lambda self, c, slots: fits(len(slots)) or read(self, c, slots))
    assert InferenceEngine(vlm, store, 64, show_progress=False).answer(asked(vlm)) == expected
    assert sizes == [4, 2, 2]


def test_a_long_prompt_is_cut_off_in_front(vlm: HFModel, store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(vlm), "context_length", 40)
    long, short = (
        GenerationRequest("x" * 200 + "What is it?", (), 6, ()),
        GenerationRequest("x" * 23 + "What is it?", (), 6, ()),
    )
    answerer = InferenceEngine(vlm, store, show_progress=False)
    one, other = answerer.answer([long, short])
    assert one == other != ""
    with pytest.raises(VrbenchError, match="40 tokens for an answer leave no room"):
        answerer.answer([GenerationRequest("What?", (), 40, ())])


def test_a_prompt_without_marks_for_its_pictures_is_told(vlm: HFModel) -> None:
    with pytest.raises(VrbenchError, match="smolvlm refuses a prompt"):
        vlm.encode_with_images(["Is it red?"], [[noise("a")]])


def test_an_image_that_a_family_refuses_is_not_asked_and_the_others_are(tmp_path: Path, store: AnswerStore) -> None:
    vlm = load(tiny_families.save("qwen2_5_vl", tmp_path / "qwen"))
    strip = made(700, 3)
    refused = GenerationRequest(vlm.prompt("Is it red?", 1), (request_image(strip, lambda: strip),), 3, ())
    whole = GenerationRequest(vlm.prompt("Is it red?", 1), (request_image(noise("a"), lambda: noise("a")),), 3, ())
    answerer = InferenceEngine(vlm, store, show_progress=False)
    said, none = answerer.answer([whole, refused])
    assert isinstance(none, Unanswered) and none == "" and said != ""
    told = "the image processor of qwen2_5_vl refuses an image of 700 x 3: absolute aspect ratio"
    assert none.reason.startswith(told)
    (again,) = answerer.answer([refused])
    assert isinstance(again, Unanswered) and answerer.computed == 1  # neither counted nor stored


@pytest.mark.parametrize(
    ("family", "width", "height"), [("qwen3_vl", 3, 700), ("mistral3", 700, 3), ("mistral3", 1, 700)]
)
def test_each_family_s_refusals_name_the_image(family: str, width: int, height: int, tmp_path: Path) -> None:
    processor = load_processor(tiny_families.save(family, tmp_path / family), family)
    prompt_format = FAMILIES[family].prompt_format
    assert prompt_format is not None
    prompts = [prompt_format.prompt(processor, "?", 1)] * 2
    with pytest.raises(UnsupportedImageError, match=f"processor of {family} refuses an image of {width} x {height}: "):
        encode_with_images(processor, prompt_format, prompts, [[noise("a")], [made(width, height)]], family)


def made(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height))


def test_a_beginning_of_text_is_put_in_front_once(tmp_path: Path) -> None:
    vlm = load(tiny_families.save("gemma3", tmp_path / "gemma3"))
    first = vlm.tokenizer.bos_token_id
    for prompt in ("Is it red?", "<s>Is it red?", vlm.prompt("Is it red?")):
        assert vlm.encode(prompt).count(first) == 1
    shown = vlm.encode_with_images([vlm.prompt("Is it red?", 1)], [[noise("a")]])
    assert (shown["input_ids"] == first).sum() == 1


def test_a_processor_that_changes_its_tokenizer_changes_no_other(tmp_path: Path) -> None:
    vlm = load(tiny_families.save("paligemma", tmp_path / "paligemma"))
    assert len(vlm.processor.tokenizer) == len(vlm.tokenizer) + 1024 + 128  # places and masks
    assert vlm.encode("Is it red?")[0] == vlm.tokenizer.bos_token_id


def test_what_follows_is_not_seen_by_a_prefix(tmp_path: Path) -> None:
    vlm = load(tiny_families.save("paligemma", tmp_path / "paligemma"))
    context, first = vlm.encode("Once upon"), 70
    vocabulary = range(vlm.text_config.vocab_size)
    both = vlm.loglikelihood([[*context, first]] * len(vocabulary), [[first, second] for second in vocabulary])
    ((alone, _),) = vlm.loglikelihood([context], [[first]])
    assert sum(math.exp(log) for log, _ in both) == pytest.approx(math.exp(alone), rel=1e-4)


def test_what_follows_may_be_of_any_length_in_a_batch(vlm: HFModel) -> None:
    ids = vlm.encode("One, two, three, four")
    targets = [ids[-1:], ids[-5:], ids[-3:]]
    together = vlm.loglikelihood([ids[:-1]] * 3, targets)
    assert together == [vlm.loglikelihood([ids[:-1]], [target])[0] for target in targets]
    assert together[0][0] > together[2][0] > together[1][0]


def test_pixtral_s_marks_are_rows_of_patches(tmp_path: Path) -> None:
    vlm = load(tiny_families.save("mistral3", tmp_path / "mistral3"))
    ids = vlm.encode_with_images([vlm.prompt("?", 1)], [[noise("a").resize((48, 32))]])["input_ids"][0]
    marks = [t for t in vlm.tokenizer.convert_ids_to_tokens(ids) if t.startswith("[IMG")]
    row = ["[IMG]"] * 3  # 48 pixels, a mark for each 2 x 2 patches of 8
    assert marks == [*row, "[IMG_BREAK]", *row, "[IMG_END]"]


@pytest.mark.parametrize("family", ["llava_next", "gemma3", "idefics3"])
def test_processors_saved_in_one_file_give_the_same_answers(family: str, tmp_path: Path) -> None:
    vlm = load(tiny_families.save(family, tmp_path / "apart"))
    folder = tiny_families.save(family, tmp_path / "whole")
    for name in ("preprocessor_config.json", "processor_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    type(vlm.processor).__mro__[1](  # transformers' own class
        **{n: getattr(vlm.processor, n) for n in _settings(vlm.processor)}
    ).save_pretrained(folder)
    assert "image_processor" in json.loads((folder / "processor_config.json").read_text())
    again = load(folder)
    requests = asked(vlm)
    assert again.prompt("Is it red?", 1) == vlm.prompt("Is it red?", 1)
    limits = [StopCriteria(5)] * 4
    assert answers(again, requests, limits) == answers(vlm, requests, limits)


def _settings(processor: Any) -> list[str]:
    import inspect

    kept = inspect.signature(type(processor).__init__).parameters
    return [name for name in kept if hasattr(processor, name)]


def test_a_run_of_both_harnesses(tmp_path: Path) -> None:
    family = "paligemma"
    folder = tiny_families.save(family, tmp_path / family)
    made = evaluate(
        str(folder), "piqa,mme", data_root=hub(tmp_path / "hub"), out=tmp_path / "runs", device="cpu",
        show_progress=False,
    )  # fmt: skip
    assert (made.status, made.checkpoint.family) == ("ok", family)
    assert [(result.task, result.n) for result in made.results] == [("piqa", 13), ("mme", 24)]
    (file,) = (tmp_path / "runs").glob("*/*/run.json")
    samples = run_storage.load_run(file).samples
    assert all(sample.loglikelihoods for sample in samples["piqa"])
    assert len({sample.answer for sample in samples["mme"]}) > 3


def test_scores_that_are_no_numbers_are_refused(vlm: HFModel, store: AnswerStore) -> None:
    head = vlm.model.get_output_embeddings().weight
    kept = head.detach().clone()
    try:
        head.data.fill_(float("nan"))
        with pytest.raises(VrbenchError, match="scores of tokens are NaN or infinite"):
            InferenceEngine(vlm, store, show_progress=False).answer(asked(vlm)[:1])
    finally:
        head.data.copy_(kept)
    assert len(store) == 0


def test_a_tokenizer_answers_threads_one_by_one() -> None:
    from concurrent.futures import ThreadPoolExecutor

    shared, calls, most = tokenizer(), 0, 0

    class Slow(type(shared)):  # type: ignore[misc]
        def __call__(self, text: str, **settings: Any) -> Any:
            nonlocal calls, most
            calls += 1
            most = max(most, calls)
            found = super().__call__(text, **settings)
            time.sleep(0.01)
            calls -= 1
            return found

    shared.__class__ = Slow
    expected = [shared(text)["input_ids"] for text in ("a", "a king")]
    allow_threads(shared)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: shared(("a", "a king")[n % 2], padding=bool(n % 3))["input_ids"], range(40)))
    assert most == 1 and found == expected * 20 and len(shared) == len(tokenizer())
    plain = tokenizer()
    allow_threads(plain)
    assert pickle.loads(pickle.dumps(plain))("a king")["input_ids"] == expected[1]
