"""A question as the prompt of a checkpoint, from its tokenizer and processor alone: no weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.families import family_of
from vrbench.checkpoints.prompts import starts_with_bos
from vrbench.core.errors import VrbenchError
from vrbench.models.hf_folder import load_tokenizer
from vrbench.models.load import first_folder


@dataclass(frozen=True)
class PromptPreview:
    """A whole prompt.

    Attributes:
        prompt: chat template, question and a mark for each image, which the image's tokens replace.
        special_tokens: those that the tokenizer adds in front; empty where it adds none.
        has_template: whether the prompt is more than the task's text.
    """

    prompt: str
    special_tokens: str
    has_template: bool


def preview_prompt(checkpoint: Checkpoint, text: str, n_images: int | None) -> PromptPreview:
    """Return the prompt that a task's text becomes.

    Args:
        checkpoint: from `vrbench.models.resolve_checkpoint`.
        text: prompt of the task, as its harness builds it.
        n_images: number of images; None for a task of lm-eval, whose text is used without a chat template.

    Raises:
        VrbenchError: tokenizer or processor cannot be read, or the checkpoint needs code of its own.
    """
    if checkpoint.root.code:
        raise VrbenchError(f"{checkpoint.id} needs code of its own; its prompt is known only when it is loaded")
    family = family_of(checkpoint)
    tokenizer, processor = load_tokenizer(first_folder(checkpoint))
    if n_images is None:
        return PromptPreview(text, _added_tokens(tokenizer, text, not starts_with_bos(tokenizer, text)), False)
    prompt = family.prompt_format.prompt(tokenizer if family.prefix_sharing else processor, text, n_images)
    adds = True if family.prefix_sharing else family.prompt_format.add_special_tokens
    if adds is None:
        adds = not starts_with_bos(tokenizer, prompt)
    return PromptPreview(prompt, _added_tokens(tokenizer, prompt, adds), True)


def _added_tokens(tokenizer: Any, prompt: str, add_special_tokens: bool) -> str:
    whole = list(tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"])
    bare = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return "".join(tokenizer.convert_ids_to_tokens(whole[: len(whole) - len(bare)]))
