"""Greedy decoding: the choice of a token, where an answer ends, and generation settings that change the next token.

A generation config may ask for more than the likeliest token at each step: a repetition penalty, suppressed tokens, a
minimum length. transformers' own logits processors do that here as in its `generate`, one list per answer, over the
token ids of that answer's prompt: neither padding nor other prompts of the batch count.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

TOKEN_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version")
"""Settings of a generation config that name tokens and do not change scores."""


@dataclass(frozen=True)
class StopCriteria:
    """When an answer ends, besides the model's own stop tokens.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        until: texts that end the answer and are not part of it.
    """

    max_new_tokens: int
    until: tuple[str, ...] = ()


class TokenChoice:
    """Chooses the next token of each answer: the likeliest, after the logits processors of the generation config.

    Attributes:
        penalty: the repetition penalty, if the generation config asks for that and no more; see `RepetitionPenalty`.
        needs_processors: whether it asks for anything else than the likeliest token.
    """

    def __init__(self, vlm: BaseVLM) -> None:
        self.penalty = repetition_penalty(vlm)
        self.needs_processors = self.penalty is None and needs_logits_processors(vlm)
        self._vlm = vlm
        self._prompts: dict[int, list[int]] = {}
        self._processors: dict[int, LogitsProcessorList] = {}

    def add(self, number: int, prompt: Sequence[int], stop: StopCriteria) -> None:
        """Make the processors of an answer.

        Args:
            number: of the answer.
            prompt: token ids, negative for tokens of images.
            stop: when the answer ends.
        """
        if self.needs_processors:
            ids = self._prompts[number] = [self._vlm.image_token if i < 0 else i for i in prompt]
            self._processors[number] = logits_processors(self._vlm, ids, stop.max_new_tokens)

    def __call__(
        self, logits: torch.Tensor, active: Sequence[int], generated: Mapping[int, Sequence[int]]
    ) -> torch.Tensor:
        """Return tokens [answers] from logits [answers, vocabulary], given what was generated so far; -1 for NaN."""
        if not self.needs_processors:
            return argmax_or_nan(logits)
        scores = []
        for number, row in zip(active, logits, strict=True):
            ids = torch.tensor([[*self._prompts[number], *generated.get(number, ())]], device=row.device)
            scores.append(self._processors[number](ids, row[None].float()))
        return argmax_or_nan(torch.cat(scores))


class RepetitionPenalty:
    """transformers' repetition penalty for all slots at once, where the GPU need not wait for tokens to be read."""

    def __init__(self, penalty: float, slots: int) -> None:
        self._penalty, self._slots = penalty, slots
        self._seen: torch.Tensor | None = None  # [slots, vocabulary]

    def start(self, slots: torch.Tensor, prompts: Sequence[Sequence[int]], vocabulary: int) -> None:
        """Note the tokens of new prompts in some slots."""
        if self._seen is None:
            self._seen = torch.zeros(self._slots, vocabulary, dtype=torch.bool, device=slots.device)
        longest = max(map(len, prompts))
        ids = torch.tensor([[*prompt, *[prompt[-1]] * (longest - len(prompt))] for prompt in prompts])
        self._seen[slots] = False
        self._seen[slots[:, None], ids.to(slots.device)] = True

    def add(self, tokens: torch.Tensor) -> None:
        """Note the next token of each of the first slots."""
        if self._seen is not None:
            self._seen[: len(tokens)].scatter_(1, tokens[:, None], True)

    def __call__(self, logits: torch.Tensor, slots: torch.Tensor | slice) -> torch.Tensor:
        """Return the scores of some slots from their logits [slots, vocabulary]."""
        if self._seen is None:
            return logits
        scores = logits.float()
        return torch.where(
            self._seen[slots], torch.where(scores < 0, scores * self._penalty, scores / self._penalty), scores
        )

    def move(self, slots: torch.Tensor) -> None:
        """Move these slots, in ascending order, to the front."""
        if self._seen is not None:
            self._seen[: len(slots)] = self._seen[slots]


def is_finished(vlm: BaseVLM, tokens: list[int], stop: StopCriteria) -> bool:
    """Return whether an answer of these tokens, the last of them new, is finished."""
    if tokens[-1] in vlm.stop_token_ids or len(tokens) >= stop.max_new_tokens:
        return True
    if not stop.until:
        return False
    last = vlm.token_text(tokens[-1])
    if "\ufffd" not in last and not any(text[-1:].isspace() or text[-1:] in last for text in stop.until if text):
        return False  # a stop text ends with the token that has its last character; a part of one may not show it
    # A token is at least one byte, so a stop text that has just been completed lies within this many of the last.
    window = max(len(text.encode()) for text in stop.until) + 4
    tail = vlm.tokenizer.decode(tokens[-window:], skip_special_tokens=True)
    return any(text in tail for text in stop.until if text)


def decode_answer(vlm: BaseVLM, tokens: list[int], stop: StopCriteria) -> str:
    """Return an answer's text: without special tokens, cut before the first stop text."""
    answer = str(vlm.tokenizer.decode(tokens, skip_special_tokens=True))
    for text in stop.until:
        if text:
            answer = answer.split(text)[0]
    return answer


def needs_logits_processors(vlm: BaseVLM) -> bool:
    """Return whether the model's generation config asks for more than the likeliest token at each step."""
    return bool(logits_processors(vlm, [vlm.eos_token_id], 1))


def repetition_penalty(vlm: BaseVLM) -> float | None:
    """Return the repetition penalty that the generation config asks for, if it asks for nothing else."""
    found = logits_processors(vlm, [vlm.eos_token_id], 1)
    if len(found) != 1 or type(found[0]) is not RepetitionPenaltyLogitsProcessor:
        return None
    return None if getattr(found[0], "prompt_ignore_length", None) else float(found[0].penalty)


def logits_processors(vlm: BaseVLM, prompt: Sequence[int], max_new_tokens: int) -> LogitsProcessorList:
    """Return the logits processors for one answer's next token; empty when the generation config requests none.

    They are those that `generate` makes for this prompt alone with `do_sample=False, num_beams=1`, hence the call of
    its own method.

    Args:
        prompt: token ids as `generate` gets them, each image as its placeholder tokens, without padding.
        max_new_tokens: longest answer.

    Returns:
        transformers' processors: called with token ids [1, prompt and answer so far] and float32 scores
        [1, vocabulary], they return the scores whose largest is the next token's.
    """
    settings = copy.deepcopy(vlm.model.generation_config)
    settings.do_sample, settings.num_beams = False, 1
    settings.max_length = len(prompt) + max_new_tokens
    if settings.min_new_tokens is not None:
        settings.min_length = len(prompt) + settings.min_new_tokens
    settings._eos_token_tensor = torch.tensor(sorted(vlm.stop_token_ids), device=vlm.device)
    return vlm.model._get_logits_processor(
        generation_config=settings,
        input_ids_seq_length=len(prompt),
        encoder_input_ids=torch.tensor([list(prompt)], device=vlm.device),
        device=str(vlm.device),
        model_kwargs={},
    )


def argmax_or_nan(scores: torch.Tensor) -> torch.Tensor:
    """Return the tokens with the largest scores [answers, vocabulary], -1 where scores are NaN, without waiting."""
    best = scores.argmax(-1)  # which takes NaN for the largest
    return best.masked_fill(scores.gather(-1, best[:, None])[:, 0].isnan(), -1)


def refuse_nan(found: bool) -> None:
    """Raise a `VrbenchError` if NaN or infinite scores of tokens were found."""
    if found:
        raise VrbenchError(
            "the model's scores of tokens are NaN or infinite: its weights hold such values, or numbers grow too large "
            "in its dtype; check the weights, or try --dtype float32"
        )


@contextmanager
def plain_generation_config(model: Any) -> Iterator[None]:
    """Remove all but `TOKEN_SETTINGS` from a model's generation config within the block.

    `generate` reads from there whatever it is not given, sampling and speculation included.
    """
    own = model.generation_config
    plain = copy.deepcopy(own)
    for name in vars(GenerationConfig()):
        if name not in TOKEN_SETTINGS and not name.startswith("_"):
            setattr(plain, name, None)
    model.generation_config = plain
    try:
        yield
    finally:
        model.generation_config = own
