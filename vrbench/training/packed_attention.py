"""Attention within each sample of a packed row: one call of SDPA for each, without a mask.

transformers' mask for a packed row is dense: all pairs of tokens of the row are computed, most of them for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from vrbench.models import attention, components

NAME = "vrbench_packed_sdpa"

_lengths: list[int] = []


def set_lengths(lengths: Sequence[int]) -> None:
    """Set the numbers of tokens of the samples in the row that is computed next; none: it is not packed.

    They hold for the backward pass too, in which checkpointing computes the row again.
    """
    _lengths[:] = lengths


def use_packed_attention(model: Any, longest: int) -> None:
    """Let the decoder of a model of any family attend within the samples of a packed row, where it uses SDPA.

    Args:
        model: without PEFT's around it.
        longest: most tokens of a sample; where a sliding window is shorter, transformers' mask is kept.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    decoder = components.decoder(model)
    used = decoder.config._attn_implementation
    window = getattr(decoder.config, "sliding_window", None)
    if used not in ("sdpa", attention.NAME) or (window and window < longest):
        return
    AttentionInterface.register(NAME, partial(_attend, AttentionInterface()[used]))
    AttentionMaskInterface.register(NAME, partial(_mask, AttentionMaskInterface()[used]))
    decoder.set_attn_implementation(NAME)


def _is_packed() -> bool:
    return bool(_lengths) and torch.is_grad_enabled()  # else the model is evaluated


def _mask(otherwise: Callable[..., Any], *args: Any, **given: Any) -> Any:
    return None if _is_packed() else otherwise(*args, **given)


@torch.compiler.disable  # lengths differ in each step
def _attend(
    otherwise: Callable[..., Any], module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, dropout: float = 0.0, scaling: float | None = None, **settings: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Return attention [1, tokens, heads, width], as transformers' attention functions do."""
    if not _is_packed():
        return otherwise(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **settings)
    settings = {"dropout_p": dropout, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    samples = zip(*(states.split(_lengths, dim=2) for states in (query, key, value)), strict=True)
    out = [scaled_dot_product_attention(q, k, v, is_causal=True, **settings) for q, k, v in samples]
    return torch.cat(out, dim=2).transpose(1, 2).contiguous(), None
