"""Generation settings that change greedy answers, applied to each answer alone as transformers' `generate` does.

A generation config may ask for more than the likeliest token at each step: a repetition penalty, suppressed tokens, a
minimum length. transformers' own logits processors do that here, one list per answer, over the token ids of that
answer's prompt: neither padding nor other prompts of the batch count.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

TOKEN_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version")
"""Settings of a generation config that name tokens and do not change scores."""


def needs_logits_processors(vlm: BaseVLM) -> bool:
    """Return whether the model's generation config asks for more than the likeliest token at each step."""
    return bool(logits_processors(vlm, [vlm.eos_token_id], 1))


def logits_processors(vlm: BaseVLM, prompt: Sequence[int], max_new_tokens: int) -> LogitsProcessorList:
    """Return what changes the scores of one answer's next token; empty when the generation config asks for nothing.

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


def argmax_token(scores: torch.Tensor) -> torch.Tensor:
    """Return the tokens with the largest scores [..., vocabulary].

    Raises:
        VrbenchError: a score is NaN, so that the largest would be any token.
    """
    refuse_nan(bool(scores.isnan().any()))
    return scores.argmax(-1)


def refuse_nan(found: bool) -> None:
    """Raise a `VrbenchError` if NaN or infinite scores of tokens were found."""
    if found:
        raise VrbenchError(
            "the model's scores of tokens are NaN or infinite: its weights hold such values, or numbers grow too large "
            "in its dtype; check the weights, or try --dtype float32"
        )


@contextmanager
def plain_generation_config(model: Any) -> Iterator[None]:
    """Remove all but `TOKEN_SETTINGS` from a model's generation config for a while.

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
