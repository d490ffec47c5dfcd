"""Parameters of a model's parts under canonical names, and filling them: the way in for adapters, deltas, restoring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.parameter_names import canonical, difference_faults
from vrbench.core.errors import raise_errors
from vrbench.models import components

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


def projector_parameters(model: Any) -> dict[str, Parameter]:
    """Canonical name -> parameter of the projector, wherever the family has it."""
    inside = {id(p) for module in components.projector(model) for p in module.parameters()}
    return {canonical(name): p for name, p in model.named_parameters() if id(p) in inside}


def projector_prefix(model: Any) -> str:
    """What the canonical names of all the projector's parameters begin with, such as "multi_modal_projector."."""
    names = {id(module): name for name, module in model.named_modules()}
    paths = [canonical(names[id(module)]).split(".") for module in components.projector(model)]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(f"{parts[0]}.")
    return "".join(shared)


def layer_parameters(model: Any, layers: Iterable[int]) -> dict[str, Parameter]:
    """Canonical name, such as 'layers.3.mlp.up_proj.weight' -> parameter of some decoder layers."""
    modules = components.decoder_layers(model)
    return {canonical(f"layers.{i}.{name}"): p for i in layers for name, p in modules[i].named_parameters()}


def fill_parameters(targets: Mapping[str, Parameter], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into the parameters of the same names, in the parameters' own type; all of them, or an error.

    Raises:
        VrbenchError: every parameter that is not filled, every tensor that has no place, every other shape, at once;
            nothing was changed then.
    """
    expected = {name: tuple(p.shape) for name, p in targets.items()}
    raise_errors(difference_faults(where, {name: tuple(t.shape) for name, t in tensors.items()}, expected))
    for name, parameter in targets.items():
        parameter.data.copy_(tensors[name])
