"""Encoded pictures and their packed rows as what the trainer draws from: all of it on the device, drawn by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrbench.training.features import FIELDS, Encoded
from vrbench.training.packing import IGNORED, Batch, Row, masked

FILL = {"turn": -1, "position": 0, "target": IGNORED}


@dataclass(frozen=True)
class PackedRows:
    """Rows padded to one length, with their pictures' features, on the device.

    A step costs its numbers and nothing else on the way to a card, and never waits for it: the rows lie there, and
    where answers are is known here.

    Attributes:
        features: [n, patches, width].
        tokens, turn, position, target: [n, length], as in `Row`.
        lengths: [n] tokens of each row, on the CPU.
        answers: places of the tokens that carry loss, for each row, on the CPU.
        fixed: whether every batch has the full length, as a compiled model wants it; else its longest row's.
    """

    features: Tensor
    tokens: Tensor
    turn: Tensor
    position: Tensor
    target: Tensor
    lengths: NDArray[np.int64]
    answers: list[NDArray[np.int64]]
    fixed: bool

    @classmethod
    def of(cls, parts: Sequence[Encoded], pad: int, device: torch.device, length: int = 0) -> PackedRows:
        """The rows of some data, one after the other; the first row of the second has the number len(first).

        Args:
            parts: data.
            pad: id of the padding token.
            device: where the rows shall lie.
            length: that every row is padded to, or cut to; 0 pads to the longest.
        """
        rows = [row for part in parts for row in part.rows]
        longest = length or max(len(row.tokens) for row in rows)
        made = {name: torch.from_numpy(_padded(rows, name, longest, FILL.get(name, pad))).to(device) for name in FIELDS}
        features = parts[0].features if len(parts) == 1 else torch.cat([part.features for part in parts])
        return cls(
            features=features.to(device), lengths=np.array([min(len(row.tokens), longest) for row in rows]),
            answers=[np.flatnonzero(row.target[:longest] != IGNORED) for row in rows], fixed=bool(length), **made,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> int:
        return number

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.tokens.shape[1])

    def collate(self, numbers: list[int]) -> dict[str, Any]:
        """A batch: the rows' numbers, their length, and where in all their tokens, end to end, those with loss are."""
        length = self.longest if self.fixed else int(self.lengths[numbers].max())
        answers = np.concatenate([row * length + self.answers[number] for row, number in enumerate(numbers)])
        return {
            "rows": torch.tensor(numbers), "length": length, "answers": torch.from_numpy(answers),
            "items": len(answers),
        }  # fmt: skip

    def batch(self, numbers: Tensor, length: int) -> tuple[Tensor, Batch]:
        """(features, rows) of some numbers on the device."""
        tokens, position, target, turn = (
            getattr(self, name)[numbers, :length].long() for name in ("tokens", "position", "target", "turn")
        )
        return self.features[numbers], Batch(tokens, position, target, turn, masked(turn, length))


def _padded(rows: Sequence[Row], name: str, length: int, fill: int) -> Any:
    out = np.full((len(rows), length), fill, dtype=getattr(rows[0], name).dtype)
    for i, row in enumerate(rows):
        values = getattr(row, name)[:length]
        out[i, : len(values)] = values
    return out
