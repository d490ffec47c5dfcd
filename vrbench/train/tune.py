"""Stages 'align' and 'tune': the projector on captions, then LoRA on chosen layers together with the projector."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vrbench.layers import LayerSet
from vrbench.train.features import Encoded
from vrbench.train.loop import optimize
from vrbench.train.packing import IGNORED, Batch, Row, collate
from vrbench.train.recipe import Align, TrainRecipe, Tune

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DEV_BATCH = 64
KEPT_WHEN_COMPILED = 0.96  # share of the rows that fit; padding all to the longest would cost a third more


class Learner:
    """A LLaVA model under training: features in, loss or right answers out."""

    def __init__(self, model: Any, image_token: int, pad: int, dtype: str) -> None:
        self.model = model  # a LlavaForConditionalGeneration, or a PeftModel around one
        self.core = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.image_token, self.pad = image_token, pad
        self.device = next(model.parameters()).device
        self.autocast = torch.autocast(self.device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32")
        self.length = 0  # rows are padded to this many tokens; one length for all steps suits a compiled model
        for name, parameter in self.core.model.language_model.named_parameters():
            if "lora_" not in name:  # frozen: no master weights needed, and half the traffic
                parameter.requires_grad_(False)
                parameter.data = parameter.data.to(getattr(torch, dtype))

    def compile(self, rows: Sequence[Row]) -> None:
        """Compile the decoder layers for one length of rows; the few longer rows are left out of the training."""
        lengths = np.array([len(r.tokens) for r in rows])
        self.length = int(-(-np.quantile(lengths, KEPT_WHEN_COMPILED) // 32) * 32)
        for layer in self.core.model.language_model.layers:
            layer.compile(dynamic=False)

    def fitting(self, rows: Sequence[Row]) -> NDArray[np.int64]:
        """Numbers of the rows that are not longer than what was compiled; all when nothing was."""
        return np.array([i for i, row in enumerate(rows) if len(row.tokens) <= (self.length or len(row.tokens))])

    def states(self, features: Tensor, batch: Batch) -> Tensor:
        """Last hidden states of the LLM: [n, length, hidden]."""
        inner = self.core.model
        embedded = inner.get_input_embeddings()(batch.tokens)
        pictures = inner.multi_modal_projector(features).to(embedded.dtype)
        holes = (batch.tokens == self.image_token)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(holes, pictures)
        return inner.language_model(
            inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.position, use_cache=False
        ).last_hidden_state

    def answer_logits(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [answer tokens, vocabulary] and targets [answer tokens], the LM head on answers only."""
        states = self.states(features, batch)
        answered = batch.target != IGNORED
        return self.core.lm_head(states[answered]), batch.target[answered]

    def loss(self, features: Tensor, rows: Sequence[Row]) -> Tensor:
        """Mean cross-entropy over answer tokens."""
        with self.autocast:
            logits, target = self.answer_logits(features, collate(rows, self.pad, self.device, self.length))
        return nn.functional.cross_entropy(logits.float(), target)

    @torch.inference_mode()
    def right(self, data: Encoded) -> dict[str, float]:
        """Share of dev turns whose every answer token is the likeliest one, by kind, and their mean, in percent."""
        hits: dict[str, list[float]] = defaultdict(list)
        for start in range(0, len(data.rows), DEV_BATCH):
            rows = data.rows[start : start + DEV_BATCH]
            batch = collate(rows, self.pad, self.device)
            with self.autocast, torch.compiler.set_stance("force_eager"):  # rows of many lengths
                logits, target = self.answer_logits(data.features[start : start + DEV_BATCH].to(self.device), batch)
            wrong = torch.zeros_like(batch.target, dtype=torch.bool)
            wrong[batch.target != IGNORED] = logits.argmax(-1) != target
            for i, row in enumerate(rows):
                for number, kind in enumerate(row.kinds, start=1):
                    hits[kind].append(float(not wrong[i, batch.turn[i] == number].any()))
        shares = {kind: 100 * float(np.mean(h)) for kind, h in sorted(hits.items())}
        return {**shares, "mean": float(np.mean(list(shares.values())))}


def align(learner: Learner, data: Encoded, recipe: TrainRecipe) -> list[float]:
    """Train the projector alone; returns the losses."""
    settings = recipe.align
    assert settings is not None
    for parameter in learner.model.parameters():
        parameter.requires_grad_(False)
    projector = learner.core.model.multi_modal_projector
    groups = [{"params": _thawed(projector), "lr": settings.lr, "weight_decay": 0.0}]
    return _run(learner, data, None, recipe, settings, groups, "align")


def tune(learner: Learner, data: Encoded, extra: Encoded | None, recipe: TrainRecipe) -> list[float]:
    """Train LoRA and projector; the model must carry the adapter already. Returns the losses."""
    settings = recipe.tune
    assert settings is not None
    lora = [p for name, p in learner.model.named_parameters() if "lora_" in name]
    projector = _thawed(learner.core.model.multi_modal_projector)
    groups = [
        {"params": lora, "lr": settings.lr, "weight_decay": 0.0},
        {"params": projector, "lr": settings.lr_projector, "weight_decay": 0.0},
    ]
    return _run(learner, data, extra, recipe, settings, groups, "tune")


def _run(
    learner: Learner, data: Encoded, extra: Encoded | None, recipe: TrainRecipe, settings: Align | Tune,
    groups: list[dict[str, Any]], label: str,
) -> list[float]:  # fmt: skip
    """Batches drawn with the recipe's seed, `data.easy_vqa` of each from the extra pictures."""
    extras = round(settings.batch * recipe.data.easy_vqa) if extra else 0
    order = np.random.default_rng(recipe.seed + 1)
    learner.model.train()

    fitting = {id(of): learner.fitting(of.rows) for of in (data, extra) if of}

    def chosen(of: Encoded, count: int) -> tuple[Tensor, list[Row]]:
        among = fitting[id(of)]
        picked = order.choice(among, count, replace=count > len(among))
        return of.features[torch.from_numpy(picked).to(of.features.device)], [of.rows[i] for i in picked]

    def loss(step: int) -> Tensor:
        features, rows = chosen(data, settings.batch - extras)
        if extra and extras:
            more, extra_rows = chosen(extra, extras)
            features, rows = torch.cat([features, more]), rows + extra_rows
        return learner.loss(features.to(learner.device), rows)

    losses = optimize(groups, loss, steps=settings.steps, warmup=recipe.warmup, clip=recipe.clip, label=label)
    learner.model.eval()
    return losses


def _thawed(module: nn.Module) -> list[nn.Parameter]:
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def with_lora(model: Any, layers: LayerSet, settings: Tune, layers_path: str = "model.language_model.layers") -> Any:
    """The model with LoRA on every linear of the chosen decoder layers, and on nothing else.

    The pattern names the LLM's own module path: the vision tower's layers have numbers too.
    """
    from peft import LoraConfig, get_peft_model

    numbers = "|".join(str(i) for i in layers)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, bias="none",
        target_modules=rf"{re.escape(layers_path)}\.({numbers})\.(self_attn|mlp)\.({'|'.join(LINEARS)})",
    )  # fmt: skip
    return get_peft_model(model, config)


@torch.inference_mode()
def perplexity(learner: Learner, tokenizer: Any, passages: Sequence[str], length: int = 512) -> float:
    """Word perplexity of the LLM on passages, each cut to `length` tokens: a cheap look at what text it keeps."""
    nats, words = 0.0, 0
    for passage in passages:
        ids = torch.tensor([tokenizer.encode(passage, add_special_tokens=False)[:length]], device=learner.device)
        with learner.autocast, torch.compiler.set_stance("force_eager"):
            states = learner.core.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
            logits = learner.core.lm_head(states[:, :-1])
        nats += float(nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum"))
        words += len(tokenizer.decode(ids[0]).split())
    return math.exp(nats / words)


def log_line(**values: Any) -> str:
    """One JSON line for a training log, figures rounded."""
    return json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
