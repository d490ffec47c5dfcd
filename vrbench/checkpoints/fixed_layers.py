"""Decoder layers that may not be removed, since more hangs on them, by the config's model_type (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _mllama(config: Mapping[str, Any]) -> dict[int, str]:
    layers = _text(config).get("cross_attention_layers") or ()
    return {i: "it is a cross-attention layer, through which the model sees" for i in layers}


def _deepstack(config: Mapping[str, Any]) -> dict[int, str]:
    features = (config.get("vision_config") or {}).get("deepstack_visual_indexes") or ()
    return {i: "vision features are added behind it" for i in range(len(features))}


FIXED: dict[str, Callable[[Mapping[str, Any]], dict[int, str]]] = {
    "mllama": _mllama,
    "qwen3_vl": _deepstack,
}


def fixed_layers(config: Mapping[str, Any]) -> dict[int, str]:
    """Layer -> why it may not be removed from a model of this config.

    Args:
        config: of the whole model, as config.json or `PreTrainedConfig.to_dict` has it.
    """
    find = FIXED.get(str(config.get("model_type")))
    return find(config) if find else {}


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("text_config") or config
