"""The model families that can be loaded: one file each where needed, one entry here (no torch until one is used)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.models import folders, llava, prompts, remote

if TYPE_CHECKING:
    from vrbench.checkpoint import Checkpoint
    from vrbench.models.loaded import LoadedModel


@dataclass(frozen=True)
class Manner:
    """How a family is asked the plain way.

    Attributes:
        prompt: (processor, text, number of pictures) -> the whole prompt of a question, or a conversation.
        special_tokens: whether the tokenizer adds its own to a prompt with pictures; by default if the prompt does not
            begin with one.
        pictures: settings of the image processor, as lmms-eval's model class gives them.
        flat: whether pictures are given to the processor without saying which of them belong together.
        prefix: whether the decoder reads a prompt both ways, and has to be told by token types what follows it.
    """

    prompt: prompts.Prompt
    special_tokens: bool | None = None
    pictures: Mapping[str, Any] = field(default_factory=dict)
    flat: bool = False
    prefix: bool = False


@dataclass(frozen=True)
class Family:
    """How a folder of one kind is judged and loaded.

    Attributes:
        faults: folder -> why its weights are not those of the model that its config.json describes; loads none.
        load: (folder, torch dtype) -> (model, tokenizer, and image processor or whole processor), every weight read
            from the folder.
        manner: how it is asked the plain way; none for a family whose prompts are packed (`VLM`) where its decoder
            allows it (`vrbench.models.unpacked`).
        version: raised by one whenever its prompt, stop rule, image settings or way of answering change what it
            answers to some question (see `vrbench.versions`); older answers and runs are then not used again.
    """

    faults: Callable[[Path], list[str]]
    load: Callable[[Path, Any], tuple[Any, Any, Any]]
    manner: Manner | None = None
    version: int = 1


QWEN_PIXELS = {"size": {"shortest_edge": 256 * 28 * 28, "longest_edge": 1605632}}
"""Fewest and most pixels of a picture, as lmms-eval's classes for Qwen2.5-VL and Qwen3-VL set them."""


def _plain(manner: Manner, version: int = 1) -> Family:
    return Family(folders.faults, folders.load, manner, version)


FAMILIES: dict[str, Family] = {
    "llava": Family(llava.faults, llava.load),
    "llava_next": _plain(Manner(prompts.llava, special_tokens=True)),
    "llava_onevision": _plain(Manner(prompts.llava, special_tokens=True, flat=True)),
    "qwen2_5_vl": _plain(Manner(prompts.qwen, pictures=QWEN_PIXELS)),
    "qwen3_vl": _plain(Manner(prompts.qwen, pictures=QWEN_PIXELS)),
    "smolvlm": _plain(Manner(prompts.chat)),
    "idefics3": _plain(Manner(prompts.chat)),
    "internvl": _plain(Manner(prompts.chat, pictures={"min_patches": 1, "max_patches": 12})),
    "gemma3": _plain(Manner(prompts.gemma)),
    "paligemma": _plain(Manner(prompts.paligemma, prefix=True)),
    "mistral3": _plain(Manner(prompts.mistral, special_tokens=True)),
    "mllama": _plain(Manner(prompts.mllama, special_tokens=False)),
}
"""Model type, as config.json says it -> family."""

REFUSED: dict[str, str] = {
    "qwen3_vl_moe": "its layers choose among experts (MoE), so that a layer is not one thing to tune or remove",
    "gemma3n": "its decoder layers share keys and values, so that none can be removed without others",
}
"""Model types that are known and cannot be loaded, and why."""


OWN_CODE = Family(lambda folder: remote.judged(folder)[1], remote.load, Manner(prompts.chat))
"""Whatever the code in a folder makes, where the user allowed it to be run."""


def family_of(checkpoint: Checkpoint) -> Family:
    """How a checkpoint without faults is loaded and asked."""
    return OWN_CODE if checkpoint.root.code else FAMILIES[checkpoint.family]


def ready(checkpoint: Checkpoint, model: Any, tokenizer: Any, processor: Any) -> LoadedModel:
    """A model, ready to answer in the way in which its family is asked.

    Args:
        checkpoint: whose model it is.
        model, tokenizer, processor: as its family's `load` gives them.
    """
    from vrbench.models.plain import PlainVLM
    from vrbench.models.unpacked import UnpackedLlava, can_pack
    from vrbench.models.vlm import VLM

    manner, family = family_of(checkpoint).manner, checkpoint.family
    if manner is not None:
        return PlainVLM(model, tokenizer, processor, family, manner)
    packed = VLM(model, tokenizer, processor, family)
    longest = max(packed.context_length, packed.full_context)
    return packed if can_pack(packed.text_config, longest) else UnpackedLlava(packed)
