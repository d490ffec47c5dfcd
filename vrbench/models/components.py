"""The components of a VLM of any family: vision tower, projector, decoder layers, and their parameters.

They are found by what they are and not by patterns on names: the decoder is what transformers' `get_decoder` returns;
the vision tower is the module that the config's vision part describes; the projector is the module between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from vrbench.checkpoints.parameter_names import canonical_name, compare_shapes
from vrbench.core.errors import VrbenchError, raise_errors

MERGERS = ("merger", "deepstack_merger_list")
"""Projectors inside of a vision tower (Qwen2.5-VL, Qwen3-VL)."""


def decoder(model: Any) -> Any:
    """Return the LLM without its head: token embeddings, `layers`, norm.

    Raises:
        VrbenchError: the model has none with a list of layers.
    """
    found = model.get_decoder()
    if not hasattr(found, "layers"):
        raise VrbenchError(
            f"{type(model).__name__} has a {type(found).__name__}, which is not a decoder with a list of layers"
        )
    return found


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """Return the decoder's layers: the module list itself."""
    return decoder(model).layers


def vision_tower(model: Any) -> torch.nn.Module:
    """Return the module that turns pixels into vision features.

    Raises:
        VrbenchError: no module is described by the config's vision part.
    """
    kind = type(model.config.vision_config)
    for module in model.model.children():
        if isinstance(getattr(module, "config", None), kind):
            return module
    raise VrbenchError(f"{type(model).__name__} has no vision tower that its vision_config describes")


def projector(model: Any) -> list[torch.nn.Module]:
    """Return the modules that map vision features to the decoder's width, beside or inside of the vision tower.

    Raises:
        VrbenchError: there is none.
    """
    tower = vision_tower(model)
    others = (tower, decoder(model))
    beside = [m for m in model.model.children() if m not in others and any(True for _ in m.parameters())]
    found = beside or [getattr(tower, name) for name in MERGERS if hasattr(tower, name)]
    if not found:
        raise VrbenchError(f"{type(model).__name__} has no projector beside or inside of its vision tower")
    return found


def projector_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return canonical name -> parameter of the projector."""
    inside = {id(p) for module in projector(model) for p in module.parameters()}
    return {canonical_name(name): p for name, p in model.named_parameters() if id(p) in inside}


def projector_prefix(model: Any) -> str:
    """Return the common prefix of the projector's canonical parameter names, such as "multi_modal_projector."."""
    names = {id(module): name for name, module in model.named_modules()}
    paths = [canonical_name(names[id(module)]).split(".") for module in projector(model)]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(f"{parts[0]}.")
    return "".join(shared)


def tower_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return canonical name -> parameter of the vision tower, without a projector inside of it."""
    inside = {id(p) for p in vision_tower(model).parameters()}
    inside -= {id(p) for module in projector(model) for p in module.parameters()}
    return {canonical_name(name): p for name, p in model.named_parameters() if id(p) in inside}


def layer_parameters(model: Any, layers: Iterable[int]) -> dict[str, torch.nn.Parameter]:
    """Return canonical name, such as 'layers.3.mlp.up_proj.weight' -> parameter of some decoder layers."""
    modules = decoder_layers(model)
    return {canonical_name(f"layers.{i}.{name}"): p for i in layers for name, p in modules[i].named_parameters()}


def outside_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return canonical name -> parameter of the LLM outside its layers: embeddings, final norm, head.

    A head that is the embedding is under the embedding's name alone.
    """
    llm, inside = decoder(model), {id(p) for p in decoder_layers(model).parameters()}
    outside = {id(p) for part in (llm, model.get_output_embeddings()) for p in part.parameters()} - inside
    return {canonical_name(name): p for name, p in model.named_parameters() if id(p) in outside}


def fill_parameters(targets: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Replace the values of parameters by the tensors of the same names in float32; the old values stay as they are.

    Raises:
        VrbenchError: every name or shape that does not match, with `where` in front; nothing was changed then.
    """
    expected = {name: tuple(p.shape) for name, p in targets.items()}
    raise_errors(compare_shapes(where, {name: tuple(t.shape) for name, t in tensors.items()}, expected))
    for name, parameter in targets.items():
        parameter.data = tensors[name].to(parameter.device, torch.float32)
