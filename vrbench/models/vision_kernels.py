"""Fast kernels for vision towers, on a GPU.

Towers of Qwen2.5-VL and Qwen3-VL take the patches of all images in one row. An image, or a window of one, attends to
itself alone, and transformers calls the attention kernel for each: windows of 64 patches are about 30 calls for an
image of 640 x 480 in each of 28 layers (Qwen2.5-VL). Here all parts of one length are a batch. Their patches become
vectors by a convolution whose kernel is as large as a patch, which here is a matrix product.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, scaled_dot_product_attention

ATTENTIONS = ("Qwen2_5_VLVisionAttention", "Qwen3VLVisionAttention")
"""Classes of transformers that call the kernel in a loop."""

PATCH_EMBEDDINGS = ("Qwen2_5_VisionPatchEmbed", "Qwen3VLVisionPatchEmbed")
"""Classes of transformers whose convolution (`proj`) sees each patch once and alone."""

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN's, which is prepared for each shape, and these shapes seldom occur twice."""


def use_fast_kernels(model: Any, device: torch.device) -> None:
    """Make a model with such a vision tower, on a GPU in 16 bits, compute its patches together.

    Args:
        model: before it is moved to its devices.
        device: where it will compute.
    """
    if device.type == "cuda" and next(model.parameters()).dtype in (torch.bfloat16, torch.float16):
        compute_patches_together(model)


def compute_patches_together(model: Any) -> None:
    """As `use_fast_kernels`, on every device and in every dtype."""
    parts = _Parts()
    for module in model.modules():
        name = type(module).__name__ if type(module).__module__.startswith("transformers.") else ""
        if name in ATTENTIONS and module.config._attn_implementation == "sdpa":
            module.forward = _BatchedAttention(module, parts)
        elif name in PATCH_EMBEDDINGS:
            module.forward = _PatchProduct(module)


@contextmanager
def full_float32() -> Iterator[None]:
    """Let cuDNN's convolutions in float32 not round to TF32, which is less exact than float32 on a CPU."""
    cudnn = torch.backends.cudnn
    settings = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    with cudnn.flags(**settings, allow_tf32=False):  # without `enabled`, `flags` switches cuDNN off
        yield


class _PatchProduct:
    """The forward pass of a patch embedding: patches [patches, channels * pixels] to vectors [patches, width]."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        projection = self._module.proj
        weight = projection.weight.flatten(1)
        return linear(hidden_states.reshape(-1, weight.shape[1]).to(weight.dtype), weight, projection.bias)


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
