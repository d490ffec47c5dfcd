"""A LLaVA model on packed rows: features and rows in; the loss, right answers, or the perplexity of text out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vrbench.training.features import Encoded
from vrbench.training.packed import PackedRows
from vrbench.training.packing import IGNORED, Batch, Row, collate
from vrbench.training.trainable import core_of
from vrbench.training.trainer import Loss

DEV_BATCH = 64
KEPT_WHEN_COMPILED = 0.96  # share of the rows that fit; padding all to the longest would cost a third more


class Learner:
    """A LLaVA model under training, with the compute type that it is trained and measured in."""

    def __init__(self, model: Any, image_token: int, pad: int, dtype: str) -> None:
        self.model = model  # a LlavaForConditionalGeneration, or a PeftModel around one
        self.core = core_of(model)
        self.image_token, self.pad = image_token, pad
        self.device = next(model.parameters()).device
        self.autocast = torch.autocast(self.device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32")
        self.length = 0  # rows are padded to this many tokens; one length for all steps suits a compiled model

    def compile(self, rows: Sequence[Row]) -> None:
        """Compile the decoder layers for one length of rows; the few longer rows are left out of the training."""
        lengths = np.array([len(r.tokens) for r in rows])
        self.length = int(-(-np.quantile(lengths, KEPT_WHEN_COMPILED) // 32) * 32)
        for layer in self.core.model.language_model.layers:
            layer.compile(dynamic=False)

    def fitting(self, rows: Sequence[Row]) -> NDArray[np.int64]:
        """Numbers of the rows that are not longer than what was compiled; all when nothing was."""
        return np.array([i for i, row in enumerate(rows) if len(row.tokens) <= (self.length or len(row.tokens))])

    def states(self, features: Tensor, batch: Batch, first: int) -> Tensor:
        """Last hidden states of the LLM: [n, length, hidden].

        Args:
            features: [n, patches, width of the tower].
            batch: rows.
            first: place of the first image token, the same in every row: what is known needs no look at the card.
        """
        inner = self.core.model
        embedded = inner.get_input_embeddings()(batch.tokens)
        exact = features.to(next(inner.multi_modal_projector.parameters()).dtype)  # a card keeps them as bfloat16
        pictures = inner.multi_modal_projector(exact).to(embedded.dtype)
        behind = first + pictures.shape[1]
        embedded = torch.cat([embedded[:, :first], pictures, embedded[:, behind:]], dim=1)
        return inner.language_model(
            inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.position, use_cache=False
        ).last_hidden_state

    def first_image_token(self, row: Row) -> int:
        """Its place, which rows share since they begin alike."""
        return int(np.flatnonzero(row.tokens == self.image_token)[0])

    def summed_loss(self, rows: PackedRows, first: int) -> Loss:
        """The loss of batches of rows: cross-entropy summed over answer tokens, the LM head on these alone."""

        def loss(model: Any, batch: dict[str, Any]) -> Tensor:
            features, packed = rows.batch(batch["rows"], batch["length"])
            with self.autocast:
                states = self.states(features, packed, first)
                logits = self.core.lm_head(states.flatten(0, 1)[batch["answers"]])
            target = packed.target.flatten()[batch["answers"]]
            return nn.functional.cross_entropy(logits.float(), target, reduction="sum")

        return loss

    def answer_logits(self, features: Tensor, rows: Sequence[Row], length: int = 0) -> tuple[Tensor, Batch]:
        """Logits [answer tokens, vocabulary] of some rows, and the rows as they were computed."""
        batch = collate(rows, self.pad, self.device, length)
        states = self.states(features.to(self.device), batch, self.first_image_token(rows[0]))
        return self.core.lm_head(states[batch.target != IGNORED]), batch

    @torch.inference_mode()
    def right(self, data: Encoded) -> dict[str, float]:
        """Share of dev turns whose every answer token is the likeliest one, by kind, and their mean, in percent."""
        hits: dict[str, list[float]] = defaultdict(list)
        for start in range(0, len(data.rows), DEV_BATCH):
            rows = data.rows[start : start + DEV_BATCH]
            with self.autocast, torch.compiler.set_stance("force_eager"):  # rows of many lengths
                logits, batch = self.answer_logits(data.features[start : start + DEV_BATCH], rows)
            wrong = torch.zeros_like(batch.target, dtype=torch.bool)
            answered = batch.target != IGNORED
            wrong[answered] = logits.argmax(-1) != batch.target[answered]
            wrong, turn = wrong.cpu(), batch.turn.cpu()
            for i, row in enumerate(rows):
                for number, kind in enumerate(row.kinds, start=1):
                    hits[kind].append(float(not wrong[i, turn[i] == number].any()))
        shares = {kind: 100 * float(np.mean(h)) for kind, h in sorted(hits.items())}
        return {**shares, "mean": float(np.mean(list(shares.values())))}

    @torch.inference_mode()
    def perplexity(self, tokenizer: Any, passages: Sequence[str], length: int = 512) -> float:
        """Word perplexity of the LLM on passages, each cut to `length` tokens: a cheap look at what text it keeps."""
        nats, words = 0.0, 0
        for passage in passages:
            ids = torch.tensor([tokenizer.encode(passage, add_special_tokens=False)[:length]], device=self.device)
            with self.autocast, torch.compiler.set_stance("force_eager"):
                states = self.core.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
                logits = self.core.lm_head(states[:, :-1])
            found = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum")
            nats += float(found)
            words += len(tokenizer.decode(ids[0]).split())
        return math.exp(nats / words)
