"""config.json of a complete model: family, depth, and the settings that count decoder layers (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vrbench.checkpoints.parameter_names import canonical_name, layer_index
from vrbench.checkpoints.remote_code import LOCAL_ONLY
from vrbench.checkpoints.safetensors_index import read_headers
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json, require_json
from vrbench.core.layers import LayerSet

ONE_PER_LAYER = (
    "layer_types", "mlp_layer_types", "layers_block_type", "layer_block_types", "no_rope_layers", "layer_rope_theta",
    "num_attention_heads_per_layer", "num_key_value_heads_per_layer", "num_key_value_heads", "intermediate_size",
    "activation_sparsity_pattern", "sliding_window", "sliding_window_pattern",
)  # fmt: skip
"""Lists with one entry per layer (some of them may also be one number for all layers)."""

LAYER_INDICES = ("cross_attention_layers", "mlp_only_layers", "moe_layers", "rope_scaling_layers")
"""Lists of the layers that are of some kind."""

FIRST_LAYERS = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
"""How many of the first layers are of some kind; it may be more than there are."""


def read_model_config(folder: Path) -> tuple[str, int, dict[str, Any]]:
    """Return the family (model_type), the depth, and the decoder's settings.

    Raises:
        VrbenchError: config.json is missing, is not JSON with a model_type, or states no valid depth.
    """
    path = folder / "config.json"
    config = require_json(path)
    decoder = config.get("text_config", config)
    if "model_type" not in config or not isinstance(decoder, dict):
        raise VrbenchError(f"{path} cannot be read: it has no model_type, or a text_config that is no object")
    depth = decoder.get("num_hidden_layers")
    if depth is not None and (type(depth) is not int or depth < 1):
        raise VrbenchError(f"{path} has num_hidden_layers {depth!r}; it has to be a whole number above 0")
    return str(config["model_type"]), depth or _default_depth(folder), decoder


def _default_depth(folder: Path) -> int:
    """Return the depth of a config.json that leaves it out because it is the default, as that of LLaVA-1.5 does."""
    from transformers import AutoConfig

    try:
        return int(AutoConfig.from_pretrained(folder, **LOCAL_ONLY).get_text_config().num_hidden_layers)
    except Exception:  # transformers' strict configs raise classes of their own
        return 0  # the family's own check reports what is wrong


def may_tie_head(folder: Path) -> bool:
    """Return whether config.json says, at some level, that the head is the embedding."""
    config = read_json(folder / "config.json")
    return any(part.get("tie_word_embeddings") for part in (config, config.get("text_config") or {}))


def is_author_layout(folder: Path) -> bool:
    """Return whether config.json is that of LLaVA's or Bunny's code, with the parts named beside the decoder's keys."""
    config = read_json(folder / "config.json")
    return "text_config" not in config and not {"mm_projector_type", "mm_vision_tower"}.isdisjoint(config)


def stored_depth(folder: Path) -> int:
    """Return the depth that the names of a folder's tensors show; 0 where they show none."""
    layers = [layer_index(canonical_name(name)) for name in read_headers(folder)]
    return max((layer + 1 for layer in layers if layer is not None), default=0)


def prune_config(config: Mapping[str, Any], kept: LayerSet) -> dict[str, Any]:
    """Return the settings that change when only some decoder layers stay.

    Args:
        config: of the decoder, name -> value.
        kept: the layers that stay, out of the depth before.
    """
    changed: dict[str, Any] = {"num_hidden_layers": len(kept)}
    for name, value in config.items():
        is_per_layer = name in ONE_PER_LAYER or name.startswith("layer_")
        if name in LAYER_INDICES and isinstance(value, list | tuple):
            changed[name] = [kept.indices.index(i) for i in value if i in kept]
        elif name in FIRST_LAYERS and isinstance(value, int):
            changed[name] = sum(i < value for i in kept)
        elif is_per_layer and isinstance(value, list | tuple) and len(value) == kept.depth:
            changed[name] = [value[i] for i in kept]
    return changed


def validate_layer_counts(config: Mapping[str, Any], depth: int) -> list[str]:
    """Return which settings of a decoder's config do not fit its depth, one message each."""
    errors = []
    for name in ONE_PER_LAYER:
        value = config.get(name)
        if isinstance(value, list) and len(value) != depth:
            errors.append(f"{name} has {len(value)} entries for {depth} decoder layers")
    for name in LAYER_INDICES:
        value = config.get(name)
        beyond = [i for i in value if isinstance(i, int) and i >= depth] if isinstance(value, list) else []
        if beyond:
            errors.append(f"{name} names layers {beyond}; a model of depth {depth} has layers 0 to {depth - 1}")
    return errors
