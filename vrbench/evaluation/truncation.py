"""What happens to a prompt that is longer than the model's context.

Texts lose their front, as in lm-eval's `HFLM` (`lm_eval/models/huggingface.py`): a log-likelihood keeps the last tokens
that fit with its continuation, and a question keeps those that leave room for the longest answer that its task allows.
A prompt with images is never truncated, since its image tokens belong together: if it does not fit as a whole, it
stays unanswered. Its answer may run past the context, as transformers' `generate` allows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vrbench.core.errors import VrbenchError
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, Unanswered

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM


def truncated(vlm: BaseVLM, request: Request) -> tuple[Request, bool]:
    """Return a request as it is put to the model, and whether its text lost its front.

    Raises:
        VrbenchError: the longest answer alone fills the context.
    """
    if isinstance(request, LogLikelihoodRequest):
        room = max(1, vlm.context_length + 1 - len(request.continuation))
        if len(request.context) <= room:
            return request, False
        return dataclasses.replace(request, context=request.context[-room:]), True
    if request.images:
        return request, False
    tokens = vlm.encode(request.prompt)
    kept = truncate_left(tokens, request.max_new_tokens, vlm.context_length)
    return dataclasses.replace(request, tokens=tuple(kept)), len(kept) < len(tokens)


def truncate_left(tokens: Sequence[int], answer: int, context: int) -> list[int]:
    """Return the end of a prompt, as much of it as leaves room for an answer of that many tokens.

    Raises:
        VrbenchError: the answer alone fills the context.
    """
    room = context - answer
    if room < 1:
        raise VrbenchError(f"{answer} tokens for an answer leave no room for a prompt in a context of {context}")
    return list(tokens[-room:])


def too_long(vlm: BaseVLM, request: Request, length: int) -> Unanswered | None:
    """Return why a request cannot be answered, if it has more tokens than the model's context.

    Args:
        request: as `truncated` returns it.
        length: tokens that the model would read, including those of images.
    """
    images = len(request.images) if isinstance(request, GenerationRequest) else 0
    context = vlm.full_context if images else vlm.context_length
    if length <= context:
        return None
    what = "the prompt" if images else "the text to be judged"
    shown = f" with {images} image{'s' * (images > 1)}" * bool(images)
    return Unanswered(f"{what} has {length:,} tokens{shown}, and the model's context is {context:,}")
