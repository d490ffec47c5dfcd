"""A LLaVA whose prompts share prefixes: images -> features; packed rows of tokens -> log-likelihoods or hidden states.

Wraps transformers' `LlavaForConditionalGeneration`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from vrbench.checkpoints.families import FAMILIES, PromptFormat
from vrbench.checkpoints.prompts import IMAGE
from vrbench.core.errors import VrbenchError
from vrbench.models.base_vlm import BaseVLM
from vrbench.models.packing import PackedSequence

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers.cache_utils import DynamicCache

LOGITS_BATCH = 256
"""Positions whose logits are held in memory together: 50 MB of float32 with a vocabulary of 50,000."""

PREFIX_SHARING_DECODERS = (
    "cohere", "gemma", "glm", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3", "stablelm",
)  # fmt: skip
"""Model types of decoders whose tokens attend to exactly what a packed row's mask says, at its positions."""


def allows_prefix_sharing(text_config: Any, context: int) -> bool:
    """Return whether a decoder computes for a prompt in a packed row what it computes for the prompt alone.

    A packed row has its own dense mask and positions. A sliding window, chunked attention or recurrent states would
    ignore them, and rotary frequencies that depend on the longest prompt of a batch (LongRoPE, dynamic NTK) would be
    those of another prompt.

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


class LlavaModel(BaseVLM):
    """A loaded LLaVA that answers packed rows, as `allows_prefix_sharing` has to permit."""

    shares_prefixes: ClassVar[bool] = True

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

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image]) -> torch.Tensor:
        """Return features of images, at the layer that the config names: [n, tokens, width of the tower] on the CPU."""
        rgb = [image.convert("RGB") for image in images]
        pixels = self.image_processor(images=rgb, return_tensors="pt")["pixel_values"]
        with torch.backends.cudnn.flags(allow_tf32=False):  # else float32 is less exact on a GPU than on a CPU
            outputs = self.vision_tower(pixels.to(self.device, self.dtype), output_hidden_states=True, return_dict=True)
        layers = self.model.config.vision_feature_layer
        chosen = [outputs.hidden_states[i] for i in ([layers] if isinstance(layers, int) else layers)]
        if self.model.config.vision_feature_select_strategy == "default":
            chosen = [hidden[:, 1:] for hidden in chosen]  # the first token is the tower's class token
        return torch.cat(chosen, dim=-1).cpu()

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

    @torch.inference_mode()
    def hidden_states(
        self, rows: Sequence[PackedSequence], images: Mapping[int, torch.Tensor], cache: DynamicCache | None = None
    ) -> torch.Tensor:
        """Return `hidden_states_with_grad` without gradients."""
        return self.hidden_states_with_grad(rows, images, cache)

    def hidden_states_with_grad(
        self, rows: Sequence[PackedSequence], images: Mapping[int, torch.Tensor], cache: DynamicCache | None = None
    ) -> torch.Tensor:
        """Return the decoder's last hidden states, [rows, longest row, hidden]; rows are padded on the right.

        Args:
            rows: packed sequences, as `packing.pack` returns them for ids of `encode`.
            images: slot -> projected features, [tokens, hidden], of every image in the rows.
            cache: filled with keys and values when given.
        """
        longest = max(len(row) for row in rows)
        settings: dict[str, Any] = {"past_key_values": cache, "use_cache": cache is not None}
        if not all(row.is_causal for row in rows):
            depths = torch.tensor([row.depths + [0] * (longest - len(row)) for row in rows])
            settings |= {"attention_mask": self._mask(rows, longest), "position_ids": depths.to(self.device)}
        embeddings = self._embeddings(rows, longest, images)
        return self.language_model(inputs_embeds=embeddings, **settings).last_hidden_state

    @torch.inference_mode()
    def loglikelihood(
        self, rows: Sequence[PackedSequence], targets: Mapping[int, Sequence[int]], images: Mapping[int, torch.Tensor]
    ) -> dict[int, tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether greedy decoding would generate it.

        Args:
            rows: packed sequences: context and continuation, without the continuation's last token.
            targets: sequence number -> token ids of its continuation.
            images: as in `hidden_states_with_grad`.

        Returns:
            sequence number -> (sum of log-probabilities in nats, is greedy).
        """
        wanted = [
            (row, position, number, token)
            for row, packed in enumerate(rows)
            for number, path in packed.paths.items()
            for position, token in zip(path[-len(targets[number]) :], targets[number], strict=True)
        ]
        places = {place: i for i, place in enumerate(dict.fromkeys((row, position) for row, position, _, _ in wanted))}
        states = self.hidden_states(rows, images)
        index = torch.tensor(list(places), device=self.device)
        states = states[index[:, 0], index[:, 1]]
        where = torch.tensor([places[row, position] for row, position, _, _ in wanted])
        logs, greedy = self._log_probabilities(states, where, torch.tensor([token for *_, token in wanted]))
        found: dict[int, tuple[float, bool]] = {}
        for (_, _, number, token), log, best in zip(wanted, logs.tolist(), greedy.tolist(), strict=True):
            total, is_greedy = found.get(number, (0.0, True))
            found[number] = (total + log, is_greedy and best == token)
        return found

    def _log_probabilities(
        self, states: torch.Tensor, where: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each token's log-probability at position `where` in states [positions, hidden], and the best token."""
        logs = torch.empty(len(tokens), dtype=torch.float64)
        greedy = torch.empty(len(tokens), dtype=torch.long)
        for start in range(0, len(states), LOGITS_BATCH):
            logits = self.model.lm_head(states[start : start + LOGITS_BATCH]).float()
            here = ((where >= start) & (where < start + LOGITS_BATCH)).nonzero()[:, 0]
            line = (where[here] - start).to(self.device)
            # log_softmax, since lm-eval takes it: on a CPU it is 1e-5 nats a token off what logsumexp gives (nearer
            # the truth), which adds up to 1e-3 over a long answer.
            logs[here] = logits.log_softmax(-1)[line, tokens[here].to(self.device)].double().cpu()
            greedy[here] = logits.argmax(-1)[line].cpu()
        return logs, greedy

    def _embeddings(
        self, rows: Sequence[PackedSequence], longest: int, images: Mapping[int, torch.Tensor]
    ) -> torch.Tensor:
        ids = torch.tensor([row.tokens + [0] * (longest - len(row)) for row in rows], device=self.device)
        embeddings = self.model.get_input_embeddings()(ids.clamp_min(0))
        if images:
            first = {slot: i * self.image_tokens for i, slot in enumerate(images)}
            patches = torch.cat(list(images.values())).to(embeddings.dtype)
            parts = [divmod(-1 - token, self.image_tokens) for token in ids[ids < 0].tolist()]
            embeddings[ids < 0] = patches[[first[slot] + j for slot, j in parts]]
        return embeddings

    def _mask(self, rows: Sequence[PackedSequence], longest: int) -> torch.Tensor:
        """Return the additive attention mask [rows, 1, longest, longest]: 0 on a token's own path, else the minimum."""
        seen = torch.eye(longest, dtype=torch.bool).repeat(len(rows), 1, 1)
        for visible, row in zip(seen.numpy(), rows, strict=True):
            for token, parent in enumerate(row.parents):
                if parent >= 0:
                    visible[token] |= visible[parent]
        hidden = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, torch.finfo(self.dtype).min)
        return hidden[:, None].to(self.device)
