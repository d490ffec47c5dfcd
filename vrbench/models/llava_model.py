"""A vision-language model as the engine sees it: pictures to features, and rows of tokens to log-likelihoods or text.

Wraps transformers' `LlavaForConditionalGeneration`. Prompts are built as lmms-eval's `llava_hf` builds them, so that
the answers are those that the reference gives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.prompts import IMAGE
from vrbench.core.errors import VrbenchError
from vrbench.models.base_vlm import BaseVLM
from vrbench.models.packing import PackedSequence

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase
    from transformers.cache_utils import DynamicCache

    from vrbench.models.manner import PromptFormat

LOGITS_BATCH = 256
"""Positions whose logits are held at a time: a vocabulary of 50,000 in float32 is 50 MB for them."""


class LlavaModel(BaseVLM):
    """A loaded LLaVA, ready to answer packed rows, as `vrbench.models.unpacked.allows_prefix_sharing` has to allow."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any,
        family: str = "llava",
        manner: PromptFormat | None = None,
    ) -> None:
        super().__init__(model, tokenizer, image_processor, family, manner or FAMILIES[family].manner)

    @cached_property
    def tower_digest(self) -> str:
        """sha256 over all that decides a picture's features; checkpoints that agree in it share the features."""
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
        """Tokens that a picture takes in a prompt."""
        from PIL import Image

        return self.encode_images([Image.new("RGB", (32, 32))]).shape[1]

    @property
    def image_token(self) -> int:
        """Id of the token that stands in a prompt for each token of a picture."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE))

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image]) -> torch.Tensor:
        """Features of pictures, at the layer that the config names: [n, tokens, width of the tower] on the CPU."""
        pictures = [image.convert("RGB") for image in images]
        pixels = self.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        with torch.backends.cudnn.flags(allow_tf32=False):  # else float32 means less on a card than on a CPU
            outputs = self.vision_tower(pixels.to(self.device, self.dtype), output_hidden_states=True, return_dict=True)
        layers = self.model.config.vision_feature_layer
        chosen = [outputs.hidden_states[i] for i in ([layers] if isinstance(layers, int) else layers)]
        if self.model.config.vision_feature_select_strategy == "default":
            chosen = [hidden[:, 1:] for hidden in chosen]  # the first token is the tower's class token
        return torch.cat(chosen, dim=-1).cpu()

    @torch.inference_mode()
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Features [n, tokens, width of the tower] -> what the decoder reads, [n, tokens, hidden]."""
        return self.projector(features.to(self.device, self.dtype))

    def prompt(self, text: str, n_images: int = 0) -> str:
        """The whole prompt of one question: image marks in front where the text has none, then the chat template."""
        return self.manner.prompt(self.tokenizer, text, n_images)

    def encode(self, prompt: str, slots: Sequence[int] = ()) -> list[int]:
        """Token ids of a prompt; token j of the picture in slot s is -1 - (s * image_tokens + j).

        Args:
            prompt: text with one image mark for each picture.
            slots: number of each picture, in the order of the marks.

        Raises:
            VrbenchError: the prompt has more or fewer image marks than there are pictures.
        """
        if not slots:
            return list(self.tokenizer(prompt)["input_ids"])
        ids = self.tokenizer(prompt.replace(IMAGE, IMAGE * self.image_tokens))["input_ids"]
        mark = self.image_token
        if ids.count(mark) != len(slots) * self.image_tokens:
            found = ids.count(mark) // self.image_tokens
            raise VrbenchError(f"a prompt has {found} image marks ({IMAGE}) for {len(slots)} pictures")
        parts = iter([-1 - (s * self.image_tokens + j) for s in slots for j in range(self.image_tokens)])
        return [next(parts) if i == mark else i for i in ids]

    @torch.inference_mode()
    def hidden(
        self, rows: Sequence[PackedSequence], pictures: Mapping[int, torch.Tensor], cache: DynamicCache | None = None
    ) -> torch.Tensor:
        """As `states`, with no gradient."""
        return self.states(rows, pictures, cache)

    def states(
        self, rows: Sequence[PackedSequence], pictures: Mapping[int, torch.Tensor], cache: DynamicCache | None = None
    ) -> torch.Tensor:
        """The decoder's last hidden states, [rows, longest row, hidden]; rows are padded on the right.

        Args:
            rows: packed sequences, as `packing.pack` gives them for ids of `encode`.
            pictures: slot -> projected features, [tokens, hidden], of every picture in the rows.
            cache: filled with keys and values when given.
        """
        longest = max(len(row) for row in rows)
        settings: dict[str, Any] = {"past_key_values": cache, "use_cache": cache is not None}
        if not all(row.is_plain for row in rows):
            depths = torch.tensor([row.depths + [0] * (longest - len(row)) for row in rows])
            settings |= {"attention_mask": self._mask(rows, longest), "position_ids": depths.to(self.device)}
        embeddings = self._embeddings(rows, longest, pictures)
        return self.language_model(inputs_embeds=embeddings, **settings).last_hidden_state

    @torch.inference_mode()
    def loglikelihood(
        self, rows: Sequence[PackedSequence], targets: Mapping[int, Sequence[int]], pictures: Mapping[int, torch.Tensor]
    ) -> dict[int, tuple[float, bool]]:
        """Log-likelihood of what follows, and whether greedy decoding would have said it.

        Args:
            rows: packed sequences: context and continuation, without the continuation's last token.
            targets: sequence number -> token ids of its continuation.
            pictures: as in `states`.

        Returns:
            sequence number -> (sum of log-probabilities in nats, is greedy).
        """
        asked = [
            (row, position, number, token)
            for row, packed in enumerate(rows)
            for number, path in packed.paths.items()
            for position, token in zip(path[-len(targets[number]) :], targets[number], strict=True)
        ]
        places = {place: i for i, place in enumerate(dict.fromkeys((row, position) for row, position, _, _ in asked))}
        states = self.hidden(rows, pictures)
        index = torch.tensor(list(places), device=self.device)
        states = states[index[:, 0], index[:, 1]]
        where = torch.tensor([places[row, position] for row, position, _, _ in asked])
        logs, greedy = self._log_probabilities(states, where, torch.tensor([token for *_, token in asked]))
        found: dict[int, tuple[float, bool]] = {}
        for (_, _, number, token), log, best in zip(asked, logs.tolist(), greedy.tolist(), strict=True):
            total, is_greedy = found.get(number, (0.0, True))
            found[number] = (total + log, is_greedy and best == token)
        return found

    def _log_probabilities(
        self, states: torch.Tensor, where: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each token at its position `where` in states [positions, hidden], and the best token."""
        logs = torch.empty(len(tokens), dtype=torch.float64)
        greedy = torch.empty(len(tokens), dtype=torch.long)
        for start in range(0, len(states), LOGITS_BATCH):
            logits = self.model.lm_head(states[start : start + LOGITS_BATCH]).float()
            here = ((where >= start) & (where < start + LOGITS_BATCH)).nonzero()[:, 0]
            line = (where[here] - start).to(self.device)
            # log_softmax, since lm-eval's reference takes it: on a CPU it is 1e-5 nats a token off what logsumexp
            # gives (nearer the truth), which adds up to 1e-3 over a long answer.
            logs[here] = logits.log_softmax(-1)[line, tokens[here].to(self.device)].double().cpu()
            greedy[here] = logits.argmax(-1)[line].cpu()
        return logs, greedy

    def _embeddings(
        self, rows: Sequence[PackedSequence], longest: int, pictures: Mapping[int, torch.Tensor]
    ) -> torch.Tensor:
        ids = torch.tensor([row.tokens + [0] * (longest - len(row)) for row in rows], device=self.device)
        embeddings = self.model.get_input_embeddings()(ids.clamp_min(0))
        if pictures:
            first = {slot: i * self.image_tokens for i, slot in enumerate(pictures)}
            patches = torch.cat(list(pictures.values())).to(embeddings.dtype)
            parts = [divmod(-1 - token, self.image_tokens) for token in ids[ids < 0].tolist()]
            embeddings[ids < 0] = patches[[first[slot] + j for slot, j in parts]]
        return embeddings

    def _mask(self, rows: Sequence[PackedSequence], longest: int) -> torch.Tensor:
        """What is added to attention scores, [rows, 1, longest, longest]: 0 on a token's own path, else -huge."""
        seen = torch.eye(longest, dtype=torch.bool).repeat(len(rows), 1, 1)
        for visible, row in zip(seen.numpy(), rows, strict=True):
            for token, parent in enumerate(row.parents):
                if parent >= 0:
                    visible[token] |= visible[parent]
        hidden = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, torch.finfo(self.dtype).min)
        return hidden[:, None].to(self.device)
