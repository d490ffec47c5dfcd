"""Attention in vision towers that take the patches of all images in one row, on a GPU in 16 bits.

An image, or a window of one, attends to itself alone. transformers calls the kernel for each: windows of 64 patches are
about 30 calls for an image of 640 x 480 in each of 28 layers (Qwen2.5-VL). Here all parts of one length are a batch.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

CLASSES = ("Qwen2_5_VLVisionAttention", "Qwen3VLVisionAttention")
"""Classes of transformers that call the kernel in a loop."""

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN's, which is prepared for each shape, and these shapes seldom occur twice."""


def use_batched_attention(model: Any, device: torch.device) -> None:
    """Make a model with such a vision tower, on a GPU in 16 bits, compute all parts of one length together.

    Args:
        model: before it is moved to its devices.
        device: where it will compute.
    """
    if device.type == "cuda" and next(model.parameters()).dtype in (torch.bfloat16, torch.float16):
        batch_attention(model)


def batch_attention(model: Any) -> None:
    """As `use_batched_attention`, on every device and in every dtype."""
    parts = _Parts()
    for module in model.modules():
        is_known = type(module).__module__.startswith("transformers.") and type(module).__name__ in CLASSES
        if is_known and module.config._attn_implementation == "sdpa":
            module.forward = _BatchedAttention(module, parts)


class _Parts:
    """The parts of a row, by length; those of the last two rows are kept, since a tower has two kinds of layers."""

    def __init__(self) -> None:
        self._known: list[tuple[torch.Tensor, list[torch.Tensor]]] = []

    def __call__(self, bounds: torch.Tensor) -> list[torch.Tensor]:
        """Return patches of parts [parts, length], a tensor for each length.

        Args:
            bounds: [parts + 1] where parts begin and end; the same object for all layers of a pass.
        """
        for known, groups in self._known:
            if known is bounds:
                return groups
        starts: dict[int, list[int]] = {}
        ends = bounds.tolist()
        for start, end in pairwise(ends):
            starts.setdefault(end - start, []).append(start)
        groups = [
            torch.tensor(first, device=bounds.device)[:, None] + torch.arange(length, device=bounds.device)
            for length, first in starts.items()
        ]
        self._known = [(bounds, groups), *self._known[:1]]
        return groups


class _BatchedAttention:
    """The forward pass of one layer's attention."""

    def __init__(self, module: Any, parts: _Parts) -> None:
        self._module, self._parts = module, parts
        self._rotated = sys.modules[type(module).__module__].apply_rotary_pos_emb_vision

    def __call__(
        self, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor], **settings: Any,
    ) -> torch.Tensor:  # fmt: skip
        module, patches = self._module, len(hidden_states)
        query, key, value = module.qkv(hidden_states).reshape(patches, 3, module.num_heads, -1).unbind(1)
        query, key = self._rotated(query, key, *position_embeddings)
        attended = torch.empty_like(value)
        with sdpa_kernel(KERNELS):
            for index in self._parts(cu_seqlens):
                q, k, v = (given[index].transpose(1, 2) for given in (query, key, value))
                attended[index] = scaled_dot_product_attention(q, k, v, scale=module.scaling).transpose(1, 2)
        projected: torch.Tensor = module.proj(attended.reshape(patches, -1))
        return projected
