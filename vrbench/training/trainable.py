"""What is trained of a model: LoRA on chosen layers, or all their weights, and the projector."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from torch import nn

from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.training.recipe import TuneStage
from vrbench.training.run import ATTENTION, is_attention
from vrbench.training.trainer import Group


def with_lora(model: Any, layers: LayerSet, settings: TuneStage) -> Any:
    """The model with LoRA on the linears of the chosen decoder layers, and on nothing else.

    Args:
        model: transformers' model of any family.
        layers: out of its depth; not none.
        settings: rank, alpha, dropout, and whether all linears of a layer or those of its attention alone.

    Raises:
        VrbenchError: the layers have no linear that is meant.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, bias="none",
        target_modules=_pattern(model, layers, settings.modules == "attention"),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for a name of older versions
        return get_peft_model(model, config)


def _pattern(model: Any, layers: LayerSet, attention_only: bool) -> str:
    """A regular expression of the linears' full names: a vision tower's layers have numbers too."""
    modules = components.decoder_layers(model)
    path = next(name for name, module in model.named_modules() if module is modules)
    inside = {
        name
        for i in layers
        for name, module in modules[i].named_modules()
        if isinstance(module, nn.Linear) and (is_attention(name) or not attention_only)
    }
    if not inside:
        raise VrbenchError(f"layers {layers} have no linear in {' or '.join(ATTENTION)} that LoRA could be put on")
    numbers = "|".join(str(i) for i in layers)
    return rf"{re.escape(path)}\.({numbers})\.({'|'.join(re.escape(name) for name in sorted(inside))})"


def core_of(model: Any) -> Any:
    """transformers' own model, whether PEFT is around it or not."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trained_by_layer(model: Any, layers: LayerSet, settings: TuneStage) -> dict[int, list[nn.Parameter]]:
    """Layer -> its parameters that are trained: LoRA's, or all of them."""
    modules = components.decoder_layers(core_of(model))
    return {
        i: [p for name, p in modules[i].named_parameters() if settings.tuning == "weights" or "lora_" in name]
        for i in layers
    }


def projector_of(model: Any) -> list[nn.Parameter]:
    """The projector's parameters."""
    return [p for module in components.projector(core_of(model)) for p in module.parameters()]


def thaw(model: nn.Module, groups: list[Group], dtype: torch.dtype) -> None:
    """Make the groups' parameters float32 masters that learn; freeze all others, the decoder's in the compute type.

    Frozen weights need no masters, and cost half the traffic. The tower and a frozen projector stay as they are.
    """
    wanted = {id(p) for group in groups for p in group.parameters}
    inside = {id(p) for p in components.decoder(core_of(model)).parameters()}
    inside |= {id(p) for p in core_of(model).get_output_embeddings().parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
        if id(parameter) in wanted:
            parameter.data = parameter.data.float()
        elif id(parameter) in inside:
            parameter.data = parameter.data.to(dtype)


def groups_of(model: Any, layers: LayerSet, settings: TuneStage) -> list[Group]:
    """What the stage 'tune' trains: the layers' matrices, their other weights (without decay), and the projector."""
    tuned = [p for part in trained_by_layer(model, layers, settings).values() for p in part]
    matrices = Group([p for p in tuned if p.ndim > 1], settings.lr, settings.weight_decay)
    vectors = Group([p for p in tuned if p.ndim < 2], settings.lr)
    projector = Group(projector_of(model) if settings.lr_projector else [], settings.lr_projector)
    return [group for group in (matrices, vectors, projector) if group.parameters]
