"""What a layered checkpoint does to its loaded base: layers removed and restored, then its own weights put on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from vrbench.checkpoints.layer_edits import Change
from vrbench.checkpoints.parameter_names import ADAPTER, DELTA, PROJECTOR, TOWER, WITHOUT_EFFECT, canonical, layer_of
from vrbench.checkpoints.resolve import Checkpoint
from vrbench.checkpoints.safetensors_index import read_header, weight_files
from vrbench.models.lora import apply_adapter, remove_adapter, replace_projector
from vrbench.models.parts import fill_parameters, layer_parameters, projector_parameters
from vrbench.models.prune import remove_layers


def apply_overlay(model: Any, checkpoint: Checkpoint, merge: bool, build: Callable[[Checkpoint], Any]) -> Any:
    """The base with all that a layered checkpoint's folder says done to it, in place as far as that goes.

    Args:
        model: the checkpoint's base.
        checkpoint: layered, with neither faults nor a tower of its own.
        merge: whether an adapter's matrices are added to the weights.
        build: loads a backbone that is layered itself.

    Returns:
        The model, which is another object if an adapter was put on.
    """
    for change in checkpoint.changes:
        if change.kind == "pruned":
            remove_layers(model, change.layers)
        else:
            restore_layers(model, change, build)
    if checkpoint.has(ADAPTER):
        model = apply_adapter(model, checkpoint.path, merge)
    if checkpoint.has(DELTA):
        put_delta(model, checkpoint)
    if checkpoint.has(PROJECTOR):
        replace_projector(model, checkpoint.path / PROJECTOR)
    return model


def put_delta(model: Any, checkpoint: Checkpoint) -> None:
    """Fill the layers and the projector that a delta holds."""
    from safetensors.torch import load_file

    file = checkpoint.path / DELTA
    tensors = load_file(file)
    layers = sorted({layer for layer in map(layer_of, tensors) if layer is not None})
    remove_adapter(model, layers)
    fill_parameters(layer_parameters(model, layers) | projector_parameters(model), tensors, str(file))


def restore_layers(model: Any, change: Change, build: Callable[[Checkpoint], Any]) -> None:
    """Give decoder layers a backbone's weights; whatever was trained into them is gone."""
    assert change.backbone is not None
    remove_adapter(model, change.layers)
    places = dict(zip(change.sources, change.layers, strict=True))
    theirs = backbone_layers(change.backbone, change.sources, build)
    tensors = {}
    for name, tensor in theirs.items():
        source = layer_of(name)
        assert source is not None
        tensors[name.replace(f"layers.{source}.", f"layers.{places[source]}.", 1)] = tensor
    fill_parameters(layer_parameters(model, change.layers), tensors, f"{change.backbone.id}, restored,")


def backbone_layers(
    backbone: Checkpoint, layers: Sequence[int], build: Callable[[Checkpoint], Any]
) -> dict[str, torch.Tensor]:
    """Canonical name -> tensor of some of a backbone's decoder layers, read alone where files hold them.

    Args:
        backbone: whose layers.
        layers: which of them.
        build: loads a backbone that is layered itself.
    """
    from safetensors import safe_open

    while backbone.base is not None and backbone.has(TOWER):
        backbone = backbone.base  # whose decoder a tower leaves alone
    if backbone.base is not None:
        return {name: p.detach() for name, p in layer_parameters(build(backbone), layers).items()}
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(backbone.path):
        names = {name: canonical(name) for name in read_header(file)}
        with safe_open(file, framework="pt") as tensors:
            for name, plain in names.items():
                if layer_of(plain) in layers and not plain.endswith(WITHOUT_EFFECT):
                    found[plain] = tensors.get_tensor(name)
    return found
