"""Keys and values of prefixes that rows share, and of answers that are being generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, [rows, heads, tokens, width] each."""

Prefixes = Callable[[int], Pair]
"""Returns a layer's keys and values of prefixes, padded on the right."""

Sink = Callable[[int, "Pair | None", Pair], None]
"""Takes a layer's number, keys and values of the prefixes if there are any, and those of the rows behind them."""


def take_rows(index: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> Pair:
    """Return some rows of a layer's keys and values, on that layer's device."""
    index = index.to(keys.device)
    return keys[index], values[index]


class RowCache(Cache):
    """The cache of one forward pass over rows: in front of each row's own keys it gives those of its prefix."""

    def __init__(
        self, prefixes: Prefixes | None = None, index: torch.Tensor | None = None, sink: Sink | None = None
    ) -> None:
        """Make a cache.

        Args:
            index: [rows] of each row's prefix; by default each has its own, in their order.
            sink: gets the keys and values of each layer.
        """
        super().__init__(layers=[])
        self._prefixes, self._index, self._sink = prefixes, index, sink

    def prefixes(self, layer: int, own: Pair) -> Pair | None:
        """Give a layer's keys and values to the sink; return those of the prefixes."""
        prefixes = self._prefixes(layer) if self._prefixes is not None else None
        if self._sink is not None:
            self._sink(layer, prefixes, own)
        return prefixes

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Pair:
        """Return keys and values of prefixes and rows, [rows, heads, tokens, width]."""
        prefixes = self.prefixes(layer_idx, (key_states, value_states))
        if prefixes is None:
            return key_states, value_states
        keys, values = prefixes if self._index is None else take_rows(self._index, *prefixes)
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

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


@dataclass(frozen=True)
class PromptSlots:
    """Where keys and values of prompts go, and where they come from.

    Attributes:
        slots: [prompts] to fill.
        rows: [prompts] row of each prompt.
        tokens: [prompts, longest] where its own tokens are in the row, then anything.
        places: [prompts, longest] where those go in the slot; its last position for what is no token.
        prefixes: [prompts] prefix of each; what lies behind a shorter one is overwritten or never read.
    """

    slots: torch.Tensor
    rows: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor
    prefixes: torch.Tensor | None = None

    def on(self, device: torch.device) -> PromptSlots:
        """Return the same on a device."""
        prefixes = None if self.prefixes is None else self.prefixes.to(device)
        slots, rows, tokens, places = (of.to(device) for of in (self.slots, self.rows, self.tokens, self.places))
        return PromptSlots(slots, rows, tokens, places, prefixes)


class SlotCache(Cache):
    """Keys and values of answers in progress: a slot each, all of one length; each layer's on that layer's device.

    Attributes:
        positions: [slots] index at which a slot's next token is written.
        offsets: [slots] what is added to that index for the decoder's positions: an image may take fewer than tokens.
        length: tokens of a slot; the last one is never read.
    """

    def __init__(self, slots: int, length: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.positions = torch.zeros(slots, dtype=torch.long, device=device)
        self.offsets = torch.zeros(slots, dtype=torch.long, device=device)
        self.length = length
        self._numbers = torch.arange(slots, device=device)
        self._kept: list[Pair] = []
        self._used, self._width = slots, length

    def fill(self, prompts: PromptSlots, layer: int, prefixes: Pair | None, own: Pair) -> None:
        """Put a layer's keys and values of prompts into slots; see `Sink`."""
        if layer == len(self._kept):
            shapes = ((len(self._numbers), given.shape[1], self.length, given.shape[3]) for given in own)
            first, second = (given.new_zeros(shape) for given, shape in zip(own, shapes, strict=True))
            self._kept.append((first, second))
        to = prompts.on(own[0].device)
        for number, kept in enumerate(self._kept[layer]):
            if prefixes is not None and to.prefixes is not None:
                kept[to.slots, :, : prefixes[number].shape[2]] = prefixes[number][to.prefixes]
            # both sides are [prompts, longest, heads, width]
            kept[to.slots[:, None], :, to.places] = own[number][to.rows[:, None], :, to.tokens]

    def prefixes(self, slots: torch.Tensor, length: int) -> Prefixes:
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
