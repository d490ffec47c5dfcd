"""A question as the prompt of a checkpoint, from its tokenizer and processor alone: no weight is loaded."""

from __future__ import annotations

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.families import family_of
from vrbench.checkpoints.prompts import starts_with_bos
from vrbench.core.errors import VrbenchError
from vrbench.models.hf_folder import load_tokenizer
from vrbench.models.load import first_folder, with_template


def preview_prompt(checkpoint: Checkpoint, text: str, n_images: int | None) -> tuple[str, str]:
    """Return the prompt for a task's text, and the special tokens that the tokenizer adds in front of it.

    Args:
        checkpoint: a valid one.
        text: prompt of the task, as its harness builds it.
        n_images: number of images; None for a task of lm-eval, whose text is used without a chat template.

    Raises:
        VrbenchError: tokenizer or processor cannot be read, or the checkpoint needs code of its own.
    """
    if checkpoint.root.code:
        raise VrbenchError(f"{checkpoint.id} needs code of its own; its prompt is known only when it is loaded")
    family = family_of(checkpoint)
    tokenizer, processor = load_tokenizer(first_folder(checkpoint))
    tokenizer = with_template(tokenizer, checkpoint)
    adds: bool | None = None
    if n_images is not None:
        text = family.prompt_format.prompt(tokenizer if family.prefix_sharing else processor, text, n_images)
        adds = family.prefix_sharing or family.prompt_format.add_special_tokens
    if adds is None:
        adds = not starts_with_bos(tokenizer, text)
    whole = tokenizer(text, add_special_tokens=adds)["input_ids"]
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text, "".join(tokenizer.convert_ids_to_tokens(whole[: len(whole) - len(bare)]))
