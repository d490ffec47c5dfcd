"""Generation configs that change greedy answers: in every way of asking as `generate` does to each prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from tests import tiny_families
from tests.tiny import SIDE, llava, tokenizer
from vrbench.models.decoding import StopCriteria, TokenChoice, needs_logits_processors
from vrbench.models.generation import AnswerGenerator
from vrbench.models.hf_model import HFModel
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.packed_inference import LogLikelihoods
from vrbench.models.packing import pack
from vrbench.models.prompt_reading import PackedPrompts, WholePrompts
from vrbench.models.resolve import resolve_checkpoint

END = 257  # "</s>" of the tiny tokenizer
LETTERS = list(range(64, 90))
SETTINGS: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.3},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 0.4},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[i] for i in range(0, 256, 2)]},
    "sequence_bias": {"sequence_bias": [[[i], 3.0] for i in LETTERS]},
    "suppress_tokens": {"suppress_tokens": list(range(0, 256, 3))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(0, 250))},
    "min_new_tokens": {"min_new_tokens": 5, "sequence_bias": [[[END], 99.0]]},
    "min_length": {"min_length": 30, "sequence_bias": [[[END], 99.0]]},
    "forced_eos_token_id": {"forced_eos_token_id": 65},
    "forced_bos_token_id": {"forced_bos_token_id": 66},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (1, 60.0), "eos_token_id": [70, END]},
    "no NaN, normalised": {"remove_invalid_values": True, "renormalize_logits": True},
    "several ends": {"eos_token_id": [END, *range(0, 128)]},
    "sampling": {"do_sample": True, "temperature": 3.0, "top_k": 3, "num_beams": 2, "min_p": 0.5},
}
TOGETHER: dict[str, dict[str, Any]] = {
    "repetition_penalty": SETTINGS["repetition_penalty"],
    "penalties": {"repetition_penalty": 1.3, "encoder_repetition_penalty": 0.4, "no_repeat_ngram_size": 1},
    "tokens": SETTINGS["suppress_tokens"] | SETTINGS["begin_suppress_tokens"] | SETTINGS["sequence_bias"],
    "lengths": SETTINGS["min_new_tokens"] | SETTINGS["forced_eos_token_id"],
    "several ends": SETTINGS["several ends"],
    "sampling": SETTINGS["sampling"],
}
SILENT = {"forced_bos_token_id", "no NaN, normalised", "sampling"}
"""Settings that change nothing here: the first is for prompts of one token."""


def noise(seed: int) -> Image.Image:
    torch.manual_seed(seed)
    return Image.fromarray((torch.rand(24, 40, 3) * 255).to(torch.uint8).numpy())


@pytest.fixture(scope="module")
def packed() -> LlavaModel:
    from transformers import SiglipImageProcessorPil

    return LlavaModel(llava(), tokenizer(), SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> HFModel:
    found = load_vlm(resolve_checkpoint(str(tiny_families.save("smolvlm", tmp_path_factory.mktemp("p") / "smolvlm"))))
    assert isinstance(found, HFModel)
    return found


def with_settings(vlm: Any, settings: dict[str, Any]) -> Any:
    """The model with a generation config; what it worked out of the one before is forgotten."""
    vlm.model.generation_config = GenerationConfig(**{"eos_token_id": vlm.eos_token_id, "pad_token_id": 1, **settings})
    vlm.__dict__.pop("stop_token_ids", None)
    return vlm


def alone(vlm: Any, inputs: Any, limit: StopCriteria) -> str:
    """What `generate` says to one prompt under the model's own generation config."""
    said = vlm.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=limit.max_new_tokens)
    return str(vlm.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def asked_packed(vlm: LlavaModel) -> tuple[list[str], list[str]]:
    """(packed answers, transformers' own) to prompts of different lengths with and without images, all in one batch."""
    from transformers import LlavaProcessor

    processor = LlavaProcessor(vlm.image_processor, vlm.tokenizer, patch_size=SIDE // 2,
                               vision_feature_select_strategy="full")  # fmt: skip
    texts = ["How many dogs are there?", "How many dogs are there, and where?", "Why?"]
    prompts = [vlm.prompt(text, 1) for text in texts] + ["Once upon a time"]
    limits = {n: StopCriteria(6 + n) for n in range(4)}
    theirs = [alone(vlm, processor(text=p, images=noise(1), return_tensors="pt"), limits[n])
              for n, p in enumerate(prompts[:3])]  # fmt: skip
    theirs.append(alone(vlm, vlm.tokenizer(prompts[3], return_tensors="pt", return_token_type_ids=False), limits[3]))
    rows = pack([vlm.encode(prompt, [0] if n < 3 else []) for n, prompt in enumerate(prompts)])
    images = {0: vlm.project(vlm.encode_images([noise(1)]))[0]}
    generator = AnswerGenerator(vlm, PackedPrompts(vlm, rows, lambda _: images), limits, MemoryBudget.of(vlm))
    ours = {n: answer for done in generator for n, answer in done.items()}
    return [ours[n] for n in range(4)], theirs


def asked_plain(vlm: HFModel, in_slots: bool = False) -> tuple[list[str], list[str]]:
    """As `asked_packed`, in a batch with padding, or in slots."""
    prompts = [vlm.prompt(text, 1) for text in ("Is it red?", "Is it a very big red thing?", "What?")]
    limits = [StopCriteria(5 + n) for n in range(3)]
    if in_slots:
        encoded = [vlm.image_prompt(prompt, [noise(n)], vlm.question(prompt)) for n, prompt in enumerate(prompts)]
        lengths = {n: len(made.tokens) for n, made in enumerate(encoded)}
        waiting = WholePrompts(vlm, [{0: []}, {1: []}, {2: []}], lengths, lambda n: encoded[n])
        generator = AnswerGenerator(vlm, waiting, dict(enumerate(limits)), MemoryBudget(2, 4096, 4096))
        found = {n: answer for done in generator for n, answer in done.items()}
        ours = [found[n] for n in range(3)]
    else:
        ours = vlm.generate(vlm.encode_with_images(prompts, [[noise(n)] for n in range(3)]), limits)
    return ours, [alone(vlm, vlm.encode_with_images([p], [[noise(n)]]), limits[n]) for n, p in enumerate(prompts)]


@pytest.fixture(scope="module")
def greedy_answers(packed: LlavaModel, plain: HFModel) -> dict[str, list[str]]:
    """Answers under a generation config that asks for nothing."""
    assert not needs_logits_processors(with_settings(packed, {})) and not needs_logits_processors(
        with_settings(plain, {})
    )
    return {"packed": asked_packed(packed)[0], "plain": asked_plain(plain)[0]}


@pytest.mark.parametrize(
    ("batch", "settings"),
    [*(("packed", name) for name in SETTINGS), *((batch, name) for batch in ("plain", "slots") for name in TOGETHER)],
)
def test_answers_in_a_batch_are_those_of_generate_to_each_prompt(
    batch: str, settings: str, packed: LlavaModel, plain: HFModel, greedy_answers: dict[str, list[str]]
) -> None:
    if batch == "packed":
        answers, alone = asked_packed(with_settings(packed, SETTINGS[settings]))
    else:
        answers, alone = asked_plain(with_settings(plain, TOGETHER[settings]), batch == "slots")
    assert answers == alone
    assert (answers == greedy_answers["packed" if batch == "packed" else "plain"]) == (settings in SILENT)


def test_log_likelihoods_know_nothing_of_them(packed: LlavaModel) -> None:
    def likely(settings: dict[str, Any]) -> Any:
        rows = pack([[*packed.encode("Which is it?"), 65, 66]])
        return LogLikelihoods(with_settings(packed, settings), rows, {0: [65, 66, 67]}).result()

    assert likely(SETTINGS["suppress_tokens"] | SETTINGS["repetition_penalty"]) == likely({})


def test_a_model_keeps_its_own_generation_config(plain: HFModel) -> None:
    own = with_settings(plain, {"repetition_penalty": 1.3, "do_sample": True}).model.generation_config
    asked_plain(plain)
    assert plain.model.generation_config is own
    assert (own.repetition_penalty, own.do_sample) == (1.3, True)


def test_a_repetition_penalty_alone_is_computed_for_all_slots_at_once(packed: LlavaModel) -> None:
    alone = TokenChoice(with_settings(packed, {"repetition_penalty": 1.3}))
    assert (alone.penalty, alone.needs_processors) == (1.3, False)
    more = TokenChoice(with_settings(packed, TOGETHER["penalties"]))
    assert (more.penalty, more.needs_processors) == (None, True)


def test_sampling_needs_no_processors_and_images_are_placeholders_in_prompts(packed: LlavaModel) -> None:
    assert not needs_logits_processors(with_settings(packed, SETTINGS["sampling"]))
    choice = TokenChoice(with_settings(packed, {"no_repeat_ngram_size": 2}))
    choice.add(4, [-2, -1, 0, 1, 65], StopCriteria(3))
    assert choice._prompts == {4: [packed.image_token, packed.image_token, 0, 1, 65]}
