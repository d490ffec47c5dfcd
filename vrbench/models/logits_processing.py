"""Generation settings that change greedy answers, applied to each answer by itself as transformers' `generate` does.

A generation config may ask for more than the likeliest token at each step: a repetition penalty, suppressed tokens, a
least length. transformers' own logits processors carry that out here, one list an answer, over the token ids of that
answer's own prompt and nothing else: neither padding nor what shares a batch with it counts.
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

KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version")
"""Settings that stay where all else is taken out: which tokens there are, not what is done with them."""


def needs_logits_processors(vlm: BaseVLM) -> bool:
    """Whether the model's generation config asks for more than the likeliest token at each step."""
    return bool(logits_processors(vlm, [vlm.end_of_text], 1))


def logits_processors(vlm: BaseVLM, prompt: Sequence[int], max_new_tokens: int) -> LogitsProcessorList:
    """What changes the scores of one answer's next token; empty when its generation config asks for nothing.

    They are those that `generate` makes for this prompt alone with `do_sample=False, num_beams=1`, which is why its own
    method is asked for them.

    Args:
        prompt: token ids as `generate` gets them, each image as its placeholder tokens, no padding.
        max_new_tokens: tokens of the answer at most.

    Returns:
        transformers' processors: called with token ids [1, prompt and answer so far] and float32 scores
        [1, vocabulary], they give the scores whose largest is the next token's.
    """
    settings = copy.deepcopy(vlm.model.generation_config)
    settings.do_sample, settings.num_beams = False, 1
    settings.max_length = len(prompt) + max_new_tokens
    if settings.min_new_tokens is not None:
        settings.min_length = len(prompt) + settings.min_new_tokens
    settings._eos_token_tensor = torch.tensor(sorted(vlm.ends), device=vlm.device)
    return vlm.model._get_logits_processor(
        generation_config=settings,
        input_ids_seq_length=len(prompt),
        encoder_input_ids=torch.tensor([list(prompt)], device=vlm.device),
        device=str(vlm.device),
        model_kwargs={},
    )


def next_token(
    steps: LogitsProcessorList, prompt: Sequence[int], said: Sequence[int], logits: torch.Tensor
) -> torch.Tensor:
    """The next token of one answer, from its logits [vocabulary]."""
    ids = torch.tensor([[*prompt, *said]], device=logits.device)
    return argmax_token(steps(ids, logits[None].float())[0])


def argmax_token(scores: torch.Tensor) -> torch.Tensor:
    """The tokens with the largest scores [..., vocabulary].

    Raises:
        VrbenchError: a score is NaN, of which the largest would be any token.
    """
    refuse_nan(bool(scores.isnan().any()))
    return scores.argmax(-1)


def refuse_nan(found: bool) -> None:
    """Raise a `VrbenchError` if the model's scores of tokens have NaN, or are infinite."""
    if found:
        raise VrbenchError(
            "the model's scores of tokens are NaN or infinite: its weights hold such values, or numbers grow too large "
            "in its dtype; look at the weights, or try --dtype float32"
        )


@contextmanager
def plain_generation_config(model: Any) -> Iterator[None]:
    """Take everything but token ids out of a model's generation config for a while.

    `generate` fills from there whatever it is not told, sampling and speculation included.
    """
    own = model.generation_config
    bare = copy.deepcopy(own)
    for name in vars(GenerationConfig()):
        if name not in KEPT and not name.startswith("_"):
            setattr(bare, name, None)
    model.generation_config = bare
    try:
        yield
    finally:
        model.generation_config = own
