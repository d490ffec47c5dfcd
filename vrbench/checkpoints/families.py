"""The model families that can be loaded: one file each where needed, one entry here (no torch until one is used)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints import prompts
from vrbench.checkpoints.image_settings import HARNESS, PAD, padded
from vrbench.models import hf_folder, llava, remote_model
from vrbench.models.manner import PromptFormat, all_but_blank_lines, final_answer

if TYPE_CHECKING:
    from vrbench.checkpoints.resolve import Checkpoint
    from vrbench.models.base_vlm import BaseVLM


@dataclass(frozen=True)
class Family:
    """How a folder of one kind is judged and loaded.

    Attributes:
        faults: folder -> why its weights are not those of the model that its config.json describes; loads none.
        load: (folder, torch dtype) -> (model, tokenizer, and image processor or whole processor), every weight read
            from the folder.
        manner: how it is asked.
        packed: whether its prompts share rows (`LlavaModel`) where the decoder allows it
            (`vrbench.models.unpacked`); else each is asked by itself, the plain way (`HFModel`).
        version: raised by one whenever its prompt, stop rule, image settings or way of answering change what it
            answers to some question (see `vrbench.core.versions`); older answers and runs are then not used again.
    """

    faults: Callable[[Path], list[str]]
    load: Callable[[Path, Any], tuple[Any, Any, Any]]
    manner: PromptFormat
    packed: bool = False
    version: int = 1


QWEN_PIXELS = {"size": {"shortest_edge": 256 * 28 * 28, "longest_edge": 1605632}}
"""Fewest and most pixels of an image, as lmms-eval's classes for Qwen2.5-VL and Qwen3-VL set them."""

TEMPLATE = "the chat template"
WITH_SYSTEM = 'the chat template, after the system message "You are a helpful assistant."'
AT_MARKS = "where the text or the task's messages have them, else in front"
IN_FRONT = "in front; marks in the text are taken out"

ENDS = (
    "an answer also ends at the end tokens of the generation config, not at the tokenizer's alone: what comes after "
    "such a token is no part of an answer"
)
PNG = "images are not converted to JPEG (quality 85) first, since the pixels would then depend on the version of Pillow"
AUDIO = "the class itself fails with transformers 5, which refuses its audio settings; it is compared without them"
PENALTY = (
    "greedy, as every other family, and not sampled at a temperature of 0.6 where a task names none; without the "
    "class's repetition penalty of 1.2, which the checkpoint does not set and makes the question's words less likely"
)


def _plain(manner: PromptFormat, version: int = 2) -> Family:
    return Family(hf_folder.validate, hf_folder.load, manner, version=version)


def _generic(**more: Any) -> PromptFormat:
    """The family has no class of its own in lmms-eval: asked as its class for any model of transformers asks."""
    about = {"follows": "chat.huggingface.Huggingface", "longest": 4096, "written": TEMPLATE, "placed": AT_MARKS}
    return PromptFormat(**{"prompt": prompts.chat, "differs": (ENDS, AUDIO), **about, **more})


FAMILIES: dict[str, Family] = {
    "llava": Family(
        llava.validate,
        llava.load,
        PromptFormat(
            prompts.llava_text,
            "simple.llava_hf.LlavaHf",
            written="the tokenizer's chat template, else the processor's, else Vicuna's conversation",
            placed="where the text has its marks, else in front, one space between, and a new line",
            longest=1024,
            differs=(
                ENDS,
                "a template that lies in the processor's settings alone is used, which the class leaves unread, as its "
                "chat form does: it is the checkpoint's own",
                "a template that reads messages in parts only is given parts, where the class would lose the question",
            ),
        ),
        packed=True,
        version=2,
    ),
    "llava_next": _plain(
        PromptFormat(
            prompts.llava,
            "chat.llava_hf.LlavaHf",
            written="the chat template, else Vicuna's conversation",
            placed=AT_MARKS,
            longest=1024,
            special_tokens=True,
            differs=(ENDS,),
        )
    ),
    "llava_onevision": _plain(
        PromptFormat(
            prompts.llava,
            "chat.llava_hf.LlavaHf",
            written="the chat template, else Vicuna's conversation",
            placed=AT_MARKS,
            longest=1024,
            special_tokens=True,
            flat=True,
            differs=(ENDS,),
        )
    ),
    "qwen2_5_vl": _plain(
        PromptFormat(
            prompts.qwen,
            "simple.qwen2_5_vl.Qwen2_5_VL",
            written=WITH_SYSTEM,
            placed=IN_FRONT,
            longest=32768,
            stops=all_but_blank_lines,
            pictures=QWEN_PIXELS,
            differs=(ENDS, PNG),
        )
    ),
    "qwen3_vl": _plain(
        PromptFormat(
            prompts.qwen,
            "simple.qwen3_vl.Qwen3_VL",
            written=WITH_SYSTEM,
            placed=IN_FRONT,
            longest=128,
            stops=all_but_blank_lines,
            pictures=QWEN_PIXELS,
            differs=(ENDS,),
        )
    ),
    "smolvlm": _plain(_generic()),
    "idefics3": _plain(_generic()),
    "internvl": _plain(
        PromptFormat(
            prompts.chat,
            "chat.internvl_hf.InternVLHf",
            written=TEMPLATE,
            placed=AT_MARKS,
            longest=1024,
            pictures={"min_patches": 1, "max_patches": 12},
            differs=(ENDS,),
        )
    ),
    "gemma3": _plain(
        PromptFormat(
            prompts.gemma,
            "simple.gemma3.Gemma3",
            written=WITH_SYSTEM,
            placed="in front; marks in the text, numbered ones too, are taken out",
            longest=128,
            stops=all_but_blank_lines,
            differs=(PNG,),
        )
    ),
    "paligemma": _plain(
        _generic(
            prompt=prompts.paligemma,
            written="images, text, end of line: it has no chat template",
            placed=IN_FRONT,
            prefix=True,
            differs=("the class cannot ask it, since it has no chat template; stop texts and lengths are the class's",),
        )
    ),
    "mistral3": _plain(
        PromptFormat(
            prompts.mistral,
            "simple.mistral3_vl.Mistral3_VL",
            written="[INST] images, a new line, the text [/INST]; the chat template where there is no image",
            placed='in front; several as "Image 1: ...", each on a line',
            longest=512,
            finish=final_answer,
            special_tokens=True,
            differs=(PENALTY,),
        )
    ),
    "mllama": _plain(
        PromptFormat(
            prompts.mllama,
            "simple.llama_vision.LlamaVision",
            written=TEMPLATE,
            placed="in front of the text as it is",
            longest=1024,
            special_tokens=False,
        )
    ),
}
"""Model type, as config.json says it -> family."""

UNSUPPORTED: dict[str, str] = {
    "qwen3_vl_moe": "its layers choose among experts (MoE), so that a layer is not one thing to tune or remove",
    "gemma3n": "its decoder layers share keys and values, so that none can be removed without others",
}
"""Model types that are known and cannot be loaded, and why."""


REMOTE_CODE = Family(lambda folder: remote_model.validate(folder)[1], remote_model.load, _generic(), version=2)
"""Whatever the code in a folder makes, where the user allowed it to be run."""


def family_of(checkpoint: Checkpoint) -> Family:
    """How a checkpoint without faults is loaded and asked."""
    return REMOTE_CODE if checkpoint.root.code else FAMILIES[checkpoint.family]


def ready(checkpoint: Checkpoint, model: Any, tokenizer: Any, processor: Any, images: str = HARNESS) -> BaseVLM:
    """A model, ready to answer in the way in which its family is asked.

    Args:
        checkpoint: whose model it is.
        model, tokenizer, processor: as its family's `load` gives them.
        images: whose settings of the image processor hold, one of `image_settings.CHOICES`.
    """
    from vrbench.models.hf_model import HFModel
    from vrbench.models.llava_model import LlavaModel
    from vrbench.models.unpacked import PaddedLlava, allows_prefix_sharing

    family, name = family_of(checkpoint), checkpoint.family
    manner = family.manner if images == HARNESS else replace(family.manner, pictures={})
    if not family.packed:
        return HFModel(model, tokenizer, processor, name, manner)
    vlm = LlavaModel(model, tokenizer, padded(processor) if images == PAD else processor, name, manner)
    return (
        vlm if allows_prefix_sharing(vlm.text_config, max(vlm.context_length, vlm.full_context)) else PaddedLlava(vlm)
    )
