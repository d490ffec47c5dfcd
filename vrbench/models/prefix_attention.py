"""Attention of rows behind shared prefixes, without masks and without a copy of a prefix for each row.

A row is a sequence of chains of tokens. Each chain attends causally to itself, all rows behind a prefix attend to that
prefix together, and the two results are merged by the sums of their exponentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from vrbench.models.kv_cache import Prefixes, RowCache, Sink
from vrbench.models.packing import PackedSequence

USES_SEGMENTS = "vrbench_uses_segments"
"""Attribute of a decoder whose attention asks a `SegmentCache` to attend; see `attention.use_fast_kernels`."""


@dataclass(frozen=True)
class Segments:
    """Where chains and prefixes begin and end in a pass, as cumulated numbers of tokens that start with 0.

    Attributes:
        chains: of the chains in all rows one behind the other; padding is a chain.
        longest: tokens of a row, padding included.
        groups: of the rows behind one prefix, one group behind the other.
        largest: tokens of the largest group.
        prefixes: of each group's prefix, padding included; a group without one has none.
        used: [groups] tokens of each prefix.
        padded: tokens of a prefix, padding included.
    """

    chains: list[int]
    longest: int
    groups: list[int]
    largest: int
    prefixes: list[int]
    used: list[int]
    padded: int

    @property
    def ends(self) -> tuple[list[int], ...]:
        """What attention needs on the device."""
        return self.chains, self.groups, self.prefixes, self.used

    @classmethod
    def of(cls, rows: Sequence[PackedSequence], longest: int, padded: int) -> Segments | None:
        """Return the segments of rows that are padded to `longest`; None where they are not made of chains."""
        grouped = [(prefix, len(list(same))) for prefix, same in groupby(rows, key=lambda row: row.prefix)]
        if not all(row.is_chains for row in rows) or len({prefix for prefix, _ in grouped}) < len(grouped):
            return None
        chains = []
        for number, row in enumerate(rows):
            chains += [number * longest + place for place, depth in enumerate(row.depths) if depth == 0]
            chains += [number * longest + len(row)] * (len(row) < longest)
        groups, prefixes = [0], [0]
        for prefix, count in grouped:
            groups.append(groups[-1] + count * longest)
            prefixes.append(prefixes[-1] + padded * bool(prefix))
        largest = max(count for _, count in grouped) * longest
        used = [len(prefix) for prefix, _ in grouped]
        return cls([*chains, len(rows) * longest], longest, groups, largest, prefixes, used, padded)


class SegmentCache(RowCache):
    """The cache of one pass over rows of chains, which computes the attention too."""

    def __init__(self, prefixes: Prefixes, segments: Segments, ends: Sequence[torch.Tensor], sink: Sink | None) -> None:
        """Make a cache.

        Args:
            prefixes: in the order of the groups that have one.
            ends: `Segments.ends` on the device, int32.
            sink: as in `RowCache`.
        """
        super().__init__(prefixes, None, sink)
        self._segments = segments
        self._chains, self._groups, self._ends, self._used = ends

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return attention [rows, tokens, heads, width] of queries, keys and values of that form."""
        from vrbench.models.triton_kernels import merge

        prefixes = self.prefixes(layer, (key.transpose(1, 2), value.transpose(1, 2)))
        assert prefixes is not None
        at, flat = self._segments, query.flatten(0, 1)
        own, own_lse = varlen_attention(
            flat, key.flatten(0, 1), value.flatten(0, 1), self._chains, self._chains, at.longest, at.longest, scale,
            causal=True,
        )  # fmt: skip
        keys, values = (kept.transpose(1, 2).flatten(0, 1) for kept in prefixes)
        shared, shared_lse = varlen_attention(
            flat, keys, values, self._groups, self._ends, at.largest, at.padded, scale, used=self._used
        )
        merge(own, own_lse, shared, shared_lse)
        return own.view(query.shape)


def varlen_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor,
    most_queries: int, most_keys: int, scale: float, causal: bool = False, used: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return FlashAttention over segments, [tokens, heads, width], and log-sum-exps [heads, tokens].

    Where a segment has no keys the attention is 0 and the log-sum-exp infinite. The function under
    `torch.nn.attention.varlen`, which in torch 2.11 does not take what is needed here.

    Args:
        query, key, value: [tokens, heads, width] in 16 bits on a GPU; key and value may have fewer heads.
        queries, keys: [segments + 1] cumulated numbers of tokens, int32.
        most_queries, most_keys: of a segment.
        used: [segments] keys of each segment that are attended to, from its first; all by default.
    """
    attention: Any = torch.ops.aten._flash_attention_forward
    out, lse = attention(
        query, key, value, queries, keys, most_queries, most_keys, 0.0, causal, False, scale=scale, seqused_k=used
    )[:2]
    return out, lse
