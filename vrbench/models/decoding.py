"""Greedy answers to packed prompts: one pass over the rows, then one token a step for those not yet done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vrbench.models.logits_processing import argmax_token, logits_processors, needs_logits_processors, next_token
from vrbench.models.packing import PackedSequence

if TYPE_CHECKING:
    from transformers import LogitsProcessorList
    from transformers.cache_utils import DynamicCache

    from vrbench.models.base_vlm import BaseVLM
    from vrbench.models.llava_model import LlavaModel


@dataclass(frozen=True)
class StopCriteria:
    """When an answer ends, besides the model's own end-of-text token.

    Attributes:
        max_new_tokens: tokens at most.
        until: texts that end the answer and do not belong to it.
    """

    max_new_tokens: int
    until: tuple[str, ...] = ()


@torch.inference_mode()
def generate_packed(
    vlm: LlavaModel,
    rows: Sequence[PackedSequence],
    limits: Mapping[int, StopCriteria],
    pictures: Mapping[int, torch.Tensor],
) -> dict[int, str]:
    """Answers of greedy decoding; what the model's generation config asks for beyond it is done as `generate` does it.

    Args:
        rows: packed prompts, as `packing.pack` gives them.
        limits: sequence number -> when its answer ends.
        pictures: slot -> projected features, as `VLM.hidden` takes them.

    Returns:
        sequence number -> the answer, without special tokens, cut before the first `until`.
    """
    from transformers.cache_utils import DynamicCache

    prompts = [(row, number, path) for row, packed in enumerate(rows) for number, path in packed.paths.items()]
    cache = DynamicCache()
    states = vlm.hidden(rows, pictures, cache)
    last = states[[row for row, _, _ in prompts], [path[-1] for _, _, path in prompts]]
    cache, mask = _one_row_each(cache, [(row, path) for row, _, path in prompts])
    positions = torch.tensor([len(path) for _, _, path in prompts], device=vlm.device)
    alive = [number for _, number, _ in prompts]
    said: dict[int, list[int]] = {number: [] for number in alive}
    choose = _Choice(vlm, {number: [rows[row].tokens[i] for i in path] for row, number, path in prompts}, limits)
    while True:
        tokens = choose(vlm.model.lm_head(last), alive, said)
        for number, token in zip(alive, tokens.tolist(), strict=True):
            said[number].append(token)
        going = [i for i, number in enumerate(alive) if not is_finished(vlm, said[number], limits[number])]
        if not going:
            return {number: decode_answer(vlm, tokens, limits[number]) for number, tokens in said.items()}
        if len(going) < len(alive):
            keep = torch.tensor(going, device=vlm.device)
            cache.batch_select_indices(keep)
            tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            alive = [alive[i] for i in going]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        outputs = vlm.language_model(
            inputs_embeds=vlm.model.get_input_embeddings()(tokens)[:, None],
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        last, positions = outputs.last_hidden_state[:, -1], positions + 1


class _Choice:
    """Chooses the next token of each answer: the likeliest, after what the model's generation config does to them."""

    def __init__(
        self, vlm: LlavaModel, prompts: Mapping[int, Sequence[int]], limits: Mapping[int, StopCriteria]
    ) -> None:
        self._prompts: dict[int, list[int]] = {}
        self._steps: dict[int, LogitsProcessorList] = {}
        if needs_logits_processors(vlm):
            self._prompts = {n: [vlm.image_token if i < 0 else i for i in ids] for n, ids in prompts.items()}
            self._steps = {n: logits_processors(vlm, ids, limits[n].max_new_tokens) for n, ids in self._prompts.items()}

    def __call__(self, logits: torch.Tensor, alive: Sequence[int], said: Mapping[int, Sequence[int]]) -> torch.Tensor:
        """Tokens [answers] from logits [answers, vocabulary] of the answers of some numbers, given what they said."""
        if not self._steps:
            return argmax_token(logits)
        chosen = [
            next_token(self._steps[n], self._prompts[n], said[n], row) for n, row in zip(alive, logits, strict=True)
        ]
        return torch.stack(chosen)


def _one_row_each(
    cache: DynamicCache, prompts: Sequence[tuple[int, Sequence[int]]]
) -> tuple[DynamicCache, torch.Tensor]:
    """Keys and values of each prompt's own path, padded on the left, and the mask of what is no padding."""
    from transformers.cache_utils import DynamicCache

    longest = max(len(path) for _, path in prompts)
    device = cache.layers[0].keys.device
    row = torch.tensor([row for row, _ in prompts], device=device)[:, None]
    place = torch.tensor([[0] * (longest - len(path)) + list(path) for _, path in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(path)) + [1] * len(path) for _, path in prompts], device=device)
    own = DynamicCache()
    for number, layer in enumerate(cache.layers):
        # [rows, heads, tokens, width] -> [prompts, longest, heads, width] -> [prompts, heads, longest, width]
        keys, values = (kept[row, :, place].transpose(1, 2) for kept in (layer.keys, layer.values))
        own.update(keys, values, number)
    return own, mask


def is_finished(vlm: BaseVLM, tokens: list[int], limit: StopCriteria) -> bool:
    """Whether an answer of these tokens, the last of them new, is over."""
    if tokens[-1] in vlm.ends or len(tokens) >= limit.max_new_tokens:
        return True
    if not limit.until:
        return False
    said = vlm.spelled(tokens[-1])
    if "\ufffd" not in said and not any(text[-1:].isspace() or text[-1:] in said for text in limit.until if text):
        return False  # a stop text ends with the token that has its last character; a part of one may not show it
    # A token is at least one byte, so a stop text that has just been completed lies within this many of the last.
    window = max(len(text.encode()) for text in limit.until) + 4
    tail = vlm.tokenizer.decode(tokens[-window:], skip_special_tokens=True)
    return any(text in tail for text in limit.until if text)


def decode_answer(vlm: BaseVLM, tokens: list[int], limit: StopCriteria) -> str:
    """An answer's text: without special tokens, cut before the first stop text."""
    answer = str(vlm.tokenizer.decode(tokens, skip_special_tokens=True))
    for text in limit.until:
        if text:
            answer = answer.split(text)[0]
    return answer
