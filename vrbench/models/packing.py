"""Token sequences -> packed rows that hold every shared prefix once (no torch).

Questions on one image share their system prompt and the image; the options of a question share the question. A packed
row is a tree of tokens: each token attends only to those on its own path, at its own depth, so that what is computed
for a sequence is what would be computed for it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_ROW_TOKENS = 1024
"""Tokens of a row beyond which no further sequence is added: attention over a row grows with its square."""

MIN_SHARED = 8
"""Sharing fewer tokens than this, or less than a third of the sequence, costs more in attention than it saves."""


@dataclass
class PackedSequence:
    """One row: some sequences, with what they share held once.

    Attributes:
        tokens: [tokens] ids of the distinct tokens, a parent before its children.
        parents: [tokens] index of the token before, -1 for the first.
        depths: [tokens] number of tokens before, which is the token's position.
        paths: sequence number -> the indices of its tokens in this row.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_causal(self) -> bool:
        """Whether the row is one chain, for which causal attention is enough."""
        return all(parent == index - 1 for index, parent in enumerate(self.parents))

    def add(self, number: int, sequence: Sequence[int], shared: Sequence[int]) -> None:
        """Add a sequence whose first len(shared) tokens are those at the indices `shared`."""
        path = list(shared)
        for token in sequence[len(shared) :]:
            self.parents.append(path[-1] if path else -1)
            self.depths.append(len(path))
            path.append(len(self.tokens))
            self.tokens.append(token)
        self.paths[number] = path


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
        shared = _common_prefix(last, sequence)
        fits = bool(rows) and len(rows[-1]) + len(sequence) - shared <= max_tokens
        if not fits or shared < MIN_SHARED or 3 * shared < len(sequence):
            rows.append(PackedSequence())
            shared = 0
        rows[-1].add(number, sequence, path[:shared])
        last, path = sequence, rows[-1].paths[number]
    return rows


def one_row_per_sequence(sequences: Sequence[Sequence[int]]) -> list[PackedSequence]:
    """Return one row for each distinct sequence, with nothing shared; else as `pack`."""
    rows: dict[tuple[int, ...], PackedSequence] = {}
    for number, sequence in enumerate(sequences):
        row = rows.setdefault(tuple(sequence), PackedSequence())
        row.add(number, sequence, range(len(row)))
    return list(rows.values())


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
