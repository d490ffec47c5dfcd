"""An LLM and projector of true shape with random weights, tuned in one way after another without being built again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vrbench.checkpoints.random_shapes import SHAPES, STD
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.models.lora import remove_adapter

ATTENTION = "sdpa"


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

        text, vision = SHAPES[shape]
        settings = {key: value for key, value in text.items() if key != "model_type"}
        config = AutoConfig.for_model(text["model_type"], **settings)
        self.tower_width, hidden = int(vision["hidden_size"]), int(text["hidden_size"])
        self.vocabulary, self.device = int(text["vocab_size"]), device
        with torch.device(device), no_init_weights():
            self.llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=ATTENTION)
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
        """What the decoder gives for rows that begin with a picture.

        Args:
            features: [rows, image tokens, width of the tower].
            words: [rows, text tokens] ids that follow.
            more: for the decoder's forward.
        """
        pictures = self.projector(features)
        embedded = self.llm.get_input_embeddings()(words)
        whole = torch.cat([pictures.to(embedded.dtype), embedded], dim=1)
        return self.decoder(inputs_embeds=whole, **more)

    def linears(self, layers: LayerSet) -> list[str]:
        """Full names of all linears of some decoder layers."""
        inside = {id(m) for i in layers for m in self.decoder.layers[i].modules() if isinstance(m, nn.Linear)}
        return [name for name, module in self.llm.named_modules() if id(module) in inside]

    @contextmanager
    def without_last(self, count: int) -> Iterator[None]:
        """The model with `count` decoder layers fewer."""
        whole = self.decoder.layers
        self.decoder.layers = whole[: len(whole) - count]
        try:
            yield
        finally:
            self.decoder.layers = whole


@dataclass(frozen=True)
class Tuning:
    """What is trained, and how: see `vrbench.training.profile_results.ProfileRow` for each.

    Attributes:
        method: "lora" or "weights".
        layers: the tuned decoder layers.
        masters: type of what is trained.
        checkpointing: compute activations again in the backward pass.
        projector: train the projector too.
        rank, alpha, dropout: of LoRA.
    """

    method: str
    layers: LayerSet
    masters: torch.dtype
    checkpointing: bool
    projector: bool
    rank: int
    alpha: float
    dropout: float


@contextmanager
def tuned(model: ShapeModel, how: Tuning) -> Iterator[list[nn.Parameter]]:
    """Thaw what is to be trained, and freeze it again afterwards; gives the parameters.

    Layers that hold LoRA get their own linears back, and what was kept in float32 is bfloat16 again.
    """
    if how.method == "lora":
        _put_lora(model, how)
        trained = [p for name, p in model.llm.named_parameters() if "lora_" in name]
    else:
        trained = [p for i in how.layers for p in model.decoder.layers[i].parameters()]
    trained += model.projector.parameters() if how.projector else []
    for parameter in trained:
        parameter.data = parameter.data.to(how.masters)
        parameter.requires_grad_(True)
    model.llm.train()
    _checkpoint(model.llm, how.checkpointing)
    try:
        yield trained
    finally:
        _checkpoint(model.llm, False)
        model.llm.eval()
        for parameter in trained:
            parameter.grad = None
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(torch.bfloat16)
        if how.method == "lora":
            remove_adapter(model.llm, how.layers)
            del model.llm.peft_config


def _put_lora(model: ShapeModel, how: Tuning) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    linears = model.linears(how.layers)
    config = LoraConfig(r=how.rank, lora_alpha=how.alpha, lora_dropout=how.dropout, target_modules=linears)
    with model.device:  # on a CPU the first values alone would take seconds
        inject_adapter_in_model(config, model.llm)


def _checkpoint(llm: Any, is_on: bool) -> None:
    # transformers 5.23 warns of the older name, 5.17 has no other.
    name = "activation_checkpointing" if hasattr(llm, "activation_checkpointing_enable") else "gradient_checkpointing"
    if is_on:
        getattr(llm, f"{name}_enable")({"use_reentrant": False})
    else:
        getattr(llm, f"{name}_disable")()
