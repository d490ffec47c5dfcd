"""How much may be in memory at the same time: tokens of a forward pass, and tokens of answers in progress."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vrbench.models import placement

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM
    from vrbench.models.packing import PackedSequence

CPU_TOKENS = 1024
"""Padded tokens in one pass on a CPU; more are not faster there, and an interruption would lose more."""

CPU_KEPT_TOKENS = 16 * CPU_TOKENS

GPU_TOKENS = 32768
"""Most padded tokens in one pass on a GPU; more are not faster there."""

GPU_MEMORY = 0.85
"""Share of a GPU's memory that is used, weights included."""

KEPT_SHARE = 0.6
"""Share of the planned memory that keys and values of answers in progress take; the rest is for forward passes."""

PASS_MARGIN = 1.5
"""Memory planned for a token of a pass, over that of its activations: logits and copies of keys need some too."""


@dataclass
class MemoryBudget:
    """What may be in memory at the same time; it shrinks where that was too much.

    Attributes:
        rows: most rows of a pass, and most answers in progress; None for as many as the tokens allow.
        pass_tokens: most tokens, padding included, of a pass with several rows.
        kept_tokens: most tokens whose keys and values are kept for answers in progress.
        fixed_shapes: whether the shape of every pass depends on a request alone; see `fixed_shapes`.
        token_bytes: keys and values of a token, of all layers.
        activation_bytes: most bytes that a pass takes for a token besides its keys and values.
        planned_bytes: most that keys and values of answers and one pass together were planned to take so far.
    """

    rows: int | None
    pass_tokens: int
    kept_tokens: int
    fixed_shapes: bool = False
    token_bytes: int = 0
    activation_bytes: int = 0
    planned_bytes: int = field(default=0, init=False)
    _kept_bytes: int = field(default=0, init=False)
    _last_rows: int = field(default=0, init=False)
    _last_tokens: int = field(default=0, init=False)
    _last_slots: int = field(default=1, init=False)

    @property
    def rows_per_pass(self) -> int | None:
        """Most rows of a pass; None for as many as the tokens allow."""
        return 1 if self.fixed_shapes else self.rows

    @classmethod
    def of(
        cls, vlm: BaseVLM, rows: int | None = None, gpu_memory: float = GPU_MEMORY, fixed_shapes: bool = False
    ) -> MemoryBudget:
        """Return what should fit together with the weights.

        Args:
            rows: most rows, if they are limited.
            gpu_memory: share of the GPU's memory that may be used, weights included.
            fixed_shapes: as in the attributes.
        """
        if vlm.vllm is not None:  # which plans its own memory
            return cls(rows, CPU_TOKENS, CPU_KEPT_TOKENS, fixed_shapes)
        sizes = token_bytes(vlm), activation_bytes(vlm)
        if vlm.device.type != "cuda":
            return cls(rows, CPU_TOKENS, CPU_KEPT_TOKENS, fixed_shapes, *sizes)
        import torch

        of_layer, of_pass = sizes[0] // vlm.text_config.num_hidden_layers, int(PASS_MARGIN * sizes[1])
        pass_tokens, kept_tokens = GPU_TOKENS, sys.maxsize
        for device, layers in placement.layer_devices(vlm.model).items():
            free, total = torch.cuda.mem_get_info(device)
            reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            visiting = placement.waiting_bytes(vlm.model) if device == vlm.device else 0
            planned = max(0.0, gpu_memory * total - (total - free - reserved) - visiting)
            pass_tokens = min(pass_tokens, int((1 - KEPT_SHARE) * planned) // (layers * of_layer + of_pass))
            kept_tokens = min(kept_tokens, int(KEPT_SHARE * planned) // (layers * of_layer))
        pass_tokens, kept_tokens = placement.smallest(vlm.model, [pass_tokens, kept_tokens])
        return cls(rows, max(CPU_TOKENS, pass_tokens), kept_tokens, fixed_shapes, *sizes)

    def take(self, lengths: Sequence[int]) -> int:
        """Return how many rows of these lengths, the longest first, make a pass: at least one."""
        fitting = self.pass_tokens // max(1, lengths[0])
        count = max(1, min(fitting, len(lengths), self.rows_per_pass or fitting))
        self._last_slots, self._kept_bytes = 1, 0
        self.passed(count, count * lengths[0])
        return count

    def take_rows(self, rows: Iterable[PackedSequence], copies_no_prefix: bool, answers: int | None = None) -> int:
        """Return how many of the next rows make a pass: at least one.

        Args:
            copies_no_prefix: whether keys and values of a prefix are in memory once, and not once for each row of
                chains behind it.
            answers: most sequences that they may have; no limit by default.
        """
        count = own = prefix = tokens = shared = 0
        prefixes: set[tuple[int, ...]] = set()
        left, copied = math.inf if answers is None else answers, not copies_no_prefix
        for row in rows:
            own, prefix = max(own, len(row)), max(prefix, len(row.prefix))
            prefixes |= {row.prefix} if row.prefix else set()
            copied = copied or not row.is_chains
            read = len(prefixes) * prefix
            more = (count + 1) * (own + prefix * copied) + read
            left -= len(row.paths)
            if count and (count == self.rows_per_pass or left < 0 or more > self.pass_tokens):
                break
            count, tokens, shared = count + 1, more, read
        if answers is None:
            self._last_slots, self._kept_bytes = 1, 0
        self.passed(count, tokens, shared)
        return count

    def slots(self, longest: int) -> int:
        """Return how many answers of at most so many tokens, prompt included, may be in progress."""
        fitting = max(1, self.kept_tokens // longest)
        self._last_slots = fitting if self.rows is None else min(fitting, self.rows)
        return self._last_slots

    def keep(self, tokens: int) -> None:
        """Note for how many tokens there is room for keys and values of answers."""
        self._kept_bytes = tokens * self.token_bytes

    def passed(self, rows: int, tokens: int, shared: int = 0) -> None:
        """Note the size of a pass that is tried.

        Args:
            tokens: padding included.
            shared: of these the tokens of prefixes, which are read before the others, and whose keys and values stay.
        """
        self._last_rows, self._last_tokens = rows, tokens
        of_pass = shared * self.token_bytes + max(shared, tokens - shared) * self.activation_bytes
        self.planned_bytes = max(self.planned_bytes, self._kept_bytes + of_pass)

    def shrink(self) -> bool:
        """Halve what was tried last; return whether anything could be made smaller."""
        if self.fixed_shapes or (self._last_rows <= 1 and self._last_slots <= 1):
            return False
        self.pass_tokens = max(1, min(self.pass_tokens, self._last_tokens) // 2)
        self.kept_tokens //= 2
        if self.rows is not None:
            self.rows = max(1, max(self._last_rows, self._last_slots) // 2)
        return True


def token_bytes(vlm: BaseVLM) -> int:
    """Return the bytes of the keys and values of one token, of the heads that this process has."""
    config = vlm.text_config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = placement.key_value_heads(vlm.model)
    return 2 * int(config.num_hidden_layers * heads * width * vlm.dtype.itemsize)


def activation_bytes(vlm: BaseVLM) -> int:
    """Return the most bytes that a forward pass takes for a token, those of keys and values that are kept left out.

    That is in the MLP: embedding, residual, its normalized input and output, and three products of the MLP's width.
    """
    config = vlm.text_config
    return int((4 * config.hidden_size + 3 * config.intermediate_size) * vlm.dtype.itemsize)
