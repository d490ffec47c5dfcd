"""Attention that never repeats keys and values for the query heads which share them, on a GPU in 16 bits.

transformers' own `sdpa` repeats them as soon as there is a mask, which in a decoding step costs 20 times the attention
itself. Which kernel is best depends on how often a shape occurs: cuDNN's is the fastest (H200: 4.1 ms for 32 layers of
256 answers with 448 keys; 8.3 ms without it), and takes a quarter of a second to prepare for each shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from vrbench.models.packed_inference import PREFIX_SHARING_DECODERS

NAME = "vrbench_grouped_sdpa"

MAX_HEAD_WIDTH = 128
"""Wider heads are left to transformers: not all kernels take them."""

RMS_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Phi3RMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Classes that compute `weight * x / sqrt(mean(x^2) + variance_epsilon)`, in several kernels."""

PREPARED_SINCE = (9, 0)
"""Compute capability from which on PyTorch uses cuDNN's kernel (Hopper)."""

_prepared_shapes = False


def use_fast_kernels(decoder: Any, device: torch.device) -> None:
    """Make a known decoder in 16 bits use grouped attention and PyTorch's RMS norm on a GPU; others stay as is.

    Args:
        decoder: before it is moved to its devices.
        device: where it will compute.
    """
    weight, config = next(decoder.parameters()), decoder.config
    is_known = config.model_type in PREFIX_SHARING_DECODERS and type(decoder).__module__.startswith("transformers.")
    if device.type != "cuda" or weight.dtype not in (torch.bfloat16, torch.float16) or not is_known:
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if config._attn_implementation == "sdpa" and width <= MAX_HEAD_WIDTH and width % 8 == 0:
        _register()
        decoder.set_attn_implementation(NAME)
    for module in decoder.modules():
        if type(module).__name__ in RMS_NORMS:
            module.forward = _FusedNorm(module)


@contextmanager
def prepared_shapes() -> Iterator[None]:
    """Use the kernel that is prepared for each shape, where there is one: for steps in a shape that repeats often."""
    global _prepared_shapes
    _prepared_shapes = torch.cuda.is_available() and torch.cuda.get_device_capability() >= PREPARED_SINCE
    try:
        yield
    finally:
        _prepared_shapes = False


class _FusedNorm:
    """The forward pass of an RMS norm in one kernel."""

    def __init__(self, module: Any) -> None:
        self._module = module  # whose weight may be replaced when it is moved

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, (hidden.shape[-1],), self._module.weight, self._module.variance_epsilon)


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None, **settings: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Return attention [batch, queries, heads, width], as transformers' attention functions do."""
    batch, heads, queries, width = query.shape
    groups = key.shape[1]
    if attention_mask is None:
        causal = queries > 1 and is_causal is not False
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            out = scaled_dot_product_attention(
                query, key, value, scale=scaling, is_causal=causal, enable_gqa=heads != groups
            )
    elif _prepared_shapes:
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=heads != groups
        )
    else:  # the heads of a group become queries of one head
        shared = heads // groups
        rows = attention_mask.expand(batch, shared, queries, -1).reshape(batch, 1, shared * queries, -1)
        packed = query.reshape(batch, groups, shared * queries, width)
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            out = scaled_dot_product_attention(packed, key, value, attn_mask=rows, scale=scaling)
        out = out.reshape(batch, heads, queries, width)  # some kernels return queries in front of heads
    return out.transpose(1, 2).contiguous(), None
