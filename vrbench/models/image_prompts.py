"""Prompts with images, as the families' own processors make them: token ids, pixels and positions.

`FAMILIES_IN_SLOTS` holds what differs between families whose answers are generated in slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask")
"""Inputs with a column for each token; all others are of images."""

Size = tuple[int, int]
"""Width and height of an image."""

Positions = Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor]
"""Transformers' model and the inputs of one prompt -> the decoder's positions, [axes, 1, tokens]."""


def in_order(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the number of each token."""
    return torch.arange(inputs["input_ids"].shape[1])[None, None]


def in_three_axes(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return time, row and column of each token: an image counts for as many positions as its longer side has."""
    found: torch.Tensor = model.model.get_rope_index(
        inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
    )[0]
    return found


ImageTokens = Callable[[Any, Size, Mapping[str, Any]], int]
"""Processor, size of an image, overridden settings of the image processor -> the tokens that depend on the size."""


def merged_patches(processor: Any, size: Size, settings: Mapping[str, Any]) -> int:
    """Return Qwen's tokens of an image: blocks of patches after resizing."""
    limits = settings.get("size", {})
    pixels = {"min_pixels": limits.get("shortest_edge"), "max_pixels": limits.get("longest_edge")} if limits else {}
    own, (width, height) = processor.image_processor, size
    return int(own.get_number_of_image_patches(height, width, pixels) // own.merge_size**2)


def tile_tokens(processor: Any, size: Size, settings: Mapping[str, Any]) -> int:
    """Return InternVL's tokens of an image: as many for each tile that it is cut into."""
    width, height = size
    cut = {"crop_to_patches": True, **settings}
    return int(processor.image_processor.get_number_of_image_patches(height, width, cut) * processor.image_seq_length)


@dataclass(frozen=True)
class SlotFamily:
    """What differs between families whose answers are generated in slots.

    Attributes:
        positions: of a prompt's tokens.
        image_tokens: of an image by its size; None where only the processor knows, which then makes a blank image.
    """

    positions: Positions = in_order
    image_tokens: ImageTokens | None = None


FAMILIES_IN_SLOTS: dict[str, SlotFamily] = {
    "idefics3": SlotFamily(),
    "internvl": SlotFamily(image_tokens=tile_tokens),
    "llava_next": SlotFamily(),
    "llava_onevision": SlotFamily(),
    "mistral3": SlotFamily(),
    "qwen2_5_vl": SlotFamily(in_three_axes, merged_patches),
    "qwen3_vl": SlotFamily(in_three_axes, merged_patches),
    "smolvlm": SlotFamily(),
}
"""Families whose forward pass over a prompt leaves all that a decoding step needs in its keys and values."""


@dataclass(frozen=True)
class ImagePrompt:
    """One prompt with its images, on the CPU.

    Attributes:
        tokens: ids, with those of images as the family writes them.
        pixels: what the model reads of the images, under its names for them.
        positions: of the tokens, [axes, 1, tokens].
        shared: tokens up to the end of the last image, which prompts with the same images and the same text up to
            there have too; 0 where that was not found to be so.
    """

    tokens: list[int]
    pixels: Mapping[str, torch.Tensor]
    positions: torch.Tensor
    shared: int

    @property
    def offset(self) -> int:
        """What is added to the number of a token behind the prompt for its position."""
        return int(self.positions.max()) + 1 - len(self.tokens)


def image_prompt(model: Any, inputs: Mapping[str, torch.Tensor], family: str, question: Sequence[int]) -> ImagePrompt:
    """Return a prompt of its model's inputs, [1, tokens] and pixels.

    Args:
        question: token ids of the text behind the last image.
    """
    pixels = {name: value for name, value in inputs.items() if name not in OF_TOKENS}
    tokens = inputs["input_ids"][0].tolist()
    shared = len(tokens) - len(question) if question and tokens[-len(question) :] == list(question) else 0
    return ImagePrompt(tokens, pixels, FAMILIES_IN_SLOTS[family].positions(model, inputs), shared)


def batch_inputs(prompts: Sequence[ImagePrompt]) -> dict[str, torch.Tensor]:
    """Return the model's inputs for some prompts, padded on the right: causal attention does not look there."""
    longest = max(len(prompt.tokens) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    positions = torch.zeros(len(prompts[0].positions), *ids.shape, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.tokens)] = torch.tensor(prompt.tokens)
        positions[:, row, : len(prompt.tokens)] = prompt.positions[:, 0]
    inputs = {"input_ids": ids} | ({"position_ids": positions} if len(positions) > 1 else {})
    return inputs | {name: _joined([prompt.pixels[name] for prompt in prompts]) for name in prompts[0].pixels}


def padded_inputs(prompts: Sequence[Mapping[str, torch.Tensor]], padding: int) -> dict[str, torch.Tensor]:
    """Return the inputs of some prompts, [1, tokens] and pixels, as a batch padded on the left, as processors do it."""
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)
    found = {}
    for name in prompts[0]:
        parts = [prompt[name] for prompt in prompts]
        if name in OF_TOKENS:
            token = padding if name == "input_ids" else 0
            missing = [part.new_full((1, longest - part.shape[1], *part.shape[2:]), token) for part in parts]
            parts = [torch.cat(pair, dim=1) for pair in zip(missing, parts, strict=True)]
        found[name] = _joined(parts)
    return found


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join tensors along their first dimension; the others are padded with zeros, as the processors pad images."""
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    joined = parts[0].new_zeros(sum(len(part) for part in parts), *shape)
    start = 0
    for part in parts:
        joined[(slice(start, start + len(part)), *(slice(size) for size in part.shape[1:]))] = part
        start += len(part)
    return joined
