"""Whole prompts with pictures as a model's inputs, made by the family's own processor; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vrbench.models.manner import PromptFormat


class ImagesRefused(VrbenchError):
    """The family's image processor cannot take images of these sizes; every other image it can."""


NO_INPUT = ("labels", "num_crops")
"""What processors give beside a model's inputs."""


def encode_with_images(
    processor: Any,
    manner: PromptFormat,
    prompts: Sequence[str],
    pictures: Sequence[Sequence[Image]],
    family: str,
    side: str = "left",
) -> dict[str, Tensor]:
    """The inputs for prompts that each have pictures, on the CPU: token ids [prompts, longest] and pixels.

    Args:
        processor: of the family.
        manner: how the family is asked.
        prompts: whole ones; all begin with the tokenizer's beginning of text, or none.
        pictures: of each prompt.
        family: for what is told of a fault.
        side: where shorter prompts are padded.

    Raises:
        ImagesRefused: the image processor takes no images of these sizes.
        VrbenchError: a prompt does not have a mark for each of its pictures.
    """
    given = manner.special_tokens
    shown: list[Any] = [[picture.convert("RGB") for picture in of] for of in pictures]
    try:
        inputs = processor(
            text=list(prompts),
            images=[picture for of in shown for picture in of] if manner.flat else shown,
            padding=True,
            padding_side=side,
            return_tensors="pt",
            add_special_tokens=not starts_with_bos(processor.tokenizer, prompts[0]) if given is None else given,
            images_kwargs=dict(manner.pictures),
        )
    except (ValueError, ArithmeticError) as error:
        _raise_refused(processor.image_processor, manner, shown, family)
        raise VrbenchError(f"the processor of {family} refuses a prompt: {error}") from error
    return {name: value for name, value in inputs.items() if name not in NO_INPUT}


def _raise_refused(image_processor: Any, manner: PromptFormat, images: Sequence[Sequence[Image]], family: str) -> None:
    """Raise `ImagesRefused` if an image is refused by the image processor alone, whatever the prompt.

    Each limit is transformers' own: Qwen's image processors refuse an aspect ratio above 200, Pixtral's one that leaves
    no pixel of the shorter side when the longer is scaled to the longest allowed.
    """
    for image in (image for of in images for image in of):
        try:
            image_processor(images=[image], return_tensors="pt", **manner.pictures)
        except (ValueError, ArithmeticError) as error:
            size, reason = f"{image.width} x {image.height}", " ".join(str(error).split())
            raise ImagesRefused(f"the image processor of {family} refuses an image of {size}: {reason}") from error


def starts_with_bos(tokenizer: Any, prompt: str) -> bool:
    """Whether a prompt has its beginning-of-text token already, as chat templates write it."""
    first = tokenizer.bos_token
    return bool(first) and prompt.startswith(first)
