"""Token sequences -> packed rows, so that what sequences share is computed once (no torch).

Questions on one image share their system prompt and the image; the options of a question share the question; the
questions of a subject share their few-shot examples. Two kinds of sharing:

- a row is a tree of tokens: each token attends only to those on its own path, at its own depth, so that what is
  computed for a sequence is what would be computed for it alone;
- rows may have a long prefix in common, which is computed once and read from its keys and values.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MAX_ROW_TOKENS = 1024
"""Tokens of a row beyond which no further sequence is added: attention over a row grows with its square."""

MIN_SHARED = 8
"""Sharing fewer tokens than this, or less than a third of the sequence, costs more in attention than it saves."""

MIN_PREFIX = 64
"""A shorter prefix is not worth a pass of its own: it is shared within a row alone."""

PREFIXED_ROW_TOKENS = 256
"""Tokens that rows behind one prefix are filled up to, so that they differ little in length and need little padding."""


@dataclass
class PackedSequence:
    """One row: some sequences, with what they share held once.

    Attributes:
        prefix: token ids in front of all of the row's tokens, computed apart from it.
        offset: what is added to the number of a token for its position: an image may take fewer than tokens.
        tokens: [tokens] ids of the distinct tokens, a parent before its children, depth first.
        depths: [tokens] number of tokens before it, without the prefix.
        ends: [tokens] index behind its last descendant: token i is on the path of j if i <= j < ends[i].
        paths: sequence number -> the indices of its tokens in this row.
    """

    prefix: tuple[int, ...] = ()
    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)
    offset: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_causal(self) -> bool:
        """Whether the row is one chain, for which causal attention is enough."""
        return not self.depths or self.depths[-1] == len(self.depths) - 1

    @property
    def is_chains(self) -> bool:
        """Whether the row is chains one behind the other, which share nothing in the row."""
        return all(depth in (0, before + 1) for before, depth in zip(self.depths, self.depths[1:], strict=False))

    @property
    def length(self) -> int:
        """Tokens of prefix and row."""
        return len(self.prefix) + len(self.tokens)

    def split(self, size: int) -> list[PackedSequence]:
        """Return rows with at most so many sequences each."""
        if len(self.paths) <= size:
            return [self]
        rows: list[PackedSequence] = []
        for index, (number, path) in enumerate(sorted(self.paths.items(), key=lambda item: item[1])):
            if index % size == 0:
                rows.append(PackedSequence(self.prefix))
                places: dict[int, int] = {}
            shared = next((i for i, place in enumerate(path) if place not in places), len(path))
            before = [places[place] for place in path[:shared]]
            rows[-1].add(number, [self.tokens[place] for place in path], before)
            places |= dict(zip(path, rows[-1].paths[number], strict=True))
        return rows

    def add(self, number: int, sequence: Sequence[int], shared: Sequence[int]) -> None:
        """Add a sequence whose first len(shared) tokens are those at the indices `shared`, the last path's or none."""
        if len(shared) == len(sequence):  # nothing new, as for another option of one token
            self.paths[number] = list(shared)
            return
        start, end = len(self.tokens), len(self.tokens) + len(sequence) - len(shared)
        for index in shared:
            self.ends[index] = end
        self.tokens.extend(sequence[len(shared) :])
        self.depths.extend(range(len(shared), len(sequence)))
        self.ends.extend([end] * (end - start))
        self.paths[number] = [*shared, *range(start, end)]


def pack(sequences: Sequence[Sequence[int]], max_tokens: int = MAX_ROW_TOKENS) -> list[PackedSequence]:
    """Pack sequences, numbered by their index in the argument, into rows sorted by tokens.

    Sequences with a prefix worth sharing go into one row while it has at most `max_tokens`; a longer sequence has a row
    to itself.

    Args:
        sequences: token ids of each, none empty.
        max_tokens: most tokens of a row that holds more than one sequence.
    """
    rows: list[PackedSequence] = []
    last: Sequence[int] = ()
    path: list[int] = []
    for number in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        sequence = sequences[number]
        shared = common_prefix_length(last, sequence)
        fits = bool(rows) and len(rows[-1]) + len(sequence) - shared <= max_tokens
        if not fits or shared < MIN_SHARED or 3 * shared < len(sequence):
            rows.append(PackedSequence())
            shared = 0
        rows[-1].add(number, sequence, path[:shared])
        last, path = sequence, rows[-1].paths[number]
    return rows


def pack_with_prefixes(
    sequences: Sequence[Sequence[int]], own: Sequence[int], max_tokens: int = MAX_ROW_TOKENS
) -> list[PackedSequence]:
    """Pack sequences as `pack` does, with the longest common beginnings of many as prefixes of rows.

    A group is all sequences that begin alike; of disjoint groups those are chosen that leave the fewest tokens to
    compute.

    Args:
        sequences: token ids of each, none empty.
        own: for each, how many of its last tokens may not be part of a prefix, at least 1.
        max_tokens: as in `pack`; rows with a prefix get at most `PREFIXED_ROW_TOKENS`.
    """
    of_id = {id(sequence): _sort_key(sequence) for sequence in {id(one): one for one in sequences}.values()}
    keys = [of_id[id(sequence)] for sequence in sequences]
    order = sorted(range(len(sequences)), key=keys.__getitem__)
    rows: list[PackedSequence] = []
    alone: list[int] = []
    position = 0
    for start, stop, length in (*_prefix_groups(keys, own, order), (len(order), len(order), 0)):
        alone += order[position:start]
        rows += _rows_behind(tuple(sequences[order[start]][:length]), sequences, order[start:stop]) if length else []
        position = stop
    packed = pack([sequences[i] for i in alone], max_tokens)
    for row in packed:
        row.paths = {alone[number]: path for number, path in row.paths.items()}
    return [*packed, *rows]


def one_row_per_sequence(
    sequences: Sequence[Sequence[int]], kinds: Sequence[int] | None = None
) -> list[PackedSequence]:
    """Return one row for each distinct sequence, with nothing shared; else as `pack`.

    Args:
        kinds: number for each sequence; equal sequences of different kinds get rows of their own.
    """
    rows: dict[tuple[int, tuple[int, ...]], PackedSequence] = {}
    for number, sequence in enumerate(sequences):
        key = (kinds[number] if kinds else 0, tuple(sequence))
        if key in rows:
            rows[key].paths[number] = next(iter(rows[key].paths.values()))
        else:
            rows[key] = PackedSequence()
            rows[key].add(number, sequence, ())
    return list(rows.values())


def _sort_key(sequence: Sequence[int]) -> bytes:
    """Return 4 bytes a token which sort as the tokens do, those of images included, and are compared far faster."""
    return bytes((np.frombuffer(array("q", sequence), np.int64) + (1 << 31)).astype(">u4"))


def _prefix_groups(keys: Sequence[bytes], own: Sequence[int], order: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (start, stop, length) of disjoint groups in sorted order whose common prefix is worth a pass, ascending.

    Common prefixes of sorted sequences form a tree of intervals; each interval saves (size - 1) * length tokens, and
    the best choice within it is either itself or the best ones of its children.
    """
    open_intervals: list[_Interval] = [_Interval(0, 0)]
    for i in range(1, len(order) + 1):
        shared = -1
        if i < len(order):
            before, here = order[i - 1], order[i]
            common = common_prefix_length(keys[before], keys[here]) // 4
            shared = min(common, *(len(keys[n]) // 4 - own[n] for n in (before, here)))
        start, inner = i - 1, None
        while open_intervals and open_intervals[-1].length > shared:
            closed = open_intervals.pop()
            closed.close(i)
            start = closed.start
            if open_intervals and open_intervals[-1].length >= shared:
                open_intervals[-1].add(closed)
            else:
                inner = closed
        if shared >= 0 and open_intervals[-1].length < shared:
            open_intervals.append(_Interval(shared, start))
            if inner is not None:
                open_intervals[-1].add(inner)
    return closed.groups if order else []


class _Interval:
    """Sequences from `start` on, in sorted order, that share their first `length` tokens."""

    def __init__(self, length: int, start: int) -> None:
        self.length, self.start = length, start
        self.saved = 0
        self.groups: list[tuple[int, int, int]] = []

    def add(self, child: _Interval) -> None:
        self.saved += child.saved
        self.groups += child.groups

    def close(self, stop: int) -> None:
        saved = (stop - self.start - 1) * self.length
        if self.length >= MIN_PREFIX and saved >= self.saved:
            self.saved, self.groups = saved, [(self.start, stop, self.length)]


def _rows_behind(
    prefix: tuple[int, ...], sequences: Sequence[Sequence[int]], numbers: Sequence[int]
) -> list[PackedSequence]:
    """Return rows of what follows a prefix in some sequences; several trees share a row, so that rows are alike."""
    trees = pack([sequences[i][len(prefix) :] for i in numbers], PREFIXED_ROW_TOKENS)
    total = sum(len(tree) for tree in trees)
    count = max(1, -(-total // PREFIXED_ROW_TOKENS))
    rows = [PackedSequence(prefix) for _ in range(count)]
    shortest = [(0, n) for n in range(count)]
    for tree in sorted(trees, key=len, reverse=True):
        offset, n = heapq.heappop(shortest)
        row = rows[n]
        row.tokens += tree.tokens
        row.depths += tree.depths
        row.ends += [offset + end for end in tree.ends]
        row.paths |= {numbers[n]: [offset + index for index in path] for n, path in tree.paths.items()}
        heapq.heappush(shortest, (len(row), n))
    return [row for row in rows if row.tokens]


def common_prefix_length(first: Sequence[int] | str | bytes, second: Sequence[int] | str | bytes) -> int:
    """Return the number of tokens, characters or bytes with which both sequences begin."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while low < high:  # slices are compared in C
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
