"""A loaded model of any family: its parts, and what every way of answering asks of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from vrbench.models import components
from vrbench.models import context_length as context

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from vrbench.models.manner import PromptFormat


class BaseVLM:
    """A model with its tokenizer and image processor; `VLM` and `PlainVLM` answer with it.

    Attributes:
        model, tokenizer, image_processor: from transformers; the image processor is a PIL one on every machine.
        family: model family, such as "llava".
        manner: how it is asked.
        device, dtype: where and in what type the weights are.
        code: versions of the code that made its weights and asks it, as `vrbench.core.versions.of_model` has them.
        has_adapter: whether PEFT had a part in its weights.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, image_processor: Any, family: str, manner: PromptFormat
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.family = family
        self.manner = manner
        weight = next(model.parameters())
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self.code: Mapping[str, int] = {}
        self.has_adapter = False
        self._spelled: dict[int, str] = {}

    @property
    def language_model(self) -> Any:
        """The decoder without its head."""
        return components.decoder(self.model)

    @property
    def decoder_layers(self) -> torch.nn.ModuleList:
        """The decoder's layers: the module list itself."""
        return components.decoder_layers(self.model)

    @property
    def projector(self) -> torch.nn.Module:
        """Vision features to the decoder's width; a list of modules where a family has several (Qwen3-VL)."""
        parts = components.projector(self.model)
        return parts[0] if len(parts) == 1 else torch.nn.ModuleList(parts)

    @property
    def vision_tower(self) -> torch.nn.Module:
        """Pixels to vision features."""
        return components.vision_tower(self.model)

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self.decoder_layers)

    @property
    def image_processor_name(self) -> str:
        """Class of the image processor, for the record."""
        return type(self.image_processor).__name__

    @property
    def image_settings(self) -> dict[str, Any]:
        """What decides the pixels that the model gets of an image: class and settings of the image processor."""
        settings = {k: v for k, v in self.image_processor.to_dict().items() if not k.startswith("_")}
        return {"class": self.image_processor_name, **settings}

    @property
    def text_config(self) -> Any:
        """The decoder's part of the config."""
        return self.model.config.get_text_config()

    @cached_property
    def context_length(self) -> int:
        """Most tokens of a text, as lm-eval finds it; see `context.text_context`."""
        return context.text_context(self.text_config, self.model.config, self.tokenizer)

    @cached_property
    def full_context(self) -> int:
        """Most tokens of a prompt with images; see `context.full_context`."""
        return context.full_context(self.text_config, self.model.config, self.tokenizer)

    @property
    def shared_length(self) -> float:
        """Tokens up to which the prompts of a batch leave each other's positions alone.

        LongRoPE and dynamic scaling take other rotary frequencies for all of a batch as soon as one of it is longer.
        """
        rope = getattr(self.text_config, "rope_parameters", None) or {}
        if rope.get("rope_type") not in ("longrope", "dynamic"):
            return math.inf
        trained = rope.get("original_max_position_embeddings") or self.text_config.max_position_embeddings
        return int(trained)

    @cached_property
    def end_of_text(self) -> int:
        """Id of the token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids of the tokens that end an answer: those of the generation config, and the tokenizer's end of text."""
        stated = self.model.generation_config.eos_token_id
        return frozenset({self.end_of_text, *([stated] if isinstance(stated, int) else stated or ())})

    def prompt(self, text: str, n_images: int = 0) -> str:
        """The whole prompt of one question about some pictures."""
        raise NotImplementedError

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt without images."""
        raise NotImplementedError

    def spelled(self, token: int) -> str:
        """The text of one token; U+FFFD stands where it is a part of a character."""
        if token not in self._spelled:
            self._spelled[token] = str(self.tokenizer.decode([token]))
        return self._spelled[token]
