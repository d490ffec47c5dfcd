"""All questions on an image in one row: each attends to the image and to itself, and needs no second encoding of it.

A row is [prefix with the image][turn 1][turn 2]...; positions restart after the prefix and a turn's tokens attend to
the prefix and to their own turn only, so that each turn computes what it would compute alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrbench.pocket.turns import TrainingTurn
from vrbench.training.trainer import IGNORED

FILL = {"turn": -1, "position": 0, "target": IGNORED}
FIELDS = ("tokens", "turn", "position", "target")
"""Arrays of a row, by name."""


@dataclass(frozen=True)
class PackedRow:
    """One image's tokens.

    Attributes:
        tokens: [length] token ids, image tokens included.
        turn: [length] 0 in the prefix, 1, 2, ... in the turns.
        position: [length] position ids.
        target: [length] id of the next token where it belongs to an answer, else IGNORED.
        kinds: kind of each turn.
    """

    tokens: NDArray[np.int32]
    turn: NDArray[np.int16]
    position: NDArray[np.int16]
    target: NDArray[np.int32]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class EncodedImages:
    """Images after the tower: features [n, patches, width], and one packed row for each."""

    features: Tensor
    rows: list[PackedRow]


class Packer:
    """Writes turns as the tokenizer's chat template does, with the image first."""

    def __init__(self, tokenizer: Any, image_tokens: int, image_token: str = "<image>") -> None:
        self.tokenizer = tokenizer
        message = [{"role": "user", "content": f"{image_token}\nQUESTION"}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        before, after = text.split("QUESTION")
        with_image = before.replace(image_token, image_token * image_tokens)
        self.prefix = tokenizer.encode(with_image, add_special_tokens=False)
        self.between = tokenizer.encode(after, add_special_tokens=False)
        self.end = [tokenizer.eos_token_id]

    def rows(self, turns: Sequence[Sequence[TrainingTurn]]) -> list[PackedRow]:
        """Return one row for each image's turns."""
        flat = [turn for of_image in turns for turn in of_image]
        prompts = self._encode([turn.prompt for turn in flat])
        answers = self._encode([turn.answer for turn in flat])
        made, at = [], 0
        for of_image in turns:
            span = slice(at, at + len(of_image))
            made.append(self._row(prompts[span], answers[span], tuple(turn.kind for turn in of_image)))
            at += len(of_image)
        return made

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def _row(self, prompts: list[list[int]], answers: list[list[int]], kinds: tuple[str, ...]) -> PackedRow:
        start = len(self.prefix)
        tokens, turn, position = list(self.prefix), [0] * start, list(range(start))
        target = [IGNORED] * start
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1):
            asked, answered = prompt + self.between, answer + self.end
            whole = asked + answered[:-1]
            tokens += whole
            turn += [number] * len(whole)
            position += range(start, start + len(whole))
            target += [IGNORED] * (len(asked) - 1) + answered
        return PackedRow(
            np.array(tokens, np.int32), np.array(turn, np.int16), np.array(position, np.int16),
            np.array(target, np.int32), kinds,
        )  # fmt: skip


@dataclass(frozen=True)
class PackedBatch:
    """Some rows of one length on the device; mask is [n, 1, length, length], true where attention is allowed."""

    features: Tensor
    tokens: Tensor
    position: Tensor
    target: Tensor
    turn: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PackedDataset:
    """Rows padded to one length, with their images' features, on the device.

    A step moves nothing but indices to a GPU and never waits for it: the rows lie there, and the positions of answers
    are known here.

    Attributes:
        features: [n, patches, width].
        tokens, turn, position, target: [n, length], as in `PackedRow`.
        lengths: [n] tokens of each row, on the CPU.
        answers: positions of the tokens that have a loss, for each row, on the CPU.
        fixed: whether every batch has the full length, for a compiled model; else that of its longest row.
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
    def of(cls, parts: Sequence[EncodedImages], pad: int, device: torch.device, length: int = 0) -> PackedDataset:
        """Return the rows of all parts, concatenated.

        Args:
            parts: data.
            pad: id of the padding token.
            device: where the rows are put.
            length: that every row is padded or truncated to; 0 pads to the longest.
        """
        rows = [row for part in parts for row in part.rows]
        longest = length or max(len(row.tokens) for row in rows)
        arrays = {
            name: torch.from_numpy(_padded(rows, name, longest, FILL.get(name, pad))).to(device) for name in FIELDS
        }
        features = parts[0].features if len(parts) == 1 else torch.cat([part.features for part in parts])
        return cls(
            features=features.to(device), lengths=np.array([min(len(row.tokens), longest) for row in rows]),
            answers=[np.flatnonzero(row.target[:longest] != IGNORED) for row in rows], fixed=bool(length), **arrays,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.tokens.shape[1])

    def collate(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a batch: the rows' indices, their length, and the positions with a loss in all rows end to end."""
        length = self.longest if self.fixed else int(self.lengths[list(indices)].max())
        answers = np.concatenate([row * length + self.answers[index] for row, index in enumerate(indices)])
        return {
            "rows": torch.tensor(indices), "length": length, "answers": torch.from_numpy(answers),
            "items": len(answers),
        }  # fmt: skip

    def batch(self, indices: Tensor, length: int) -> PackedBatch:
        """Return some rows, cut to a length."""
        tokens, position, target, turn = (
            getattr(self, name)[indices, :length].long() for name in ("tokens", "position", "target", "turn")
        )
        return PackedBatch(self.features[indices], tokens, position, target, turn, attention_mask(turn))


def _padded(rows: Sequence[PackedRow], name: str, length: int, fill: int) -> Any:
    padded = np.full((len(rows), length), fill, dtype=getattr(rows[0], name).dtype)
    for i, row in enumerate(rows):
        values = getattr(row, name)[:length]
        padded[i, : len(values)] = values
    return padded


def attention_mask(turn: Tensor) -> Tensor:
    """Return where attention is allowed, [n, 1, length, length], for the turn numbers [n, length] of rows."""
    causal = torch.ones(turn.shape[1], turn.shape[1], dtype=torch.bool, device=turn.device).tril()
    same = turn[:, :, None] == turn[:, None, :]
    return (causal & (same | (turn[:, None, :] == 0)))[:, None]
