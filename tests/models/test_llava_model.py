"""Packed and padded answers are those that transformers gives to each prompt alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tiny import SIDE, llava, tokenizer
from vrbench.core.errors import VrbenchError
from vrbench.models.decoding import StopCriteria, decode_answer
from vrbench.models.generation import AnswerGenerator
from vrbench.models.llava_model import LlavaModel
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.packed_inference import LogLikelihoods
from vrbench.models.packing import PackedSequence, pack
from vrbench.models.prompt_reading import PackedPrompts


def picture(seed: int, size: tuple[int, int] = (40, 24)) -> Image.Image:
    torch.manual_seed(seed)
    return Image.fromarray((torch.rand(size[1], size[0], 3) * 255).to(torch.uint8).numpy())


@pytest.fixture(scope="module")
def vlm() -> LlavaModel:
    from transformers import SiglipImageProcessorPil

    return LlavaModel(llava(), tokenizer(), SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}))


def processor(vlm: LlavaModel) -> Any:
    from transformers import LlavaProcessor

    return LlavaProcessor(
        vlm.image_processor, vlm.tokenizer, patch_size=SIDE // 2, vision_feature_select_strategy="full"
    )


def generate(
    vlm: LlavaModel, rows: list[PackedSequence], stops: dict[int, StopCriteria], images: Any = None, slots: int = 9
) -> dict[int, str]:
    generator = AnswerGenerator(
        vlm, PackedPrompts(vlm, rows, lambda _: images or {}), stops, MemoryBudget(slots, 1024, 2048)
    )
    return {number: answer for done in generator for number, answer in done.items()}


def test_features_are_those_of_transformers(vlm: LlavaModel) -> None:
    pictures = [picture(1), picture(2)]
    pixels = vlm.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        theirs = vlm.model.get_image_features(pixel_values=pixels).pooler_output
    ours = vlm.project(vlm.encode_images(pictures))
    assert torch.allclose(ours, torch.stack(tuple(theirs)), atol=1e-6)
    assert vlm.image_tokens == 4


@pytest.mark.parametrize("strategy, layer, tokens", [("default", -2, 3), ("full", [0, -1], 4)])
def test_the_config_chooses_the_layer(vlm: LlavaModel, strategy: str, layer: Any, tokens: int) -> None:
    config, digest = vlm.model.config, vlm.tower_digest
    before = config.vision_feature_select_strategy, config.vision_feature_layer
    try:
        config.vision_feature_select_strategy, config.vision_feature_layer = strategy, layer
        fresh = LlavaModel(vlm.model, vlm.tokenizer, vlm.image_processor)
        assert fresh.encode_images([picture(1)]).shape == (1, tokens, 64 if isinstance(layer, list) else 32)
        assert fresh.tower_digest != digest
    finally:
        config.vision_feature_select_strategy, config.vision_feature_layer = before


def test_the_tower_digest_knows_the_weights_but_not_the_decoder(vlm: LlavaModel) -> None:
    from transformers import SiglipImageProcessorPil

    same = llava(depth=2)
    same.model.vision_tower.load_state_dict(vlm.vision_tower.state_dict())
    other = llava(seed=1)
    assert LlavaModel(same, vlm.tokenizer, vlm.image_processor).tower_digest == vlm.tower_digest
    assert LlavaModel(other, vlm.tokenizer, vlm.image_processor).tower_digest != vlm.tower_digest
    bigger = SiglipImageProcessorPil(size={"height": 2 * SIDE, "width": SIDE})
    assert LlavaModel(same, vlm.tokenizer, bigger).tower_digest != vlm.tower_digest


def test_prompts_are_those_of_llava(vlm: LlavaModel) -> None:
    assert vlm.prompt("How many?", 2) == "<|user|><image> <image>\nHow many?</s><|bot|>"
    assert vlm.prompt("See <image>: how many?", 1) == "<|user|>See <image>: how many?</s><|bot|>"
    assert vlm.prompt("Two and two?") == "<|user|>Two and two?</s><|bot|>"
    template, vlm.tokenizer.chat_template = vlm.tokenizer.chat_template, None
    try:
        assert vlm.prompt("Hi", 1).endswith("questions. USER: <image>\nHi ASSISTANT:")
    finally:
        vlm.tokenizer.chat_template = template


def test_tokens_are_those_of_the_processor(vlm: LlavaModel) -> None:
    prompt = vlm.prompt("How many dogs?", 2)
    theirs = processor(vlm)(text=prompt, images=[picture(1), picture(2)], return_tensors="pt")["input_ids"][0]
    ours = vlm.encode(prompt, [5, 0])
    mark = vlm.tokenizer.convert_tokens_to_ids("<image>")
    assert [mark if i < 0 else i for i in ours] == theirs.tolist()
    assert [-1 - i for i in ours if i < 0] == [20, 21, 22, 23, 0, 1, 2, 3]


def test_too_few_pictures_are_refused(vlm: LlavaModel) -> None:
    with pytest.raises(VrbenchError, match=r"2 image placeholders .* for 1 images"):
        vlm.encode("<image> and <image>", [0])


@pytest.mark.supports("llava", "run")
@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_greedy_answers_are_those_of_transformers(vlm: LlavaModel, at_once: int) -> None:
    texts = ["How many dogs are there?", "How many dogs are here, and why?", "Why?", "How many dogs are there? Say it."]
    prompts = [vlm.prompt(text, 1) for text in texts] * 2
    pictures = [picture(3)] * 4 + [picture(4)] * 4
    theirs = []
    for prompt, shown in zip(prompts, pictures, strict=True):
        inputs = processor(vlm)(text=prompt, images=shown, return_tensors="pt")
        said = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=12, pad_token_id=vlm.eos_token_id)
        theirs.append(vlm.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    shown = dict(enumerate(vlm.project(vlm.encode_images([picture(3), picture(4)]))))
    rows = pack([vlm.encode(prompt, [number // 4]) for number, prompt in enumerate(prompts)])
    assert len(rows) < len(prompts)  # something is shared, or this tests nothing
    ours = generate(vlm, rows, dict.fromkeys(range(8), StopCriteria(12)), shown, slots=at_once)
    assert [ours[number] for number in range(len(prompts))] == theirs
    assert len(set(theirs)) > 4


def test_an_answer_ends_before_its_stop_text(vlm: LlavaModel) -> None:
    rows = pack([vlm.encode(vlm.prompt("Tell me a story."))])
    whole = generate(vlm, rows, {0: StopCriteria(24)})[0]
    stop = whole[5:7]
    cut = generate(vlm, rows, {0: StopCriteria(24, (stop, "never said"))})[0]
    assert cut == whole.split(stop)[0]
    assert len(cut) < len(whole)


def test_an_answer_ends_before_the_stop_text_that_comes_first_in_it(vlm: LlavaModel) -> None:
    """And not before the first of the list."""
    tokens = vlm.tokenizer("once upon a time there was", add_special_tokens=False)["input_ids"]
    assert decode_answer(vlm, tokens, StopCriteria(24, ("there", "upon", "time"))) == "once "
    assert decode_answer(vlm, tokens, StopCriteria(24, ("upon", "once"))) == ""
    assert decode_answer(vlm, tokens, StopCriteria(24, ("", "never"))) == "once upon a time there was"


def test_loglikelihoods_are_those_of_each_sequence_alone(vlm: LlavaModel) -> None:
    encode = vlm.tokenizer.encode
    pairs = [(encode(c), encode(o)) for c in ("Question: which is it?", "Why") for o in (" a", " no", " never mind")]
    rows = pack([(context + option)[:-1] for context, option in pairs])
    ours = LogLikelihoods(vlm, rows, {n: option for n, (_, option) in enumerate(pairs)}).result()
    for number, (context, option) in enumerate(pairs):
        with torch.inference_mode():
            logits = vlm.model(input_ids=torch.tensor([context + option])).logits[0, :-1].log_softmax(-1)
        said = logits[-len(option) :]
        assert ours[number][0] == pytest.approx(float(said.gather(1, torch.tensor(option)[:, None]).sum()), abs=1e-4)
        assert ours[number][1] == bool((said.argmax(-1) == torch.tensor(option)).all())


def test_greedy_continuations_are_known_as_such(vlm: LlavaModel) -> None:
    context = vlm.encode("Once upon a time")
    said = vlm.model.generate(torch.tensor([context]), do_sample=False, max_new_tokens=3)[0, len(context) :].tolist()
    other = [*said[:2], (said[2] + 1) % 200]
    rows = pack([[*context, *o][:-1] for o in (said, other)])
    found = LogLikelihoods(vlm, rows, {0: said, 1: other}).result()
    assert (found[0][1], found[1][1]) == (True, False)


def test_what_the_rooms_above_need(vlm: LlavaModel, tiny_llava: Path) -> None:
    assert vlm.depth == 4 == len(vlm.decoder_layers)
    assert vlm.decoder_layers is vlm.model.model.language_model.layers
    assert vlm.image_processor_name == "SiglipImageProcessorPil"
    assert vlm.context_length == 2048
