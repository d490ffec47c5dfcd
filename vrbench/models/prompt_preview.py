"""A question as a checkpoint's model is given it, from its tokenizer and processor alone: no weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vrbench.checkpoints.families import family_of
from vrbench.checkpoints.resolve import Checkpoint
from vrbench.core.errors import VrbenchError
from vrbench.models import hf_folder, llava
from vrbench.models.inputs import starts_with_bos
from vrbench.models.load import first_folder


@dataclass(frozen=True)
class PromptPreview:
    """A whole prompt.

    Attributes:
        prompt: chat template, question and a mark for each image, in whose place the image's tokens are put.
        front: the special tokens that the tokenizer puts in front of it; empty where it puts none.
        templated: whether the prompt is more than the task's text.
    """

    prompt: str
    front: str
    templated: bool


def preview_prompt(checkpoint: Checkpoint, text: str, images: int | None) -> PromptPreview:
    """What a task's text becomes.

    Args:
        checkpoint: from `vrbench.checkpoints.resolve.resolve`.
        text: prompt of the task, as its harness makes it.
        images: their number; none for a task of lm-eval, whose text is given without a chat template.

    Raises:
        VrbenchError: tokenizer or processor cannot be read, or the checkpoint brings code of its own.
    """
    if checkpoint.root.code:
        raise VrbenchError(f"{checkpoint.id} brings code of its own; how it is asked is known only when it is loaded")
    family, folder = family_of(checkpoint), first_folder(checkpoint)
    tokenizer, processor = (llava if family.packed else hf_folder).readers(folder)
    if images is None:
        return PromptPreview(text, _front(tokenizer, text, not starts_with_bos(tokenizer, text)), False)
    manner = family.manner
    prompt = manner.prompt(tokenizer if family.packed else processor, text, images)
    adds = True if family.packed else manner.special_tokens
    return PromptPreview(
        prompt, _front(tokenizer, prompt, not starts_with_bos(tokenizer, prompt) if adds is None else adds), True
    )


def _front(tokenizer: Any, prompt: str, adds: bool) -> str:
    whole = list(tokenizer(prompt, add_special_tokens=adds)["input_ids"])
    bare = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return "".join(tokenizer.convert_ids_to_tokens(whole[: len(whole) - len(bare)]))
