"""Settings of a model's config that count its decoder layers: what they become when layers go (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrbench.core.layers import LayerSet

ONE_EACH = (
    "layer_types", "mlp_layer_types", "layers_block_type", "layer_block_types", "no_rope_layers", "layer_rope_theta",
    "num_attention_heads_per_layer", "num_key_value_heads_per_layer", "num_key_value_heads", "intermediate_size",
    "activation_sparsity_pattern", "sliding_window", "sliding_window_pattern",
)  # fmt: skip
"""Lists with one entry a layer (some of them may also be one number for all layers)."""

NUMBERS = ("cross_attention_layers", "mlp_only_layers", "moe_layers", "rope_scaling_layers")
"""Lists of the layers that are of some kind."""

FIRST = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
"""How many of the first layers are of some kind; it may be more than there are."""


def shortened(config: Mapping[str, Any], kept: LayerSet) -> dict[str, Any]:
    """The settings that change when only some decoder layers stay.

    Args:
        config: of the decoder, name -> value.
        kept: the layers that stay, out of the depth before.
    """
    changed: dict[str, Any] = {"num_hidden_layers": len(kept)}
    for name, value in config.items():
        if name in NUMBERS and isinstance(value, list | tuple):
            changed[name] = [kept.indices.index(i) for i in value if i in kept]
        elif name in FIRST and isinstance(value, int):
            changed[name] = sum(i < value for i in kept)
        elif _is_one_each(name) and isinstance(value, list | tuple) and len(value) == kept.depth:
            changed[name] = [value[i] for i in kept]
    return changed


def _is_one_each(name: str) -> bool:
    return name in ONE_EACH or name.startswith("layer_")


def length_faults(config: Mapping[str, Any], depth: int) -> list[str]:
    """Which settings of a decoder's config do not go with its depth; one sentence each."""
    found = []
    for name in ONE_EACH:
        value = config.get(name)
        if isinstance(value, list) and len(value) != depth:
            found.append(f"{name} has {len(value)} entries for {depth} decoder layers")
    for name in NUMBERS:
        value = config.get(name)
        beyond = [i for i in value if isinstance(i, int) and i >= depth] if isinstance(value, list) else []
        if beyond:
            found.append(f"{name} names layers {beyond}; a model of depth {depth} has layers 0 to {depth - 1}")
    return found
