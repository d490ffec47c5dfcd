"""Applying a checkpoint folder to its loaded base: layers removed or restored, adapter, delta, projector, tower."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.checkpoint import ADAPTER, DELTA, PROJECTOR, TOWER, TUNED_TOWER, Checkpoint, LayerEdit
from vrbench.checkpoints.families import fixed_layers
from vrbench.checkpoints.model_config import LAYER_INDICES, prune_config
from vrbench.checkpoints.parameter_names import IGNORED_BUFFERS, canonical_name, is_outside_layers, layer_index
from vrbench.checkpoints.safetensors_index import read_header, weight_files
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.models.lora import apply_adapter, remove_adapter

LoadModel = Callable[[Checkpoint], Any]
"""Loads the model of a checkpoint; given by `vrbench.models.load`, since a restored layer's backbone may need it."""


Widen = Callable[[torch.nn.Parameter], None]
"""Gives a parameter of a base its stored values in float32; see `base_weights.WholeModel.widen`."""


def apply_overlay(model: Any, checkpoint: Checkpoint, merge: bool, load: LoadModel, widen: Widen) -> Any:
    """Apply a checkpoint's folder to its loaded base: modules change in place, and weights are replaced by float32.

    Args:
        model: the checkpoint's base.
        checkpoint: valid, with a base, without a vision tower of its own.
        merge: whether an adapter's matrices are added to the weights.
        load: loads a backbone that has a base itself, in float32.
        widen: called with each weight to which an adapter's matrices belong.

    Returns:
        The model, which is another object if an adapter was applied.
    """
    from safetensors.torch import load_file

    for change in checkpoint.edits:
        if change.kind == "pruned":
            remove_layers(model, change.layers)
        else:
            _restore_layers(model, change, load)
    if checkpoint.has(ADAPTER):
        model = apply_adapter(model, checkpoint.path, widen, merge)
    if checkpoint.has(DELTA):
        _apply_delta(model, checkpoint.path / DELTA)
    if checkpoint.has(PROJECTOR):
        _replace_projector(model, checkpoint.path / PROJECTOR)
    if checkpoint.has(TUNED_TOWER):
        file = checkpoint.path / TUNED_TOWER
        components.fill_parameters(components.tower_parameters(model), load_file(file), str(file))
    return model


def remove_layers(model: Any, layers: LayerSet) -> None:
    """Remove decoder layers in place: from the module list, the configs, and in each layer its index in the KV cache.

    Args:
        model: of any family.
        layers: the layers to remove; their depth has to be the model's.

    Raises:
        VrbenchError: the depths differ, no layer would be left, or one may not be removed.
    """
    decoder = components.decoder(model)
    depth = len(decoder.layers)
    if layers.depth != depth:
        raise VrbenchError(f"layers {layers} are out of {layers.depth}; the model has {depth} decoder layers")
    if layers.is_all:
        raise VrbenchError(f"all {depth} layers would be removed; at least one must stay")
    _refuse_fixed_layers(model.config.to_dict(), layers)
    kept = layers.complement()
    decoder.layers = torch.nn.ModuleList(decoder.layers[i] for i in kept)
    for index, layer in enumerate(decoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # its place in the KV cache
                module.layer_idx = index
    for owner, name, value in per_layer_settings(model, kept):
        setattr(owner, name, value)


def per_layer_settings(model: Any, kept: LayerSet) -> list[tuple[Any, str, Any]]:
    """Return (owner, name, new value) of every per-layer setting, in configs and in the decoder itself.

    Args:
        model: as its configs still describe it.
        kept: the layers that stay.
    """
    decoder = components.decoder(model)
    configs = [model.config.get_text_config(), *(m.config for m in decoder.modules() if hasattr(m, "config"))]
    found = []
    for config in {id(c): c for c in configs}.values():
        for name, value in prune_config(vars(config), kept).items():
            found.append((config, name, value))
            if name in LAYER_INDICES and hasattr(decoder, name):  # a decoder may keep a copy of such a list
                found.append((decoder, name, value))
    return found


def _refuse_fixed_layers(config: dict[str, Any], layers: Collection[int]) -> None:
    """Raise a `VrbenchError` if some layers may not be removed from a model of this config."""
    reasons = {layer: why for layer, why in fixed_layers(config).items() if layer in layers}
    if reasons:
        first = min(reasons)
        alike = LayerSet.of((i for i, why in reasons.items() if why == reasons[first]), max(reasons) + 1)
        named = ", ".join(str(i) for i in alike)
        raise VrbenchError(f"layers {named} of a {config['model_type']} model may not be removed: {reasons[first]}")


def backbone_layers(backbone: Checkpoint, layers: Sequence[int], load: LoadModel) -> dict[str, torch.Tensor]:
    """Return canonical name -> tensor of some decoder layers; from files, only these layers are read.

    Args:
        backbone: the checkpoint that has them.
        layers: their indices.
        load: loads a backbone that has a base itself.
    """
    from safetensors import safe_open

    while backbone.base is not None and backbone.has(TOWER):
        backbone = backbone.base  # a vision tower does not change the decoder
    if backbone.base is not None:
        return {name: p.detach() for name, p in components.layer_parameters(load(backbone), layers).items()}
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(backbone.path):
        names = {name: canonical_name(name) for name in read_header(file)}
        with safe_open(file, framework="pt") as tensors:
            for name, plain in names.items():
                if layer_index(plain) in layers and not plain.endswith(IGNORED_BUFFERS):
                    found[plain] = tensors.get_tensor(name)
    return found


def _restore_layers(model: Any, change: LayerEdit, load: LoadModel) -> None:
    """Give decoder layers a backbone's weights; what was trained into them is lost."""
    assert change.backbone is not None
    remove_adapter(model, change.layers)
    targets = dict(zip(change.sources, change.layers, strict=True))
    tensors = {}
    for name, tensor in backbone_layers(change.backbone, change.sources, load).items():
        source = layer_index(name)
        assert source is not None
        tensors[name.replace(f"layers.{source}.", f"layers.{targets[source]}.", 1)] = tensor
    where = f"{change.backbone.id}, restored,"
    components.fill_parameters(components.layer_parameters(model, change.layers), tensors, where)


def _apply_delta(model: Any, file: Path) -> None:
    """Fill what a delta holds: layers, and maybe the projector, embeddings, final norm and head."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    layers = sorted({layer for layer in map(layer_index, tensors) if layer is not None})
    remove_adapter(model, layers)
    targets, projector = components.layer_parameters(model, layers), components.projector_parameters(model)
    if projector.keys() & tensors.keys():
        targets |= projector
    if any(map(is_outside_layers, tensors)):
        targets |= components.outside_parameters(model)
    components.fill_parameters(targets, tensors, str(file))


def _replace_projector(model: Any, file: Path) -> None:
    """Fill the projector from a file of the projector's own parameter names."""
    from safetensors.torch import load_file

    prefix = components.projector_prefix(model)
    tensors = {canonical_name(prefix + name): tensor for name, tensor in load_file(file).items()}
    components.fill_parameters(components.projector_parameters(model), tensors, str(file))
