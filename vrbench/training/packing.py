"""All questions on an image in one row: each attends to the image and to itself, and needs no second encoding of it.

A row is [prefix with the image][turn 1][turn 2]...; positions restart after the prefix and a turn's tokens attend to
the prefix and to their own turn only, so that each turn computes what it would compute alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vrbench.pocket.turns import TrainingTurn
from vrbench.training.token_loss import token_loss
from vrbench.training.trainable import unwrap_peft
from vrbench.training.trainer import IGNORED, Loss

DEV_BATCH = 64
COMPILED_SHARE = 0.96  # share of the rows that fit the compiled length; padding all to the longest costs a third more
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
            question, target_tokens = prompt + self.between, answer + self.end
            row = question + target_tokens[:-1]
            tokens += row
            turn += [number] * len(row)
            position += range(start, start + len(row))
            target += [IGNORED] * (len(question) - 1) + target_tokens
        return PackedRow(
            np.array(tokens, np.int32), np.array(turn, np.int16), np.array(position, np.int16),
            np.array(target, np.int32), kinds,
        )  # fmt: skip


@dataclass(frozen=True)
class RowBatch:
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

    A step moves nothing but indices to a GPU and never waits for it: the rows are there, and the positions of answers
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
    def concat(cls, parts: Sequence[EncodedImages], pad: int, device: torch.device, length: int = 0) -> PackedDataset:
        """Return the rows of all parts, concatenated, padded (or truncated) to a length; 0 pads to the longest."""
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
            "items": [len(self.answers[index]) for index in indices], "tokens": int(self.lengths[list(indices)].sum()),
        }  # fmt: skip

    def batch(self, indices: Tensor, length: int) -> RowBatch:
        """Return some rows, cut to a length."""
        tokens, position, target, turn = (
            getattr(self, name)[indices, :length].long() for name in ("tokens", "position", "target", "turn")
        )
        return RowBatch(self.features[indices], tokens, position, target, turn, attention_mask(turn))


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


class PackedLlava:
    """A LLaVA model (PEFT's around it or not) and the type that it is trained and measured in.

    Attributes:
        first: position of the first image token, the same in all rows.
        pad: token that rows are padded with.
        length: tokens that all rows are padded to, for a compiled model; 0 for none.
    """

    def __init__(self, model: Any, first: int, pad: int, dtype: str) -> None:
        self.model, self.inner = model, unwrap_peft(model)
        self.first, self.pad, self.length = first, pad, 0
        self.device = next(model.parameters()).device
        self.autocast = torch.autocast(self.device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32")

    def fix_length(self, rows: Sequence[PackedRow]) -> None:
        """Choose one length of all rows, for compiled layers; the few longer rows are not trained on."""
        lengths = np.array([len(r.tokens) for r in rows])
        self.length = int(-(-np.quantile(lengths, COMPILED_SHARE) // 32) * 32)

    def fitting(self, rows: Sequence[PackedRow]) -> NDArray[np.int64]:
        """Return the indices of the rows that are not longer than the compiled length; all when there is none."""
        return np.array([i for i, row in enumerate(rows) if len(row.tokens) <= (self.length or len(row.tokens))])

    def loss(self, rows: PackedDataset) -> Loss:
        """Return the loss of batches of rows: cross-entropy summed over answer tokens."""

        def loss(model: Any, batch: dict[str, Any]) -> Tensor:
            packed = rows.batch(batch["rows"], batch["length"])
            target = packed.target.flatten()[batch["answers"]]
            weights = batch.get("weights")
            if weights is not None:
                weights = weights[batch["answers"] // batch["length"]]
            with self.autocast:
                return token_loss(self.answer_states(packed, batch["answers"]), target, self.inner.lm_head, weights)

        return loss

    def answer_states(self, batch: RowBatch, answers: Tensor) -> Tensor:
        """Return the LM head's input [answer tokens, width] at positions of the rows end to end."""
        inner = self.inner.model
        embedded = inner.get_input_embeddings()(batch.tokens)
        features = batch.features.to(next(inner.multi_modal_projector.parameters()).dtype)  # bfloat16 on a GPU
        images = inner.multi_modal_projector(features).to(embedded.dtype)
        rest = embedded[:, self.first + images.shape[1] :]
        mask = batch.mask
        if inner.language_model.config._attn_implementation == "eager":  # which adds the mask to the scores
            mask = torch.zeros_like(mask, dtype=embedded.dtype).masked_fill(~mask, torch.finfo(embedded.dtype).min)
        states = inner.language_model(
            inputs_embeds=torch.cat([embedded[:, : self.first], images, rest], dim=1), attention_mask=mask,
            position_ids=batch.position, use_cache=False,
        ).last_hidden_state  # fmt: skip
        return states.flatten(0, 1)[answers]

    @torch.inference_mode()
    def accuracy(self, data: EncodedImages) -> dict[str, float]:
        """Return the share of turns whose answer tokens are all the likeliest, by kind, and their mean, in percent."""
        rows = PackedDataset.concat([data], self.pad, self.device)
        hits: dict[str, list[float]] = defaultdict(list)
        for start in range(0, len(rows), DEV_BATCH):
            indices = range(start, min(start + DEV_BATCH, len(rows)))
            batch = rows.collate(indices)
            answers = batch["answers"].to(self.device)
            packed = rows.batch(batch["rows"].to(self.device), batch["length"])
            with self.autocast, torch.compiler.set_stance("force_eager"):  # rows of many lengths
                logits = self.inner.lm_head(self.answer_states(packed, answers))
            wrong = torch.zeros_like(packed.target, dtype=torch.bool).flatten()
            wrong[answers] = logits.argmax(-1) != packed.target.flatten()[answers]
            wrong, turn = wrong.view_as(packed.target).cpu(), packed.turn.cpu()
            for i, index in enumerate(indices):
                for number, kind in enumerate(data.rows[index].kinds, start=1):
                    hits[kind].append(float(not wrong[i, turn[i] == number].any()))
        shares = {kind: 100 * float(np.mean(h)) for kind, h in sorted(hits.items())}
        return {**shares, "mean": float(np.mean(list(shares.values())))}

    @torch.inference_mode()
    def perplexity(self, tokenizer: Any, passages: Sequence[str], length: int = 512) -> float:
        """Return the word perplexity of the LLM on passages, each truncated to `length` tokens."""
        nats, words = 0.0, 0
        for passage in passages:
            ids = torch.tensor([tokenizer.encode(passage, add_special_tokens=False)[:length]], device=self.device)
            with self.autocast, torch.compiler.set_stance("force_eager"):
                states = self.inner.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
                logits = self.inner.lm_head(states[:, :-1])
            nats += float(
                nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum")
            )
            words += len(tokenizer.decode(ids[0]).split())
        return math.exp(nats / words)
