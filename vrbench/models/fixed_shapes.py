"""Shapes of passes that depend on a request alone, so that its answer is the same bit for bit in 16 bits too.

How a matrix product rounds depends on its shape, which decides the kernel that computes it. So each prompt is read in a
pass of its own, and a decoding step computes the same number of slots with the same number of keys, however many
answers are in progress.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

CPU_SLOTS = 8
GPU_SLOTS = 64

MIN_KEYS = 128
"""Fewest keys of a slot: fewer are not faster."""

GPU_SHARE = 0.125
"""Share of a GPU's whole memory that keys and values of all slots may take."""

PROBE_TOKENS = 64
"""Tokens of the prompt with which slots are compared."""


def key_count(tokens: int) -> int:
    """Return how many keys a slot has for a prompt and its answer of at most so many tokens: a power of 2."""
    return max(MIN_KEYS, 1 << tokens.bit_length())


def slot_count(vlm: BaseVLM, keys: int, token_bytes: int) -> int:
    """Return how many slots of so many keys a step has, a power of 2; it depends on the model and the kind of device.

    Args:
        token_bytes: of the keys and values of one token.
    """
    if vlm.device.type != "cuda":
        return CPU_SLOTS
    import torch

    total = torch.cuda.get_device_properties(vlm.device).total_memory
    fitting = max(1, int(GPU_SHARE * total) // (keys * token_bytes))
    return min(GPU_SLOTS, 1 << (fitting.bit_length() - 1))
