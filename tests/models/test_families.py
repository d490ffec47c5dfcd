"""Every family of today, as a tiny model read from its folder, answers as transformers does with the same inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import tiny, tiny_families
from tests.tiny import checkpoint_errors
from vrbench.checkpoints.families import FAMILIES, UNSUPPORTED
from vrbench.core.errors import VrbenchError
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.family_backends import WholePromptBackend
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, RequestImage
from vrbench.models import fixed_shapes
from vrbench.models.hf_model import HFModel
from vrbench.models.load import load_llava, load_vlm
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.resolve import resolve_checkpoint

QUESTIONS = [
    ("Is it red?", [(40, 24)]),
    ("Is it a very big and not so red thing?", [(24, 56)]),
    ("What is it?", [(64, 64)]),
    ("Which of the two?", [(64, 40), (30, 20)]),
]
TEXTS = ("Once upon a time", "One, two, three, four, five, six, seven, eight", "Why")


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    torch.manual_seed(seed + size[0])
    return Image.fromarray((torch.rand(size[1], size[0], 3) * 255).to(torch.uint8).numpy())


def requests(vlm: Any) -> list[Request]:
    """Questions with and without pictures, whose answers have unequal lengths, and texts with what follows."""
    asked: list[Request] = []
    for number, (text, sizes) in enumerate(QUESTIONS):
        pictures = tuple(RequestImage(f"{size}", lambda size=size: noise(size)) for size in sizes)
        asked.append(GenerationRequest(vlm.prompt(text, len(sizes)), pictures, 4 + number, ()))
    asked += [GenerationRequest(vlm.prompt(text), (), 3 + number, ()) for number, text in enumerate(TEXTS)]
    encode = vlm.tokenizer.encode
    asked += [
        LogLikelihoodRequest(tuple(encode(text)), tuple(encode(more, add_special_tokens=False)))
        for text in TEXTS
        for more in (" a", " b", " something longer")
    ]
    return asked


@pytest.fixture(scope="module", params=list(tiny_families.MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_families.save(request.param, tmp_path_factory.mktemp("families") / request.param)


@pytest.fixture(scope="module")
def vlm(folder: Path) -> HFModel:
    found = load_vlm(resolve_checkpoint(str(folder)))
    assert isinstance(found, HFModel)
    return found


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    """The model as transformers alone reads it."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def said(vlm: HFModel, theirs: Any, asked: GenerationRequest) -> list[int]:
    """Token ids that transformers' own `generate` says to one prompt alone."""
    bos = vlm.tokenizer.bos_token
    if asked.images:
        added, shown = vlm.prompt_format.add_special_tokens, [picture.load() for picture in asked.images]
        inputs = vlm.processor(
            text=[asked.prompt], images=shown if vlm.prompt_format.flat_images else [shown], return_tensors="pt",
            add_special_tokens=not asked.prompt.startswith(bos) if added is None else added,
            images_kwargs=dict(vlm.prompt_format.image_settings),
        )  # fmt: skip
        inputs.pop("labels", None)
    else:
        inputs = vlm.tokenizer(asked.prompt, return_tensors="pt", add_special_tokens=not asked.prompt.startswith(bos))
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        if vlm.family == "paligemma":
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])  # all of it is prefix
    with torch.inference_mode():
        whole = theirs.generate(**inputs, do_sample=False, max_new_tokens=asked.max_new_tokens)
    return whole[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def expected(vlm: HFModel, theirs: Any) -> list[Any]:
    """Transformers' own answers to the requests."""
    asked = requests(vlm)
    tokens = [said(vlm, theirs, request) for request in asked if isinstance(request, GenerationRequest)]
    logs = [likelihood(theirs, request) for request in asked if isinstance(request, LogLikelihoodRequest)]
    return [*(vlm.tokenizer.decode(answer, skip_special_tokens=True) for answer in tokens), *logs]


@pytest.mark.supports("{folder}", "run")
@pytest.mark.parametrize("batch_size", [1, 2, "auto"])
def test_the_engine_says_what_transformers_says(
    vlm: HFModel, expected: list[Any], tmp_path: Path, batch_size: int | str
) -> None:
    asked = requests(vlm)
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        found = InferenceEngine(vlm, store, batch_size, show_progress=False).answer(asked)
        again = InferenceEngine(vlm, store, batch_size, show_progress=False)
        assert again.answer(asked) == found
    assert again.computed == 0
    generations = sum(isinstance(request, GenerationRequest) for request in asked)
    assert found[:generations] == expected[:generations]
    assert len({answer[:3] for answer in expected[:generations]}) >= 4
    for (log, greedy), theirs in zip(found[generations:], expected[generations:], strict=True):
        assert (pytest.approx(log, abs=1e-5), greedy) == theirs


IN_SLOTS = {"idefics3", "internvl", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm"}
"""Families whose tiny model is answered in slots; Mistral 3's has a sliding window."""


def test_families_in_slots_do_not_call_generate(
    vlm: HFModel, expected: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vlm.generates_in_slots == (vlm.family in IN_SLOTS)
    if not vlm.generates_in_slots:
        return
    monkeypatch.setattr(HFModel, "generate", lambda *_: pytest.fail("answered by generate"))
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        engine = InferenceEngine(vlm, store, show_progress=False)
        engine._budget = MemoryBudget(None, 160, 400)  # several passes, fewer slots than prompts
        assert engine.answer(requests(vlm)[:4]) == expected[:4]


def test_with_fixed_shapes_answers_are_bitwise_the_same_in_any_batch(
    vlm: HFModel, expected: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(asked: list[Request]) -> list[Any]:
        with AnswerStore(tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite", "c") as store:
            return InferenceEngine(vlm, store, show_progress=False, deterministic=True).answer(asked)

    monkeypatch.setattr(fixed_shapes, "CPU_SLOTS", 4)
    asked = requests(vlm)
    found = answer(asked)
    assert found[: len(QUESTIONS) + len(TEXTS)] == expected[: len(QUESTIONS) + len(TEXTS)]
    some = [*range(len(QUESTIONS) + len(TEXTS)), *range(len(QUESTIONS) + len(TEXTS), len(asked), 4)]
    assert [answer([asked[n]])[0] for n in some] == [found[n] for n in some]


@pytest.fixture(scope="module")
def on_the_same_images(vlm: HFModel, theirs: Any) -> dict[GenerationRequest, str]:
    """Three questions on the same image, three on the same two, and transformers' answers."""
    asked = []
    for _, sizes in QUESTIONS[-2:]:
        pictures = tuple(RequestImage(f"{size}", lambda size=size: noise(size)) for size in sizes)
        for number, text in enumerate(("Is it red?", "What?", "Is it a very big and not so red thing?")):
            asked.append(GenerationRequest(vlm.prompt(text, len(sizes)), pictures, 5 + number, ()))
    return {one: vlm.tokenizer.decode(said(vlm, theirs, one), skip_special_tokens=True) for one in asked}


@pytest.mark.parametrize(("batch_size", "read"), [("auto", 2), (2, 4), (1, 6)])
def test_questions_on_the_same_images_read_them_once(
    vlm: HFModel, on_the_same_images: dict[GenerationRequest, str], batch_size: int | str, read: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole: list[str] = []
    encode = HFModel.image_prompt
    monkeypatch.setattr(
        HFModel, "image_prompt", lambda self, prompt, *given: whole.append(prompt) or encode(self, prompt, *given)
    )
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        found = InferenceEngine(vlm, store, batch_size, show_progress=False).answer([*on_the_same_images])
    assert found == [*on_the_same_images.values()]
    assert len(whole) == (read if vlm.generates_in_slots else 0)
    assert len(set(found)) > 3


def test_questions_on_the_same_images_that_no_pass_holds_are_apart(
    vlm: HFModel, on_the_same_images: dict[GenerationRequest, str]
) -> None:
    if not vlm.generates_in_slots:
        return
    asked = [*on_the_same_images]
    backend = WholePromptBackend(vlm, {str(n): one for n, one in enumerate(asked)})
    lengths = {n: backend._lengths[str(n)] for n in range(len(asked))}
    budgets = [MemoryBudget(None, tokens, 10**6) for tokens in (1, 10**6)]
    assert [len(backend._on_same_images([*lengths], asked, lengths, budget)) for budget in budgets] == [6, 2]
    mark = vlm.processor.image_token
    assert vlm.before_question(f"One: {mark} two: {mark} Which?") == f"One: {mark} two: "


def test_without_a_window_mistral_3_is_answered_in_slots_too(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    folder = tiny_families.save("mistral3", tmp_path / "mistral3")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    tiny.edit_json(folder / "config.json", text_config={**text, "sliding_window": None})
    vlm = load_vlm(resolve_checkpoint(str(folder)))
    assert isinstance(vlm, HFModel) and vlm.generates_in_slots
    theirs = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    asked = [request for request in requests(vlm)[:4] if isinstance(request, GenerationRequest)]
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        found = InferenceEngine(vlm, store, show_progress=False).answer(asked)
    assert found == [vlm.tokenizer.decode(said(vlm, theirs, one), skip_special_tokens=True) for one in asked]


def likelihood(theirs: Any, asked: LogLikelihoodRequest) -> tuple[float, bool]:
    """From one plain pass over context and continuation."""
    inputs = {"input_ids": torch.tensor([asked.context + asked.continuation])}
    if theirs.config.model_type == "paligemma":  # reads its context both ways, and what follows in order
        inputs["token_type_ids"] = torch.tensor([[0] * len(asked.context) + [1] * len(asked.continuation)])
    with torch.inference_mode():
        logits = theirs(**inputs).logits[0].float()
    logs = logits.log_softmax(-1)[len(asked.context) - 1 : -1]
    of = torch.tensor(asked.continuation)
    return float(logs[torch.arange(len(of)), of].double().sum()), bool((logs.argmax(-1) == of).all())


def logits(vlm: HFModel, model: Any, seed: int = 0) -> torch.Tensor:
    inputs = vlm.encode_with_images([vlm.prompt("Is it red?", 1)], [[noise((40, 24), seed)]])
    with torch.inference_mode():
        return model(**inputs).logits


def test_its_image_processor_is_that_of_every_machine(vlm: HFModel) -> None:
    assert vlm.image_processor_name.endswith("Pil")


def test_pictures_are_seen(vlm: HFModel) -> None:
    assert not torch.allclose(logits(vlm, vlm.model), logits(vlm, vlm.model, seed=1), atol=1e-2)


@pytest.mark.supports("{folder}", "saved")
def test_saved_and_loaded_again_it_is_the_same_model(vlm: HFModel, folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    vlm.model.save_pretrained(tmp_path)
    again = load_vlm(resolve_checkpoint(str(tmp_path)))
    assert torch.equal(logits(vlm, again.model), logits(vlm, vlm.model))


def test_its_length_is_known_before_it_is_asked(vlm: HFModel) -> None:
    for text, sizes in [*QUESTIONS, ("Another question on pictures of known sizes?", [(40, 24)])]:
        prompt, pictures = vlm.prompt(text, len(sizes)), [noise(size) for size in sizes]
        assert vlm.length(prompt, sizes) == vlm.encode_with_images([prompt], [pictures])["input_ids"].shape[1]


def test_prompts_that_are_encoded_one_by_one_are_joined_as_the_processor_does_it(vlm: HFModel) -> None:
    for n_images in (1, 2):
        prompts = [
            vlm.prompt(text, n_images) for text in ("Is it red?", "Is it a very big and not so red thing?", "What?")
        ]
        shown = [[noise((24 + 8 * i + 30 * j, 90 - 20 * i)) for j in range(n_images)] for i in range(3)]
        whole = vlm.encode_with_images(prompts, shown)
        joined = vlm.join_prompts([vlm.prompt_inputs(*one) for one in zip(prompts, shown, strict=True)])
        assert whole.keys() == joined.keys()
        assert all(torch.equal(joined[name], value) for name, value in whole.items())


@pytest.mark.parametrize("folder", ["internvl", "qwen2_5_vl", "qwen3_vl"], indirect=True, scope="module")
def test_tokens_of_images_are_counted_from_their_sizes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = load_vlm(resolve_checkpoint(str(folder)))
    assert isinstance(vlm, HFModel)
    prompt, sizes = vlm.prompt("Why?", 1), [(40, 24), (90, 31), (31, 90), (300, 1900), (2000, 40)]
    expected = [vlm.encode_with_images([prompt], [[noise(size)]])["input_ids"].shape[1] for size in sizes]
    vlm.length(prompt, sizes[:1])
    monkeypatch.setattr("vrbench.models.hf_model.encode_with_images", lambda *_: pytest.fail("an image was made"))
    assert [vlm.length(prompt, [size]) for size in sizes] == expected
    assert len(set(expected)) > 2


@pytest.mark.parametrize("folder", ["llava_next", "qwen3_vl", "gemma3", "mllama"], indirect=True, scope="module")
def test_bfloat16_gives_answers_too(folder: Path) -> None:
    vlm = load_vlm(resolve_checkpoint(str(folder)), dtype="bfloat16")
    assert {p.dtype for p in vlm.model.parameters()} == {torch.bfloat16}
    assert isinstance(vlm, HFModel)
    assert torch.allclose(logits(vlm, vlm.model).float().log_softmax(-1).exp().sum(-1), torch.tensor(1.0), atol=1e-3)


def test_weights_that_are_not_the_model_s_are_told(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if "layers.2" in name and "mlp.up_proj" in name and "vision" not in name)
    wide = next(name for name in tensors if "layers.1" in name and "mlp.down_proj" in name and "vision" not in name)
    tensors.pop(gone)
    tensors[wide] = torch.cat([tensors[wide], tensors[wide]])
    tensors["surplus"] = torch.zeros(3)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    told = "\n".join(checkpoint_errors(str(tmp_path)))
    assert "lacks" in told and "mlp.up_proj" in told
    assert "another shape" in told and "mlp.down_proj" in told
    assert "'surplus'" in told


NO_TOOLS = {
    "preprocessor_config.json": "internvl has no preprocessor_config.json, which says how images are resized",
    "tokenizer.json": "has no tokenizer; it needs tokenizer.json, .*, with token 264, the image token of config.json",
}


@pytest.mark.parametrize("gone", NO_TOOLS)
def test_a_folder_without_processor_or_tokenizer_is_told(gone: str, tmp_path: Path) -> None:
    folder = tiny_families.save("internvl", tmp_path / "internvl")
    (folder / gone).unlink()
    with pytest.raises(VrbenchError, match=NO_TOOLS[gone]):
        load_vlm(resolve_checkpoint(str(folder)))


def test_every_family_but_llava_is_made_here() -> None:
    assert set(FAMILIES) == {"llava", *tiny_families.MAKERS}


def test_what_needs_packed_rows_is_refused_for_the_others(tmp_path: Path, tiny_llava: Path) -> None:
    other = tiny_families.save("smolvlm", tmp_path / "smolvlm")
    with pytest.raises(VrbenchError, match="smolvlm is of family 'smolvlm'; this is supported for llava only"):
        load_llava(resolve_checkpoint(str(other)), "cpu", "float32")
    assert load_llava(resolve_checkpoint(str(tiny_llava)), "cpu", "float32").depth == tiny.DEPTH


@pytest.mark.parametrize("model_type", list(UNSUPPORTED))
def test_known_families_that_cannot_be_loaded_are_refused_with_the_reason(model_type: str, tmp_path: Path) -> None:
    folder = tiny_families.save("smolvlm", tmp_path / "odd")
    tiny.edit_json(folder / "config.json", model_type=model_type)
    (told,) = checkpoint_errors(str(folder))
    assert model_type in told and UNSUPPORTED[model_type] in told


def test_experts_are_refused_whatever_the_family_is_called(tmp_path: Path) -> None:
    folder = tiny_families.save("internvl", tmp_path / "odd")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    experts = {"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 8}
    tiny.edit_json(folder / "config.json", text_config={**text, **experts})
    (told,) = checkpoint_errors(str(folder))
    assert "experts (MoE)" in told
