"""Keys and values of prefixes that rows share, and of answers that are being generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache

Prefixes = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""Returns a layer's keys and values of the prefix of each row, [rows, heads, tokens, width]."""

Sink = Callable[[int, torch.Tensor, torch.Tensor], None]
"""Takes a layer's number, keys and values [rows, heads, tokens, width]."""


def take_rows(index: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return some rows of a layer's keys and values, on that layer's device."""
    index = index.to(keys.device)
    return keys[index], values[index]


class RowCache(Cache):
    """The cache of one forward pass over rows: in front of each row's own keys it gives those of its prefix."""

    def __init__(self, prefixes: Prefixes | None = None, sink: Sink | None = None) -> None:
        """Make a cache.

        Args:
            prefixes: keys and values of prefixes, padded on the right.
            sink: gets the keys and values of each layer, prefixes first.
        """
        super().__init__(layers=[])
        self._prefixes, self._sink = prefixes, sink

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of prefixes and rows, [rows, heads, tokens, width]."""
        if self._prefixes is not None:
            keys, values = self._prefixes(layer_idx)
            key_states = torch.cat([keys, key_states], dim=2)
            value_states = torch.cat([values, value_states], dim=2)
        if self._sink is not None:
            self._sink(layer_idx, key_states, value_states)
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: nothing was read before."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return 0: a mask is given wherever there are prefixes."""
        return 0

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Return the number of keys and of the first, for a pass without prefixes."""
        length = query_length if isinstance(query_length, int) else len(query_length)
        return length, 0


class SlotCache(Cache):
    """Keys and values of answers in progress: a slot each, all of one length; each layer's on that layer's device.

    Attributes:
        positions: [slots] index at which a slot's next token is written.
        offsets: [slots] what is added to that index for the decoder's positions: an image may take fewer than tokens.
        length: tokens of a slot.
    """

    def __init__(self, slots: int, length: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.positions = torch.zeros(slots, dtype=torch.long, device=device)
        self.offsets = torch.zeros(slots, dtype=torch.long, device=device)
        self.length = length
        self._numbers = torch.arange(slots, device=device)
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._used, self._width = slots, length

    def fill(
        self, slots: torch.Tensor, rows: torch.Tensor, places: torch.Tensor,
        layer: int, keys: torch.Tensor, values: torch.Tensor,
    ) -> None:  # fmt: skip
        """Put a layer's keys and values of prompts into slots.

        Args:
            slots: [prompts] to fill.
            rows: [prompts] row of each prompt.
            places: [prompts, longest] where its tokens are in the row; anything behind its end.
            layer: number of the layer.
            keys, values: [rows, heads, tokens, width].
        """
        if layer == len(self._kept):
            shapes = ((len(self._numbers), given.shape[1], self.length, given.shape[3]) for given in (keys, values))
            first, second = (keys.new_zeros(shape) for shape in shapes)
            self._kept.append((first, second))
        slots, rows, places = (index.to(keys.device) for index in (slots, rows, places))
        for kept, given in zip(self._kept[layer], (keys, values), strict=True):
            # [prompts, longest, heads, width] -> [prompts, heads, longest, width]
            kept[slots, :, : places.shape[1]] = given[rows[:, None], :, places].transpose(1, 2)

    def beginnings(self, slots: torch.Tensor, length: int) -> Prefixes:
        """Return the first tokens of some slots as prefixes of rows, which have to be filled before they are used."""
        return lambda layer: take_rows(slots, *(kept[:, :, :length] for kept in self._kept[layer]))

    def view(self, used: int, width: int) -> torch.Tensor:
        """Let `update` work on the first slots alone and return so many keys of each; return their positions."""
        self._used, self._width = used, width
        return self.positions[:used]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values [slots, heads, 1, width] of a step; return those of all positions in view."""
        keys, values = self._kept[layer_idx]
        slots, where = (index[: self._used].to(keys.device) for index in (self._numbers, self.positions))
        keys[slots, :, where] = key_states[:, :, 0]
        values[slots, :, where] = value_states[:, :, 0]
        return keys[: self._used, :, : self._width], values[: self._used, :, : self._width]

    def move(self, slots: torch.Tensor) -> None:
        """Move these slots, in ascending order, to the front."""
        for pair in self._kept:
            for kept in pair:
                kept[: len(slots)] = kept[slots.to(kept.device)]
        for given in (self.positions, self.offsets):
            given[: len(slots)] = given[slots]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions and masks are always given."""
        return 0
