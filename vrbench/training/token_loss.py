"""The cross-entropy of labelled tokens, with the logits of a part of them in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn, stack
from torch.utils.checkpoint import checkpoint

LOGITS_BYTES = 1 << 30
"""Largest size of float32 logits: 8,372 tokens of LLaVA-1.5's vocabulary, 2,092 of Llama-3's."""


def token_loss(
    states: Tensor, targets: Tensor, head: Any, weights: Tensor | None = None, largest: int = LOGITS_BYTES
) -> Tensor:
    """Return the cross-entropy in nats, summed over tokens.

    If all logits are larger than `largest` bytes, each part of the tokens gets its logits twice, in the forward and in
    the backward pass, and never beside those of another part.

    Args:
        states: [tokens, width], the head's input.
        targets: [tokens] ids of the next tokens.
        head: linear with `out_features` logits.
        weights: [tokens] of their losses in the sum; none: 1.
    """
    tokens = max(1, largest // (4 * head.out_features))
    if len(states) <= tokens:
        return _of_part(head, states, targets, weights)
    of_parts = [None] * len(states) if weights is None else weights.split(tokens)
    parts = zip(states.split(tokens), targets.split(tokens), of_parts, strict=False)
    return stack([checkpoint(_of_part, head, *part, use_reentrant=False) for part in parts]).sum()


def _of_part(head: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    return summed_cross_entropy(head(states), targets, weights)


def summed_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy summed in float32 over tokens: logits [tokens, vocabulary], see `token_loss`."""
    if weights is None:
        return nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    return (nn.functional.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()
