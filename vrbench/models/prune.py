"""Decoder layers removed from a loaded model, so that what is left is a whole, smaller model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vrbench.checkpoints.fixed_layers import fixed_layers
from vrbench.checkpoints.per_layer_config import NUMBERS, shortened
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.models import components


def remove_layers(model: Any, layers: LayerSet) -> None:
    """Take layers out of the decoder, in place: the module list, the configs and each layer's place in the cache.

    Args:
        model: any family's.
        layers: what goes; its depth has to be the model's.

    Raises:
        VrbenchError: the depths differ, no layer would be left, or one may not go.
    """
    import torch

    decoder = components.decoder(model)
    depth = len(decoder.layers)
    if layers.depth != depth:
        raise VrbenchError(f"layers {layers} are out of {layers.depth}; the model has {depth} decoder layers")
    if layers.is_all:
        raise VrbenchError(f"all {depth} layers would be removed; at least one must stay")
    refuse_fixed(model.config.to_dict(), layers)
    kept = layers.complement()
    decoder.layers = torch.nn.ModuleList(decoder.layers[i] for i in kept)
    for place, layer in enumerate(decoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # where attention keeps its keys and values in the cache
                module.layer_idx = place
    for owner, name, value in per_layer_settings(model, kept):
        setattr(owner, name, value)


def per_layer_settings(model: Any, kept: LayerSet) -> list[tuple[Any, str, Any]]:
    """(owner, name, new value) of every setting that counts decoder layers, in configs and in the decoder itself.

    Args:
        model: as its configs still describe it.
        kept: the layers that stay.
    """
    decoder = components.decoder(model)
    configs = [model.config.get_text_config(), *(m.config for m in decoder.modules() if hasattr(m, "config"))]
    found = []
    for config in {id(c): c for c in configs}.values():
        for name, value in shortened(vars(config), kept).items():
            found.append((config, name, value))
            if name in NUMBERS and hasattr(decoder, name):  # a decoder may keep a copy of such a list
                found.append((decoder, name, value))
    return found


def refuse_fixed(config: dict[str, Any], layers: Collection[int]) -> None:
    """Refuse layers that may not be removed from a model of this config.

    Raises:
        VrbenchError: one sentence that names them and says why.
    """
    reasons = {layer: why for layer, why in fixed_layers(config).items() if layer in layers}
    if reasons:
        first = min(reasons)
        alike = LayerSet.of((i for i, why in reasons.items() if why == reasons[first]), max(reasons) + 1)
        named = ", ".join(str(i) for i in alike)
        raise VrbenchError(f"layers {named} of a {config['model_type']} model may not be removed: {reasons[first]}")
