"""The trainable parameters: LoRA on chosen layers or all their weights, the projector, random layers in turn.

LISA (Pan et al., arXiv 2403.17919, algorithm 1; LMFlow, src/lmflow/pipeline/utils/lisa_trainer.py) freezes decoder
layers only: embeddings, final norm and head are trained in every step, and some layers, drawn uniformly without
replacement every `every` steps. Layer sampling also freezes embeddings, final norm and head. The AdamW moments of a
layer that is not drawn stay as they are until it is drawn again. docs/training.md lists the differences from LMFlow.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.training.recipe import ATTENTION, TuneStage
from vrbench.training.trainer import ParameterGroup


def add_lora(model: Any, layers: LayerSet, settings: TuneStage) -> Any:
    """Return a model of any family with LoRA on linears of the chosen decoder layers and, if asked, of the tower alone.

    Raises:
        VrbenchError: the layers have no linear that the settings name.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, bias="none",
        use_rslora=settings.rslora, use_dora=settings.dora,
        target_modules="|".join(_target_patterns(model, layers, settings)),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses a deprecated name of transformers
        return get_peft_model(model, config)


def _target_patterns(model: Any, layers: LayerSet, settings: TuneStage) -> list[str]:
    """Return regular expressions of the full names of the linears that get LoRA."""
    patterns = [layer_pattern(model, layers, settings)] if len(layers) and settings.tuning == "lora" else []
    if settings.tower == "lora":
        inside = {id(m) for m in components.vision_tower(model).modules() if isinstance(m, nn.Linear)}
        inside -= {id(m) for part in components.projector(model) for m in part.modules()}
        patterns += [re.escape(name) for name, module in model.named_modules() if id(module) in inside]
    return patterns


def layer_pattern(model: Any, layers: LayerSet, settings: TuneStage) -> str:
    """Return a regular expression of the linears' full names: layers of a vision tower have the same numbers."""
    modules = components.decoder_layers(model)
    path = next(name for name, module in model.named_modules() if module is modules)
    inside = {
        name
        for i in layers
        for name, module in modules[i].named_modules()
        if isinstance(module, nn.Linear) and settings.adapts(name)
    }
    if not inside:
        raise VrbenchError(f"layers {layers} have no linear in {' or '.join(ATTENTION)} that LoRA could be applied to")
    indices = "|".join(str(i) for i in layers)
    return rf"{re.escape(path)}\.({indices})\.({'|'.join(re.escape(name) for name in sorted(inside))})"


def unwrap_peft(model: Any) -> Any:
    """Return transformers' own model, whether PEFT's is around it or not."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layer_parameters(model: Any, layers: LayerSet, settings: TuneStage) -> dict[int, list[nn.Parameter]]:
    """Return layer -> its trained parameters: LoRA's, or all."""
    modules = components.decoder_layers(unwrap_peft(model))
    return {
        i: [p for name, p in modules[i].named_parameters() if settings.tuning == "weights" or "lora_" in name]
        for i in layers
    }


def projector_parameters(model: Any) -> list[nn.Parameter]:
    """Return the projector's parameters."""
    return [p for module in components.projector(unwrap_peft(model)) for p in module.parameters()]


def tower_parameters(model: Any, settings: TuneStage) -> list[nn.Parameter]:
    """Return the vision tower's trained parameters."""
    named = components.tower_parameters(unwrap_peft(model)) if settings.tower != "none" else {}
    return [p for name, p in named.items() if settings.tower == "weights" or "lora_" in name]


def _trained_outside(model: Any, settings: TuneStage) -> list[nn.Parameter]:
    """Return the LLM's trained parameters outside its layers: LISA's."""
    return list(components.outside_parameters(unwrap_peft(model)).values()) if settings.is_lisa else []


def parameter_groups(model: Any, layers: LayerSet, settings: TuneStage) -> list[ParameterGroup]:
    """Return the matrices of layers, their other weights (without weight decay), the projector and the tower.

    With LISA, embeddings and head are among the matrices, and the final norm among the others.
    """
    tuned = [p for part in layer_parameters(model, layers, settings).values() for p in part]
    tuned += _trained_outside(model, settings)
    matrices = ParameterGroup([p for p in tuned if p.ndim > 1], settings.lr, settings.weight_decay)
    vectors = ParameterGroup([p for p in tuned if p.ndim < 2], settings.lr)
    projector = ParameterGroup(projector_parameters(model) if settings.lr_projector else [], settings.lr_projector)
    tower, rate = tower_parameters(model, settings), settings.lr_tower or 0
    towers = (
        ParameterGroup([p for p in tower if p.ndim > 1], rate, settings.weight_decay),
        ParameterGroup([p for p in tower if p.ndim < 2], rate),
    )
    return [group for group in (matrices, vectors, projector, *towers) if group.parameters]


def unfreeze(model: nn.Module, groups: Sequence[ParameterGroup], dtype: torch.dtype) -> None:
    """Make the groups' parameters trainable float32 masters; freeze all others, the LLM's in the compute type.

    Frozen weights need no masters, and half the memory traffic. The tower and a frozen projector keep their type. Under
    autocast, LoRA is computed in the compute type as everything else is, and trained embeddings are converted to it.
    """
    trained = {id(p) for group in groups for p in group.parameters}
    llm = {id(p) for p in components.decoder(unwrap_peft(model)).parameters()}
    llm |= {id(p) for p in unwrap_peft(model).get_output_embeddings().parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
        if id(parameter) in trained:
            parameter.data = parameter.data.float()
        elif id(parameter) in llm and parameter.is_floating_point():  # else it is quantized
            parameter.data = parameter.data.to(dtype)
    if dtype != torch.float32:
        compute_lora_in_input_type(model)
        embeddings = unwrap_peft(model).get_input_embeddings()
        if id(embeddings.weight) in trained:  # else hidden states would be float32, which some families refuse
            embeddings.register_forward_hook(lambda module, args, output: output.to(dtype))


def compute_lora_in_input_type(model: Any) -> None:
    """Keep PEFT from converting the inputs of LoRA to the masters' float32, in which its dropout would be computed."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled") and not any(module.use_dora.values()):  # norms stay in float32
            module.cast_input_dtype_enabled = False


def validate_trainable(model: Any, layers: LayerSet, settings: TuneStage) -> None:
    """Check the frozen model, whatever froze it: trained are all chosen layers and the projector, and nothing else.

    With LISA, embeddings, final norm and head are too, and with `tune.tower` the vision tower.

    Raises:
        VrbenchError: other parameters would be trained or have LoRA, or a chosen layer has nothing to train.
    """
    modules = components.decoder_layers(unwrap_peft(model))
    chosen = {i: list(modules[i].parameters()) for i in layers}
    projector = projector_parameters(model) if settings.lr_projector else []
    others = (projector, _trained_outside(model, settings), tower_parameters(model, settings))
    allowed = {id(p) for part in (*chosen.values(), *others) for p in part}
    outside = [
        name for name, p in model.named_parameters() if (p.requires_grad or "lora_" in name) and id(p) not in allowed
    ]
    idle = [i for i, part in chosen.items() if not any(p.requires_grad for p in part)]
    errors = []
    if outside:
        errors.append(
            f"{outside[0]} would be trained ({len(outside)} such parameters), which is outside of tune.layers = "
            f"{layers} and of what tune.lr_projector and tune.tower train"
        )
    if idle:
        errors.append(
            f"layers {LayerSet.of(idle, layers.depth)} have nothing to train with tune.tuning = {settings.tuning!r} "
            f"and tune.modules = {settings.modules!r}; leave them out of tune.layers"
        )
    raise_errors(errors)


def enable_checkpointing(model: Any) -> None:
    """Recompute the activations of decoder layers in the backward pass."""
    inner = unwrap_peft(model)
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    assert any(getattr(layer, "gradient_checkpointing", True) for layer in components.decoder_layers(inner))


def sample_layers(layers: LayerSet, count: int, seed: int, draw: int) -> LayerSet:
    """Return the layers of a draw, which depends on its number alone: a resumed training draws the same."""
    chosen = np.random.default_rng([seed, draw]).choice(list(layers), count, replace=False)
    return LayerSet.of([int(i) for i in chosen], layers.depth)


class LayerSampling(TrainerCallback):
    """Freezes the layers that are not drawn, so that they need no gradients, and no backward pass below the lowest."""

    def __init__(
        self, parameters: Mapping[int, Sequence[nn.Parameter]], layers: LayerSet, count: int, every: int, seed: int
    ) -> None:
        self.parameters, self.layers = parameters, layers
        self.count, self.every, self.seed = count, every, seed
        self.draw = -1

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step // self.every == self.draw:
            return
        self.draw = state.global_step // self.every
        chosen = sample_layers(self.layers, self.count, self.seed, self.draw)
        for layer, parameters in self.parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(layer in chosen)
