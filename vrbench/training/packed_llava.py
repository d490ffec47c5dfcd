"""A LLaVA model on packed rows: its loss, its correct answers, and its perplexity on text."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vrbench.training.packing import EncodedImages, PackedBatch, PackedDataset, PackedRow
from vrbench.training.trainable import unwrapped
from vrbench.training.trainer import Loss

DEV_BATCH = 64
COMPILED_SHARE = 0.96  # share of the rows that fit the compiled length; padding all to the longest costs a third more


class PackedLlava:
    """A LLaVA model (PEFT's around it or not) and the type that it is trained and measured in."""

    def __init__(self, model: Any, image_token: int, pad: int, dtype: str) -> None:
        self.model, self.inner = model, unwrapped(model)
        self.image_token, self.pad = image_token, pad
        self.device = next(model.parameters()).device
        self.autocast = torch.autocast(self.device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32")
        self.length = 0  # that all rows are padded to, for a compiled model; 0 for none

    def compile(self, rows: Sequence[PackedRow]) -> None:
        """Compile the decoder layers for one length of rows; the few longer rows are not trained on."""
        lengths = np.array([len(r.tokens) for r in rows])
        self.length = int(-(-np.quantile(lengths, COMPILED_SHARE) // 32) * 32)
        for layer in self.inner.model.language_model.layers:
            layer.compile(dynamic=False)

    def fitting(self, rows: Sequence[PackedRow]) -> NDArray[np.int64]:
        """Return the indices of the rows that are not longer than the compiled length; all when there is none."""
        return np.array([i for i, row in enumerate(rows) if len(row.tokens) <= (self.length or len(row.tokens))])

    def states(self, batch: PackedBatch, first: int) -> Tensor:
        """Return the last hidden states of the LLM: [n, length, hidden].

        Args:
            batch: rows and features.
            first: position of the first image token, the same in every row; to find it here would wait for the GPU.
        """
        inner = self.inner.model
        embedded = inner.get_input_embeddings()(batch.tokens)
        features = batch.features.to(next(inner.multi_modal_projector.parameters()).dtype)  # bfloat16 on a GPU
        images = inner.multi_modal_projector(features).to(embedded.dtype)
        embedded = torch.cat([embedded[:, :first], images, embedded[:, first + images.shape[1] :]], dim=1)
        return inner.language_model(
            inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.position, use_cache=False
        ).last_hidden_state

    def first_image_token(self, row: PackedRow) -> int:
        """Return its position, which is the same in all rows."""
        return int(np.flatnonzero(row.tokens == self.image_token)[0])

    def loss(self, rows: PackedDataset, first: int) -> Loss:
        """Return the loss of batches of rows: cross-entropy summed over answer tokens, the LM head on these alone."""

        def loss(model: Any, batch: dict[str, Any]) -> Tensor:
            packed = rows.batch(batch["rows"], batch["length"])
            with self.autocast:
                logits = self.answer_logits(packed, batch["answers"], first)
            target = packed.target.flatten()[batch["answers"]]
            return nn.functional.cross_entropy(logits.float(), target, reduction="sum")

        return loss

    def answer_logits(self, batch: PackedBatch, answers: Tensor, first: int) -> Tensor:
        """Return the logits [answer tokens, vocabulary] at positions of the rows end to end."""
        return self.inner.lm_head(self.states(batch, first).flatten(0, 1)[answers])

    @torch.inference_mode()
    def accuracy(self, data: EncodedImages) -> dict[str, float]:
        """Return the share of turns whose answer tokens are all the likeliest, by kind, and their mean, in percent."""
        rows, first = PackedDataset.of([data], self.pad, self.device), self.first_image_token(data.rows[0])
        hits: dict[str, list[float]] = defaultdict(list)
        for start in range(0, len(rows), DEV_BATCH):
            indices = range(start, min(start + DEV_BATCH, len(rows)))
            batch = rows.collate(indices)
            answers = batch["answers"].to(self.device)
            packed = rows.batch(batch["rows"].to(self.device), batch["length"])
            with self.autocast, torch.compiler.set_stance("force_eager"):  # rows of many lengths
                logits = self.answer_logits(packed, answers, first)
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
