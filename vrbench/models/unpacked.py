"""LLaVAs whose prompts cannot share rows: which those are, and how they are asked instead."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from vrbench.models.hf_model import HFModel

if TYPE_CHECKING:
    from vrbench.checkpoints.prompts import BuildPrompt
    from vrbench.models.llava_model import LlavaModel

PREFIX_SHARING_DECODERS = (
    "cohere", "gemma", "glm", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3", "stablelm",
)  # fmt: skip
"""Model types of decoders whose tokens see exactly what a packed row's mask says, at the positions that it says."""


def allows_prefix_sharing(text_config: Any, context: int) -> bool:
    """Whether a decoder computes for a prompt in a packed row what it computes for the prompt alone.

    A packed row brings its own dense mask and positions. A window of attention, attention in chunks or states that
    pass from token to token would be lost on it, and rotary frequencies that follow the longest prompt of a batch
    (LongRoPE, dynamic NTK) would be those of another prompt.

    Args:
        text_config: transformers' config of the decoder.
        context: most tokens of a prompt; a wider window changes nothing.
    """
    kinds = set(getattr(text_config, "layer_types", None) or ["full_attention"])
    window = getattr(text_config, "sliding_window", None) if getattr(text_config, "use_sliding_window", True) else None
    rope = getattr(text_config, "rope_parameters", None) or {}
    return (
        text_config.model_type in PREFIX_SHARING_DECODERS
        and kinds == {"full_attention"}
        and (window is None or window >= context)
        and rope.get("rope_type", "default") not in ("longrope", "dynamic")
    )


def _by_tokenizer(prompt: BuildPrompt, processor: Any, *asked: Any, **more: Any) -> str:
    """A packed family's prompt, which is made by the tokenizer alone."""
    return prompt(processor.tokenizer, *asked, **more)


class PaddedLlava(HFModel):
    """A LLaVA asked the plain way, with the prompts of the packed one.

    Attributes:
        image_tokens: tokens that a picture takes in a prompt.
    """

    def __init__(self, packed: LlavaModel) -> None:
        from transformers import LlavaProcessor

        self.image_tokens = packed.image_tokens
        # LlavaProcessor counts a picture's tokens in patches of its pixels; here the vision tower has counted them.
        processor = LlavaProcessor(
            packed.image_processor, packed.tokenizer, patch_size=1 << 30, vision_feature_select_strategy="full",
            num_additional_image_tokens=self.image_tokens,
        )  # fmt: skip
        manner = replace(packed.manner, prompt=partial(_by_tokenizer, packed.manner.prompt), special_tokens=True)
        super().__init__(packed.model, packed.tokenizer, processor, packed.family, manner)
