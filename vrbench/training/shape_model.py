"""An LLM and projector of true shape with random weights, tuned in several ways without being built again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vrbench.checkpoints.random_shapes import RANDOM_SHAPES, STD
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.models.lora import remove_adapter
from vrbench.training.profile_results import ProfileRow


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
            self.llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
            self.projector = nn.Sequential(
                nn.Linear(self.tower_width, hidden), nn.GELU(), nn.Linear(hidden, hidden)
            ).to(torch.bfloat16)  # fmt: skip
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

    def linears(self, layers: LayerSet) -> list[str]:
        """Return the full names of all linears of some decoder layers."""
        inside = {id(m) for i in layers for m in self.decoder.layers[i].modules() if isinstance(m, nn.Linear)}
        return [name for name, module in self.llm.named_modules() if id(module) in inside]

    @contextmanager
    def without_last(self, count: int) -> Iterator[None]:
        """Remove the last `count` decoder layers within the block."""
        whole = self.decoder.layers
        self.decoder.layers = whole[: len(whole) - count]
        try:
            yield
        finally:
            self.decoder.layers = whole

    @contextmanager
    def tuned(self, row: ProfileRow) -> Iterator[list[nn.Parameter]]:
        """Make what a row trains trainable, and freeze it afterwards; yields the parameters.

        Layers with LoRA get their own linears back, and float32 masters are bfloat16 again.
        """
        layers = LayerSet.parse(row.indices, row.depth)
        if row.tuning == "lora":
            self._add_lora(row, layers)
            trained = [p for name, p in self.llm.named_parameters() if "lora_" in name]
        else:
            trained = [p for i in layers for p in self.decoder.layers[i].parameters()]
        trained += self.projector.parameters() if row.projector else []
        for parameter in trained:
            parameter.data = parameter.data.to(getattr(torch, row.masters))
            parameter.requires_grad_(True)
        self.llm.train()
        self._set_checkpointing(row.checkpointing)
        try:
            yield trained
        finally:
            self._set_checkpointing(False)
            self.llm.eval()
            for parameter in trained:
                parameter.grad = None
                parameter.requires_grad_(False)
                parameter.data = parameter.data.to(torch.bfloat16)
            if row.tuning == "lora":
                remove_adapter(self.llm, layers)
                del self.llm.peft_config

    def _add_lora(self, row: ProfileRow, layers: LayerSet) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=row.rank or 0, lora_alpha=row.alpha or 0, lora_dropout=row.dropout or 0,
            target_modules=self.linears(layers),
        )  # fmt: skip
        with self.device:  # on a CPU the first values alone would take seconds
            inject_adapter_in_model(config, self.llm)

    def _set_checkpointing(self, is_on: bool) -> None:
        # transformers 5.23 warns of the older name, 5.17 has no other.
        prefix = "activation" if hasattr(self.llm, "activation_checkpointing_enable") else "gradient"
        if is_on:
            getattr(self.llm, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.llm, f"{prefix}_checkpointing_disable")()
