"""Prompts are those that lmms-eval's own model classes hand to the same processor."""

from __future__ import annotations

import copy
import importlib
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from tests import tiny_families
from tests.engine.made import noise
from vrbench import checkpoint
from vrbench.errors import VrbenchError
from vrbench.models import prompts
from vrbench.models.load import load_vlm
from vrbench.models.plain import PlainVLM

FEWEST, MOST = 256 * 28 * 28, 1605632
"""Pixels of a picture, as lmms-eval's Qwen classes have them by default."""

QUESTION = "Is it red?\nAnswer yes or no."
CLASSES = {
    "llava_next": ("chat.llava_hf", "LlavaHf"),
    "llava_onevision": ("chat.llava_hf", "LlavaHf"),
    "qwen2_5_vl": ("simple.qwen2_5_vl", "Qwen2_5_VL"),
    "qwen3_vl": ("simple.qwen3_vl", "Qwen3_VL"),
    "internvl": ("chat.internvl_hf", "InternVLHf"),
    "gemma3": ("simple.gemma3", "Gemma3"),
    "mistral3": ("simple.mistral3_vl", "Mistral3_VL"),
    "mllama": ("simple.llama_vision", "LlamaVision"),
}
FOR_VIDEOS = {
    "gemma3": ("av",),
    "mllama": ("decord", "torchvision", "torchvision.transforms", "torchvision.transforms.functional"),
}
"""What those modules import for videos, which none is shown here; a light installation is without it."""


class Asked:
    """Stands in for a model: keeps what it is given."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def generate(self, **given: Any) -> torch.Tensor:
        self.given = given
        return given["input_ids"]


def lmms_class(family: str) -> Any:
    """A family's model class in lmms-eval, with stand-ins for what it imports for videos."""
    from transformers import AutoProcessor, MllamaForConditionalGeneration  # noqa: F401  before the stand-ins

    place, name = CLASSES[family]
    with pytest.MonkeyPatch.context() as patch:
        for module in FOR_VIDEOS.get(family, ()):
            made = MagicMock()
            made.__spec__ = ModuleSpec(module, None)
            patch.setitem(sys.modules, module, made)
        return getattr(importlib.import_module(f"lmms_eval.models.{place}"), name)


def handed_over(vlm: PlainVLM, text: str, shown: list[Any], patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the family's class in lmms-eval gives to the model for one question."""
    from lmms_eval.api.instance import Instance

    kind = lmms_class(vlm.family)
    model = kind.__new__(kind)
    asked = Asked()
    accelerator = SimpleNamespace(is_main_process=False, is_local_main_process=False, unwrap_model=lambda m: m)
    pixels = {"min_pixels": FEWEST, "max_pixels": MOST, "total_pixels": None, "enable_thinking": None}
    settings = {
        "_model": asked, "accelerator": accelerator, "_rank": 0, "_world_size": 1, "batch_size_per_gpu": 1,
        "_device": torch.device("cpu"), "device_map": "cpu", "use_cache": True, "_tokenizer": vlm.tokenizer,
        "processor": copy.deepcopy(vlm.processor), "_processor": vlm.processor, "_image_processor": vlm.processor,
        "task_dict": {"t": {"s": [{}]}}, "_config": SimpleNamespace(), "fps": None, "max_num_frames": 32,
        "system_prompt": "You are a helpful assistant.", "reasoning_prompt": None, "interleave_visuals": False,
        "min_patches": 1, "max_patches": 12, "num_frames": 32, "temperature": 0.0, "disable_thinking": False,
        "cache_hook": SimpleNamespace(add_partial=lambda *_: None), "max_frames_num": 32, "nframes": 32, **pixels,
    }  # fmt: skip
    for name, value in settings.items():
        object.__setattr__(model, name, value)
    module = sys.modules[kind.__module__]
    if hasattr(module, "process_vision_info"):
        _stand_in_for_qwen_vl_utils(module, settings["processor"], patch)
    content = [*({"type": "image", "url": picture} for picture in shown), {"type": "text", "text": text}]
    task = ({"max_new_tokens": 4}, lambda _: shown) if kind.is_simple else (
        lambda _: [{"role": "user", "content": content}], {"max_new_tokens": 4})  # fmt: skip
    arguments = (text, *task, 0, "t", "s")
    where = {"task": "t", "doc_id": 0, "repeats": 1}
    model.generate_until([Instance("generate_until", arguments, 0, where)])
    return asked.given


def _stand_in_for_qwen_vl_utils(module: Any, processor: Any, patch: pytest.MonkeyPatch) -> None:
    """That package, which resizes pictures within the limits of the messages; the processor has the same limits."""
    from transformers.image_utils import SizeDict
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    pixels = processor.image_processor
    pixels.size = SizeDict(shortest_edge=FEWEST, longest_edge=MOST)
    side = pixels.patch_size * pixels.merge_size

    def process_vision_info(batch: Any, **more: Any) -> Any:
        parts = [p for messages in batch for m in messages for p in m["content"] if isinstance(p, dict)]
        shown = [p["image"] for p in parts if p["type"] == "image"]
        sizes = [smart_resize(p.height, p.width, side, FEWEST, MOST) for p in shown]
        resized = [p.resize((w, h)) for p, (h, w) in zip(shown, sizes, strict=True)]
        return (resized, None, {}) if more else (resized, None)

    patch.setattr(module, "process_vision_info", process_vision_info)
    patch.setattr(module, "encode_image_to_data_url", lambda picture, **_: picture, raising=False)


@pytest.fixture(scope="module", params=list(CLASSES))
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PlainVLM:
    folder = tiny_families.save(request.param, tmp_path_factory.mktemp("prompts") / request.param)
    found = load_vlm(checkpoint.resolve(str(folder)))
    assert isinstance(found, PlainVLM)
    return found


@pytest.mark.parametrize("pictures", [1, 2])
def test_the_model_is_given_what_lmms_eval_gives_it(
    vlm: PlainVLM, pictures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [noise(f"{i}") for i in range(pictures)]
    theirs = handed_over(vlm, QUESTION, shown, monkeypatch)
    ours = vlm.pictured([vlm.prompt(QUESTION, pictures)], [shown])
    assert ours["input_ids"].tolist() == [theirs["input_ids"][theirs["attention_mask"] == 1].tolist()]
    assert ours["pixel_values"].shape == theirs["pixel_values"].shape
    if vlm.family != "gemma3":  # lmms-eval makes JPEGs of its pictures
        assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


def test_texts_without_pictures_have_no_marks(vlm: PlainVLM) -> None:
    ids = vlm.encode(vlm.prompt(QUESTION))
    assert QUESTION in vlm.tokenizer.decode(ids)
    assert vlm.processor.tokenizer.convert_tokens_to_ids(vlm.processor.image_token) not in ids
    assert ids.count(vlm.tokenizer.bos_token_id) <= 1


class Template:
    """A processor that shows what its chat template would get."""

    chat_template = "shown"
    image_token = "[IMG]"
    tokenizer = SimpleNamespace(chat_template=None)

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> str:
        return "".join(self._shown(message["content"]) for message in messages)

    def _shown(self, content: Any) -> str:
        return content if isinstance(content, str) else "".join(p.get("text", "[]") for p in content)


def test_pictures_stand_where_the_text_has_their_marks() -> None:
    asked = "Compare <image> with <image>."
    assert prompts.chat(Template(), asked, 2) == "Compare [] with []."
    assert prompts.llava(Template(), asked, 2) == "Compare [] with []."
    assert prompts.chat(Template(), "What?", 2) == "[][]What?"
    assert prompts.chat(Template(), "What is <image>?", 0) == "What is <image>?"


def test_marks_are_taken_out_where_pictures_stand_in_front() -> None:
    asked = "Compare <image> with <image 2>."
    assert prompts.qwen(Template(), asked, 2) == "You are a helpful assistant.[][]Compare  with <image 2>."
    assert prompts.gemma(Template(), asked, 2) == "You are a helpful assistant.[][]Compare  with ."
    assert prompts.paligemma(None, "Is <image> red?", 1) == "<image>Is  red?"
    assert prompts.paligemma(None, "Is it?", 0) == "Is it?\n"


def test_another_number_of_marks_than_of_pictures_is_told() -> None:
    with pytest.raises(VrbenchError, match=r"2 image marks \(<image>\) for 3 pictures"):
        prompts.chat(Template(), "<image> or <image>?", 3)


def test_without_a_template_llava_gets_vicuna_s_prompt_and_the_others_a_fault() -> None:
    bare = SimpleNamespace(chat_template=None, tokenizer=SimpleNamespace(chat_template=None), image_token="[IMG]")
    told = prompts.llava(bare, "Is it red?", 2)
    assert told.endswith("answers to the user's questions. USER: <image> <image>\nIs it red? ASSISTANT:")
    assert prompts.mistral(bare, "Is it red?", 0) == "<s>[INST]Is it red?[/INST]"
    for prompt in (prompts.chat, prompts.qwen, prompts.gemma, prompts.mllama):
        with pytest.raises(VrbenchError, match="no chat template"):
            prompt(bare, "Is it red?", 1)
