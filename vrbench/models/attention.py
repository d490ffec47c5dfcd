"""Attention that never repeats keys and values for the query heads which share them, on a GPU in 16 bits.

transformers' own `sdpa` repeats them as soon as there is a mask, which in a decoding step costs 20 times the attention
itself. Which kernel is best depends on how often a shape occurs: cuDNN's is the fastest (H200: 4.1 ms for 32 layers of
256 answers with 448 keys; 8.3 ms without it), and takes a quarter of a second to prepare for each shape.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from vrbench.models.packed_inference import PREFIX_SHARING_DECODERS
from vrbench.models.prefix_attention import USES_SEGMENTS, SegmentCache

NAME = "vrbench_grouped_sdpa"

MAX_HEAD_WIDTH = 128
"""Wider heads are left to transformers: not all kernels take them."""

RMS_NORMS = (
    "LlamaRMSNorm", "MistralRMSNorm", "Phi3RMSNorm", "Qwen2RMSNorm", "Qwen2_5_VLRMSNorm", "Qwen3RMSNorm",
    "Qwen3VLTextRMSNorm",
)  # fmt: skip
"""Classes that compute `weight * x / sqrt(mean(x^2) + variance_epsilon)`, in several kernels."""

ROTARY_ATTENTION = (
    "LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen2_5_VLAttention", "Qwen3Attention",
    "Qwen3VLTextAttention",
)  # fmt: skip
"""Classes that project, normalize heads (Qwen3), rotate whole heads in the order of halves, attend, and project."""

PREPARED_SINCE = (9, 0)
"""Compute capability from which on PyTorch uses cuDNN's kernel (Hopper)."""

FLASH_SINCE = (8, 0)
"""Compute capability from which on PyTorch has FlashAttention over segments (Ampere)."""

HAS_TRITON = importlib.util.find_spec("triton") is not None

_prepared_shapes = False


def use_fast_kernels(decoder: Any, device: torch.device) -> None:
    """Make a known decoder in 16 bits on a GPU use the attention of this module and PyTorch's RMS norm, if it can.

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
        if width & (width - 1) == 0 and torch.cuda.get_device_capability(device) >= FLASH_SINCE:
            _use_fused_attention(decoder)
    for module in decoder.modules():
        if type(module).__name__ in RMS_NORMS:
            module.forward = _FusedNorm(module)


def _use_fused_attention(decoder: Any) -> None:
    attentions = [layer.self_attn for layer in decoder.layers]
    if HAS_TRITON and all(type(module).__name__ in ROTARY_ATTENTION for module in attentions):
        for module in attentions:
            module.forward = FusedAttention(module)
        setattr(decoder, USES_SEGMENTS, True)


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


class FusedAttention:
    """The forward pass of one of the `ROTARY_ATTENTION` classes; where gradients are wanted, that of transformers.

    Rotation is one kernel; keys of prefixes that rows share are neither copied nor masked (`prefix_attention`).
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None, past_key_values: Any = None, **settings: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        module, shape = self._module, hidden_states.shape[:-1]
        if torch.is_grad_enabled():
            given = {"attention_mask": attention_mask, "past_key_values": past_key_values, **settings}
            return type(module).forward(module, hidden_states, position_embeddings=position_embeddings, **given)
        from vrbench.models.triton_kernels import rotate

        query, key, value = (
            projection(hidden_states).view(*shape, -1, module.head_dim)
            for projection in (module.q_proj, module.k_proj, module.v_proj)
        )
        if hasattr(module, "q_norm"):
            query, key = module.q_norm(query), module.k_norm(key)
        for states in (query, key):
            rotate(states, *position_embeddings)
        if isinstance(past_key_values, SegmentCache):
            out = past_key_values.attend(module.layer_idx, query, key, value, module.scaling)
        else:
            query, key, value = (states.transpose(1, 2) for states in (query, key, value))
            if past_key_values is not None:
                key, value = past_key_values.update(key, value, module.layer_idx)
            out, _ = _attend(module, query, key, value, attention_mask, scaling=module.scaling)
        return module.o_proj(out.reshape(*shape, -1)), None


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
