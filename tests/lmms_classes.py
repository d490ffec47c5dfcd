"""lmms-eval's own model classes, made without weights, over the processor of a loaded tiny model."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from vrbench.checkpoints.families import FAMILIES
from vrbench.models.base_vlm import BaseVLM

FEWEST, MOST = 256 * 28 * 28, 1605632
"""Pixels of an image, as lmms-eval's Qwen classes have them by default."""

FOR_VIDEOS = {
    "gemma3": ("av",),
    "mllama": ("decord", "torchvision", "torchvision.transforms", "torchvision.transforms.functional"),
}
"""What the classes' modules import for videos, which none is shown here; a light installation is without it."""


class Saying:
    """Stands in for a model: says the same tokens to everything, and keeps what it was given."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self.tokens = list(tokens)
        self.given: dict[str, Any] = {}

    def generate(self, **given: Any) -> torch.Tensor:
        self.given = given
        said, stop = given["input_ids"], given.get("stopping_criteria")
        for token in self.tokens[: given["max_new_tokens"]]:
            said = torch.cat([said, torch.full((len(said), 1), token)], dim=1)
            if stop is not None and bool(stop(said, None).all()):
                break
        return said


class ImagesAlone:
    """A processor without what `huggingface` gives it for videos and audio, which transformers 5 refuses."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, **given: Any) -> Any:
        return self._processor(**{name: value for name, value in given.items() if name not in ("videos", "audios")})


def lmms_class(family: str) -> Any:
    """A family's model class in lmms-eval, with stand-ins for what it imports for videos."""
    from transformers import AutoProcessor, MllamaForConditionalGeneration  # noqa: F401  before the stand-ins

    form, module, name = FAMILIES[family].prompt_format.lmms_class.split(".")
    with pytest.MonkeyPatch.context() as stand_ins:
        for missing in FOR_VIDEOS.get(family, ()):
            made = MagicMock()
            made.__spec__ = ModuleSpec(missing, None)
            stand_ins.setitem(sys.modules, missing, made)
        return getattr(importlib.import_module(f"lmms_eval.models.{form}.{module}"), name)


def answered(
    vlm: BaseVLM, processor: Any, model: Any, text: str, shown: Sequence[Any], settings: Mapping[str, Any]
) -> str:
    """What the family's class in lmms-eval says to one question, whatever stands in for its model.

    Args:
        processor: of the family, which is copied.
        model: has `generate`.
        settings: `generation_kwargs` of a task.
    """
    from lmms_eval.api.instance import Instance

    kind = lmms_class(vlm.family)
    reference = kind.__new__(kind)
    for name, value in _attributes(vlm, copy.deepcopy(processor), model).items():
        object.__setattr__(reference, name, value)
    content = [*({"type": "image", "url": image} for image in shown), {"type": "text", "text": text}]
    asked = (dict(settings), lambda _: list(shown)) if kind.is_simple else (
        lambda _: [{"role": "user", "content": content}], dict(settings))  # fmt: skip
    where = {"task": "t", "doc_id": 0, "repeats": 1}
    with _stand_ins(sys.modules[kind.__module__], reference.processor):
        (said,) = reference.generate_until([Instance("generate_until", (text, *asked, 0, "t", "s"), 0, where)])
    return str(getattr(said, "text", said))


def _attributes(vlm: BaseVLM, processor: Any, model: Any) -> dict[str, Any]:
    """What the classes' constructors set, by their defaults."""
    if "huggingface" in vlm.prompt_format.lmms_class:
        processor = ImagesAlone(processor)
    if vlm.family == "gemma3":
        processor.tokenizer.padding_side = "left"  # as Gemma's own tokenizer has it; the class pads to eights
    accelerator = SimpleNamespace(is_main_process=False, is_local_main_process=False, unwrap_model=lambda m: m)
    pixels = {"min_pixels": FEWEST, "max_pixels": MOST, "total_pixels": None, "enable_thinking": None}
    return {
        "_model": model, "accelerator": accelerator, "_rank": 0, "_world_size": 1, "batch_size_per_gpu": 1,
        "_device": torch.device("cpu"), "device_map": "cpu", "use_cache": True, "_tokenizer": vlm.tokenizer,
        "processor": processor, "_processor": processor, "_image_processor": processor, "chat_template": None,
        "task_dict": {"t": {"s": [{}]}}, "_config": SimpleNamespace(), "fps": None, "max_num_frames": 32,
        "system_prompt": None if "huggingface" in vlm.prompt_format.lmms_class else "You are a helpful assistant.",
        "reasoning_prompt": None, "interleave_visuals": False, "min_patches": 1, "max_patches": 12, "num_frames": 32,
        "temperature": 0.0, "disable_thinking": False, "max_frames_num": 32, "nframes": 32,
        "cache_hook": SimpleNamespace(add_partial=lambda *_: None), **pixels,
    }  # fmt: skip


def of_llava(vlm: Any) -> Any:
    """The whole processor of a loaded LLaVA."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        vlm.image_processor, vlm.tokenizer, patch_size=1 << 30, vision_feature_select_strategy="full",
        num_additional_image_tokens=vlm.image_tokens,
    )  # fmt: skip


@contextmanager
def _stand_ins(module: Any, processor: Any) -> Iterator[None]:
    """qwen_vl_utils, which resizes images within the limits of the messages; and images that stay what they are.

    The classes make JPEGs of some, which is named among what differs.
    """
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(module, "encode_image_to_data_url"):
            encode = module.encode_image_to_data_url
            patch.setattr(module, "encode_image_to_data_url", lambda image, **_: encode(image, image_format="PNG"))
        if hasattr(module, "process_vision_info") and hasattr(processor.image_processor, "merge_size"):
            _resize_as_qwen_vl_utils(module, processor, patch)
        yield


def _resize_as_qwen_vl_utils(module: Any, processor: Any, patch: pytest.MonkeyPatch) -> None:
    """Put its function into the module; the processor gets the same limits."""
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
    patch.setattr(module, "encode_image_to_data_url", lambda image, **_: image, raising=False)
