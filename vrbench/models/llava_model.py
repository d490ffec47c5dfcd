"""A LLaVA whose prompts share prefixes: images -> features; packed rows of tokens -> log-likelihoods or hidden states.

Wraps transformers' `LlavaForConditionalGeneration`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from vrbench.checkpoints.families import FAMILIES, PromptFormat
from vrbench.checkpoints.prompts import IMAGE
from vrbench.core.errors import VrbenchError
from vrbench.models import packed_inference
from vrbench.models.base_vlm import BaseVLM
from vrbench.models.packing import PackedSequence
from vrbench.models.vision_kernels import full_float32

if TYPE_CHECKING:
    from PIL.Image import Image


class LlavaModel(BaseVLM):
    """A loaded LLaVA that answers packed rows, as `packed_inference.allows_prefix_sharing` has to permit."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        family: str = "llava",
        prompt_format: PromptFormat | None = None,
    ) -> None:
        super().__init__(model, tokenizer, image_processor, family, prompt_format or FAMILIES[family].prompt_format)

    @cached_property
    def tower_digest(self) -> str:
        """sha256 over all that determines an image's features; checkpoints with the same digest share the features."""
        config = self.model.config
        layer = (config.vision_feature_layer, config.vision_feature_select_strategy)
        shape = {k: v for k, v in config.vision_config.to_dict().items() if not k.startswith("_")}
        processor = {k: v for k, v in self.image_processor.to_dict().items() if not k.startswith("_")}
        settings = [layer, shape, processor, self.image_processor_name, str(self.dtype)]
        total = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.vision_tower.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    @cached_property
    def image_tokens(self) -> int:
        """Tokens of an image in a prompt."""
        from PIL import Image

        return self.encode_images([Image.new("RGB", (32, 32))]).shape[1]

    @property
    def image_token(self) -> int:
        """Id of the placeholder token in a prompt for each token of an image."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE))

    def pixels(self, image: Image) -> torch.Tensor:
        """Return what the vision tower reads of an image: [channels, height, width], on the CPU, in its dtype."""
        found: torch.Tensor = self.image_processor(images=[image.convert("RGB")], return_tensors="pt")["pixel_values"]
        return found[0].to(self.dtype)

    def encode_images(self, images: Sequence[Image]) -> torch.Tensor:
        """Return features of images, at the layer that the config names: [n, tokens, width of the tower]."""
        return self.encode_pixels([self.pixels(image) for image in images])

    @torch.inference_mode()
    def encode_pixels(self, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return features [n, tokens, width of the tower] of pixels that `pixels` returned."""
        batch = torch.stack(list(pixels))
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True)
        with full_float32():
            outputs = self.vision_tower(batch, output_hidden_states=True, return_dict=True)
        layers = self.model.config.vision_feature_layer
        chosen = [outputs.hidden_states[i] for i in ([layers] if isinstance(layers, int) else layers)]
        if self.model.config.vision_feature_select_strategy == "default":
            chosen = [hidden[:, 1:] for hidden in chosen]  # the first token is the tower's class token
        return torch.cat(chosen, dim=-1)

    @torch.inference_mode()
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, tokens, width of the tower] to decoder inputs, [n, tokens, hidden]."""
        return self.projector(features.to(self.device, self.dtype))

    def prompt(self, text: str, n_images: int = 0) -> str:
        """Return the whole prompt of one question about some images."""
        return self.prompt_format.prompt(self.tokenizer, text, n_images)

    def encode(self, prompt: str, slots: Sequence[int] = ()) -> list[int]:
        """Return the token ids of a prompt; token j of the image in slot s is -1 - (s * image_tokens + j).

        Args:
            prompt: text with one image placeholder for each image.
            slots: number of each image, in the order of the marks.

        Raises:
            VrbenchError: the prompt has more or fewer image placeholders than there are images.
        """
        if not slots:
            return list(self.tokenizer(prompt)["input_ids"])
        ids = self.tokenizer(prompt.replace(IMAGE, IMAGE * self.image_tokens))["input_ids"]
        mark = self.image_token
        if ids.count(mark) != len(slots) * self.image_tokens:
            found = ids.count(mark) // self.image_tokens
            raise VrbenchError(f"a prompt has {found} image placeholders ({IMAGE}) for {len(slots)} images")
        parts = iter([-1 - (s * self.image_tokens + j) for s in slots for j in range(self.image_tokens)])
        return [next(parts) if i == mark else i for i in ids]

    def _tokens_of_image_prompt(self, prompt: str) -> list[int]:
        return list(self.tokenizer(prompt)["input_ids"])

    def hidden_states_with_grad(
        self, rows: Sequence[PackedSequence], images: Mapping[int, torch.Tensor]
    ) -> torch.Tensor:
        """Return the last hidden states of packed rows; see `packed_inference.hidden_states`."""
        return packed_inference.hidden_states(self, rows, images)
