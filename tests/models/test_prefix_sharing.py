"""LLaVAs on decoders of all kinds: packed where that computes the same, else asked the plain way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tiny import SIDE, checkpoint_errors, llava, tokenizer
from vrbench.core.errors import VrbenchError
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, RequestImage
from vrbench.models.hf_model import PaddedLlava
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_llava, load_vlm
from vrbench.models.packed_inference import PREFIX_SHARING_DECODERS, allows_prefix_sharing
from vrbench.models.packing import pack
from vrbench.models.resolve import resolve_checkpoint

WINDOWED = ["sliding_attention", "full_attention"]
OTHERS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 12},
    "gemma2": {"sliding_window": 12, "layer_types": WINDOWED, "attn_logit_softcapping": 5.0},
    "qwen2": {"sliding_window": 12, "layer_types": WINDOWED, "use_sliding_window": True},
    "phi3": {
        "original_max_position_embeddings": 36,
        "rope_parameters": {
            "rope_type": "longrope",
            "original_max_position_embeddings": 36,
            "factor": 64.0,
            "rope_theta": 1e4,
            "short_factor": [1.0] * 8,
            "long_factor": [1.0, 2.0, 4.0, 8.0] * 2,
        },
    },
}
"""Decoders that a packed row would lead astray."""


def on(kind: str, **settings: Any) -> Any:
    """A tiny LLaVA with random weights on a decoder of a kind."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    words = tokenizer()
    config = llava(depth=1).config
    if kind == "qwen2_5_vl_text":
        settings |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
    usual = {"head_dim": 16} if kind not in ("phi", "phi3", "stablelm", "bloom") else {}
    config.text_config = AutoConfig.for_model(
        kind, vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.3, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=0, tie_word_embeddings=False, **usual, **settings,
    )  # fmt: skip
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = words.eos_token_id
    return model


def noise(number: int) -> Image.Image:
    torch.manual_seed(number)
    return Image.fromarray((torch.rand(24, 40, 3) * 255).to(torch.uint8).numpy())


def processor() -> Any:
    from transformers import LlavaProcessor, SiglipImageProcessorPil

    pixels = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(pixels, tokenizer(), patch_size=SIDE // 2, vision_feature_select_strategy="full")


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_asked_the_plain_way_and_answer_as_transformers_does(kind: str, tmp_path: Path) -> None:
    theirs = on(kind, **OTHERS[kind])
    assert not allows_prefix_sharing(theirs.config.get_text_config(), 2048)
    parts = processor()
    for part in (theirs, parts.tokenizer, parts.image_processor):
        part.save_pretrained(tmp_path / "llava")
    vlm = load_vlm(resolve_checkpoint(str(tmp_path / "llava")))
    assert isinstance(vlm, PaddedLlava)
    shown = [RequestImage(f"{n}", lambda n=n: noise(n)) for n in range(2)]
    asked = [GenerationRequest(vlm.prompt(text, 1), (shown[n % 2],), 5 + n, ())
             for n, text in enumerate(["Is it red?", "Is it a very big red thing, or what?", "Is it?"])]  # fmt: skip
    text = tuple(vlm.tokenizer.encode("Once upon a time there was"))
    asked += [LogLikelihoodRequest(text, (65, 66)), GenerationRequest(vlm.prompt("Why?", 2), tuple(shown), 6, ())]
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        found = InferenceEngine(vlm, store, show_progress=False).answer(asked)
    for request, answer in zip(asked, found, strict=True):
        if isinstance(request, LogLikelihoodRequest):
            with torch.inference_mode():
                logs = theirs(input_ids=torch.tensor([[*text, 65, 66]])).logits[0].log_softmax(-1)
            assert answer[0] == pytest.approx(float(logs[-3, 65] + logs[-2, 66]), abs=1e-4)
            continue
        inputs = parts(text=request.prompt, images=[p.load() for p in request.images], return_tensors="pt")
        said = theirs.generate(**inputs, do_sample=False, max_new_tokens=request.max_new_tokens)
        expected = parts.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == expected


@pytest.mark.parametrize("kind", PREFIX_SHARING_DECODERS)
def test_packed_rows_give_each_sequence_its_own_states(kind: str) -> None:
    vlm = LlavaModel(on(kind), tokenizer(), processor().image_processor)
    assert allows_prefix_sharing(vlm.text_config, vlm.context_length)
    start = vlm.encode("Once upon a time there was a")
    sequences = [start + vlm.encode(end) for end in (" king", " queen, and a", " k")]
    rows = pack(sequences)
    assert len(rows) == 1 and not rows[0].is_causal
    states = vlm.hidden_states(rows, {})
    for number, sequence in enumerate(sequences):
        with torch.inference_mode():
            alone = vlm.language_model(input_ids=torch.tensor([sequence])).last_hidden_state[0]
        assert torch.allclose(states[0, rows[0].paths[number]], alone, atol=1e-4)


@pytest.mark.parametrize("kind, settings, packs", [
    ("llama", {}, True),
    ("mistral", {"sliding_window": 2048}, True),  # as wide as the context
    ("mistral", {"sliding_window": 2047}, False),
    ("phi3", {"sliding_window": 2047}, False),
    ("qwen2", {"sliding_window": 12}, True),  # which its use_sliding_window turns off
    ("gemma3_text", {}, False),
    ("cohere2", {}, False),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, False),
    ("bloom", {}, False),
    ("mamba", {}, False),
])  # fmt: skip
def test_which_decoders_pack(kind: str, settings: dict[str, Any], packs: bool) -> None:
    from transformers import AutoConfig

    assert allows_prefix_sharing(AutoConfig.for_model(kind, **settings), 2048) == packs


def test_a_decoder_without_a_list_of_layers_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    parts = processor()
    for part in (on("bloom"), parts.tokenizer, parts.image_processor):
        part.save_pretrained(tmp_path)
    (fault,) = checkpoint_errors(str(tmp_path))
    assert "BloomModel, which is not a decoder with a list of layers" in fault


def test_what_needs_packed_rows_says_which_decoder_has_none(tmp_path: Path) -> None:
    parts = processor()
    for part in (on("mistral", sliding_window=12), parts.tokenizer, parts.image_processor):
        part.save_pretrained(tmp_path)
    with pytest.raises(VrbenchError, match="decoder of type 'mistral' whose prompts cannot share rows"):
        load_llava(resolve_checkpoint(str(tmp_path)), "cpu", "float32")
