"""An LLM and projector of true shape with random weights, to measure what training them costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vrbench.checkpoints.random_shapes import RANDOM_SHAPES, STD
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.training.profile_results import ProfileRow
from vrbench.training.recipe import TuneStage
from vrbench.training.trainable import add_lora, compute_lora_in_input_type, enable_checkpointing, layer_parameters


class ShapeModel:
    """The decoder with its head, and the projector; the frozen tower is not built, its features are the input.

    Attributes:
        llm: transformers' causal model, bfloat16, frozen.
        projector: the tower's width to the decoder's, two linears with a GELU (mlp2x_gelu).
        tower_width: last dimension of the features.
    """

    def __init__(self, shape: str, device: torch.device) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.initialization import no_init_weights

        text, vision = RANDOM_SHAPES[shape]
        settings = {key: value for key, value in text.items() if key != "model_type"}
        config = AutoConfig.for_model(text["model_type"], **settings)
        self.tower_width, hidden = int(vision["hidden_size"]), int(text["hidden_size"])
        self.vocabulary, self.device = int(text["vocab_size"]), device
        with torch.device(device), no_init_weights():
            llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
            self.projector = nn.Sequential(
                nn.Linear(self.tower_width, hidden), nn.GELU(), nn.Linear(hidden, hidden)
            ).to(torch.bfloat16)  # fmt: skip
        self.llm = llm.eval()
        for parameter in [*self.llm.parameters(), *self.projector.parameters()]:
            parameter.requires_grad_(False)
            parameter.fill_(1) if parameter.dim() == 1 else parameter.normal_(0, STD)

    @property
    def decoder(self) -> Any:
        """The LLM without its head."""
        return components.decoder(self.llm)

    def states(self, features: Tensor, words: Tensor, **more: Any) -> Any:
        """Return the decoder's output for features [rows, image tokens, width] followed by ids [rows, text tokens]."""
        images = self.projector(features)
        embedded = self.llm.get_input_embeddings()(words)
        return self.decoder(inputs_embeds=torch.cat([images.to(embedded.dtype), embedded], dim=1), **more)

    def remove_last(self, count: int) -> None:
        """Remove the last `count` decoder layers."""
        self.decoder.layers = self.decoder.layers[: len(self.decoder.layers) - count]

    def tune(self, row: ProfileRow) -> list[nn.Parameter]:
        """Make what a row trains trainable, in the type of its masters; returns the parameters."""
        layers = LayerSet.parse(row.indices, row.depth)
        settings = TuneStage(
            layers=row.indices, tuning=row.tuning or "weights", rank=row.rank, alpha=row.alpha,
            dropout=row.dropout or 0, steps=row.steps, batch=row.batch, lr=1, lr_projector=1,
        )  # fmt: skip
        if row.tuning == "lora":
            with self.device:  # on a CPU the first values alone would take seconds
                add_lora(self.llm, layers, settings)
        trained = [p for of_layer in layer_parameters(self.llm, layers, settings).values() for p in of_layer]
        trained += self.projector.parameters() if row.projector else []
        for parameter in trained:
            parameter.data = parameter.data.to(getattr(torch, row.masters))
            parameter.requires_grad_(True)
        compute_lora_in_input_type(self.llm)
        self.llm.train()
        if row.checkpointing and not row.compiled:
            enable_checkpointing(self.llm)
        return trained
