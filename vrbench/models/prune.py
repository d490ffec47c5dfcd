"""Decoder layers removed from a loaded model, so that what is left is a whole, smaller model."""

from __future__ import annotations

from typing import Any

from vrbench.errors import VrbenchError
from vrbench.layers import LayerSet


def remove_layers(model: Any, layers: LayerSet) -> None:
    """Take layers out of the decoder, in place: the module list, the config and each layer's place in the cache.

    Args:
        model: a `LlavaForConditionalGeneration`.
        layers: what goes; its depth has to be the model's.

    Raises:
        VrbenchError: the depths differ, or no layer would be left.
    """
    import torch

    decoder = model.model.language_model
    depth = len(decoder.layers)
    if layers.depth != depth:
        raise VrbenchError(f"layers {layers} are out of {layers.depth}; the model has {depth} decoder layers")
    if layers.is_all:
        raise VrbenchError(f"all {depth} layers would be removed; at least one must stay")
    kept = layers.complement()
    decoder.layers = torch.nn.ModuleList(decoder.layers[i] for i in kept)
    for place, layer in enumerate(decoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # where attention keeps its keys and values in the cache
                module.layer_idx = place
    for config in {id(c): c for c in (decoder.config, model.config.get_text_config())}.values():
        _shorten(config, kept)


def _shorten(config: Any, kept: LayerSet) -> None:
    """Set the new depth, and keep the right entries of settings that have one entry a layer."""
    per_layer = {
        name: value for name, value in vars(config).items() if name.startswith("layer_") and _one_each(value, kept)
    }
    config.num_hidden_layers = len(kept)
    for name, value in per_layer.items():
        setattr(config, name, [value[i] for i in kept])


def _one_each(value: Any, kept: LayerSet) -> bool:
    return isinstance(value, list | tuple) and len(value) == kept.depth
