"""A loaded vision-language model of any family: its components, and what every inference backend needs of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from vrbench.checkpoints.families import PromptFormat
from vrbench.core.device import device_name
from vrbench.core.errors import VrbenchError
from vrbench.core.provenance import VLLM, VRBENCH
from vrbench.models import components, context_length, packed_inference, placement
from vrbench.models.kv_cache import Prefixes, Sink
from vrbench.models.packing import PackedSequence

if TYPE_CHECKING:
    from vrbench.models.vllm_engine import VllmEngine


class BaseVLM:
    """A model with its tokenizer and image processor; `LlavaModel` and `HFModel` answer with it.

    Attributes:
        model, tokenizer, image_processor: from transformers; the image processor is a PIL one on every machine.
        family: model family, such as "llava".
        prompt_format: how it is prompted, and where its answers end.
        device: of inputs and results, and of the weights if the model is on one device.
        dtype: of the weights.
        code: versions of the code that makes its weights and answers, as `code_versions` of its checkpoint has them.
        has_adapter: whether PEFT was used to make its weights.
        tower_origin: digest of the checkpoint, it or one below it, that has its vision tower; "" where it is not known.
        prompts_digest: sha256 over the files that determine its prompts and their tokens; "" where they are not known.
        vllm: what answers in place of the weights, which are then not loaded (`load_without_weights`).
    """

    def __init__(
        self, model: Any, tokenizer: Any, image_processor: Any, family: str, prompt_format: PromptFormat
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.family = family
        self.prompt_format = prompt_format
        self.device = placement.main_device(model)
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.code: Mapping[str, int] = {}
        self.has_adapter = False
        self.tower_origin = self.prompts_digest = ""
        self.vllm: VllmEngine | None = None
        self._token_texts: dict[int, str] = {}

    @property
    def backend(self) -> str:
        """What computes its answers, a key of `provenance.BACKEND_PACKAGES`."""
        return VRBENCH if self.vllm is None else VLLM

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether the decoder allows packed rows; see `packed_inference.allows_prefix_sharing`."""
        longest = max(self.context_length, self.full_context)
        is_causal = not self.prompt_format.prefix_lm
        return is_causal and packed_inference.allows_prefix_sharing(self.text_config, longest)

    @property
    def device_name(self) -> str:
        """The GPU's or the processor's name, and how the model is spread over several, for the record."""
        return ", ".join(filter(None, [device_name(self.device), placement.describe(self.model)]))

    @property
    def image_tokens(self) -> int:
        """Tokens of an image in a packed row; 0 where rows hold no images."""
        return 0

    @property
    def image_token(self) -> int:
        """Id of the placeholder in a prompt for each of these tokens."""
        raise NotImplementedError

    @property
    def language_model(self) -> Any:
        """The decoder without its head."""
        return components.decoder(self.model)

    @property
    def decoder_layers(self) -> torch.nn.ModuleList:
        """The decoder's layers: the module list itself."""
        return components.decoder_layers(self.model)

    @property
    def head(self) -> Any:
        """The linear from hidden states to logits."""
        return self.model.get_output_embeddings()

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
        """Class and settings of the image processor, which determine the pixels that the model reads."""
        settings = {k: v for k, v in self.image_processor.to_dict().items() if not k.startswith("_")}
        return {"class": self.image_processor_name, **settings}

    @property
    def text_config(self) -> Any:
        """The decoder's part of the config."""
        return self.model.config.get_text_config()

    @cached_property
    def context_length(self) -> int:
        """Most tokens of a text; see `context_length.text_context`."""
        return context_length.text_context(self.text_config, self.model.config, self.tokenizer)

    @cached_property
    def full_context(self) -> int:
        """Most tokens of a prompt with images; see `context_length.full_context`."""
        return context_length.full_context(self.text_config, self.model.config, self.tokenizer)

    @property
    def max_batch_length(self) -> float:
        """Most tokens of prompts in one batch of several; a longer prompt needs a batch of its own.

        LongRoPE and dynamic scaling use other rotary frequencies for a whole batch as soon as one prompt is longer.
        """
        rope = getattr(self.text_config, "rope_parameters", None) or {}
        if rope.get("rope_type") not in ("longrope", "dynamic"):
            return math.inf
        return int(rope.get("original_max_position_embeddings") or self.text_config.max_position_embeddings)

    @cached_property
    def eos_token_id(self) -> int:
        """The tokenizer's token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer: those of the generation config, and the tokenizer's end of text."""
        stated = self.model.generation_config.eos_token_id
        return frozenset({self.eos_token_id, *([stated] if isinstance(stated, int) else stated or ())})

    @torch.inference_mode()
    def hidden_states(
        self,
        rows: Sequence[PackedSequence],
        images: Mapping[int, torch.Tensor],
        sink: Sink | None = None,
        kept: Prefixes | None = None,
    ) -> torch.Tensor:
        """Return the last hidden states of packed rows without gradients; see `packed_inference.hidden_states`."""
        return packed_inference.hidden_states(self, rows, images, sink, kept)

    def prompt(self, text: str, n_images: int = 0) -> str:
        """Return the whole prompt of one question about some images."""
        raise NotImplementedError

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt without images."""
        raise NotImplementedError

    def encode_with_placeholders(self, prompt: str, n_images: int) -> list[int]:
        """Return the token ids of a prompt with one placeholder token for each image, however many tokens it has.

        Raises:
            VrbenchError: the prompt has more or fewer image placeholders than there are images.
        """
        ids = self._tokens_of_image_prompt(prompt)
        found = ids.count(self.image_token)
        if found != n_images:
            raise VrbenchError(f"a prompt has {found} image placeholders for {n_images} images")
        return ids

    def _tokens_of_image_prompt(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt with images, special tokens added, image placeholders as they are."""
        raise NotImplementedError

    def token_text(self, token: int) -> str:
        """Return the text of one token; U+FFFD stands for a part of a character."""
        if token not in self._token_texts:
            self._token_texts[token] = str(self.tokenizer.decode([token]))
        return self._token_texts[token]
