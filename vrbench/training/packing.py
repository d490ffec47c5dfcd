"""All questions of a picture in one row: each sees the picture and itself, and costs no second encoding.

A row is [prefix with the picture][turn 1][turn 2]...; positions restart after the prefix and a turn's tokens attend
to the prefix and to their own turn only, so that each turn computes what it would compute alone.
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

IGNORED = -100


@dataclass(frozen=True)
class Row:
    """One picture's tokens.

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
class Batch:
    """Rows padded to one length, on the device; mask is [n, 1, length, length], true where attention is allowed."""

    tokens: Tensor
    position: Tensor
    target: Tensor
    turn: Tensor
    mask: Tensor


class Packer:
    """Writes turns as the tokenizer's chat template does, with the picture first."""

    def __init__(self, tokenizer: Any, image_tokens: int, image_token: str = "<image>") -> None:
        self.tokenizer = tokenizer
        opened, closed = self._around(tokenizer, image_token)
        pictured = opened.replace(image_token, image_token * image_tokens)
        self.prefix = tokenizer.encode(pictured, add_special_tokens=False)
        self.between = tokenizer.encode(closed, add_special_tokens=False)
        self.end = [tokenizer.eos_token_id]

    @staticmethod
    def _around(tokenizer: Any, image_token: str) -> tuple[str, str]:
        """The chat's text before and after a question."""
        message = [{"role": "user", "content": f"{image_token}\nQUESTION"}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        opened, closed = text.split("QUESTION")
        return opened, closed

    def rows(self, turns: Sequence[Sequence[TrainingTurn]]) -> list[Row]:
        """One row a picture."""
        flat = [t for asked in turns for t in asked]
        prompts = self._encode([t.prompt for t in flat])
        answers = self._encode([t.answer for t in flat])
        made, at = [], 0
        for asked in turns:
            span = slice(at, at + len(asked))
            made.append(self._row(prompts[span], answers[span], tuple(t.kind for t in asked)))
            at += len(asked)
        return made

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def _row(self, prompts: list[list[int]], answers: list[list[int]], kinds: tuple[str, ...]) -> Row:
        start = len(self.prefix)
        tokens, turn, position = list(self.prefix), [0] * start, list(range(start))
        target = [IGNORED] * start
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1):
            asked, said = prompt + self.between, answer + self.end
            whole = asked + said[:-1]
            tokens += whole
            turn += [number] * len(whole)
            position += range(start, start + len(whole))
            target += [IGNORED] * (len(asked) - 1) + said
        return Row(
            np.array(tokens, np.int32), np.array(turn, np.int16), np.array(position, np.int16),
            np.array(target, np.int32), kinds,
        )  # fmt: skip


def collate(rows: Sequence[Row], pad: int, device: torch.device, length: int = 0) -> Batch:
    """Pad rows to `length`, or to the longest of them if that is more, and build the mask on the device."""
    longest = max(length, *(len(r.tokens) for r in rows))

    def stack(name: str, fill: int) -> Tensor:
        out = np.full((len(rows), longest), fill, dtype=np.int64)
        for i, row in enumerate(rows):
            values = getattr(row, name)
            out[i, : len(values)] = values
        return torch.from_numpy(out).to(device, non_blocking=True)

    turn = stack("turn", -1)
    mask = masked(turn, longest)
    return Batch(stack("tokens", pad), stack("position", 0), stack("target", IGNORED), turn, mask)


def masked(turn: Tensor, length: int) -> Tensor:
    """Where attention is allowed: [n, 1, length, length], of the turn numbers [n, length] of rows."""
    causal = torch.ones(length, length, dtype=torch.bool, device=turn.device).tril()
    same = turn[:, :, None] == turn[:, None, :]
    return (causal & (same | (turn[:, None, :] == 0)))[:, None]
