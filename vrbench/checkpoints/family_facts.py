"""Facts of the model families that need no model: where the projector is, layers that cannot be removed (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


def _cross_attention_layers(config: Config) -> dict[int, str]:
    layers = (config.get("text_config") or config).get("cross_attention_layers") or ()
    return {i: "it is a cross-attention layer, through which the model sees" for i in layers}


def _deepstack_layers(config: Config) -> dict[int, str]:
    features = (config.get("vision_config") or {}).get("deepstack_visual_indexes") or ()
    return {i: "vision features are added behind it" for i in range(len(features))}


@dataclass(frozen=True)
class FamilyFacts:
    """What is known of a family without its code.

    Attributes:
        projector: canonical names of the modules from vision features to the decoder's width.
        fixed_layers: config -> decoder layer -> why it may not be removed.
        replaces_image_token: the image token needs no row in the embedding, since transformers replaces it before.
    """

    projector: tuple[str, ...] = ("multi_modal_projector",)
    fixed_layers: Callable[[Config], dict[int, str]] | None = None
    replaces_image_token: bool = False


FAMILY_FACTS: dict[str, FamilyFacts] = {
    "llava": FamilyFacts(),
    "llava_next": FamilyFacts(),
    "llava_onevision": FamilyFacts(),
    "qwen2_5_vl": FamilyFacts(("visual.merger",)),
    "qwen3_vl": FamilyFacts(("visual.merger", "visual.deepstack_merger_list"), _deepstack_layers),
    "smolvlm": FamilyFacts(("connector",)),
    "idefics3": FamilyFacts(("connector",)),
    "internvl": FamilyFacts(),
    "gemma3": FamilyFacts(replaces_image_token=True),
    "paligemma": FamilyFacts(replaces_image_token=True),
    "mistral3": FamilyFacts(),
    "mllama": FamilyFacts(fixed_layers=_cross_attention_layers),
}
"""Model type, as config.json states it -> facts; `vrbench.checkpoints.families` has how a family is prompted."""


def fixed_layers(config: Config) -> dict[int, str]:
    """Return layer -> why it may not be removed from a model of this config.

    Args:
        config: of the complete model, as config.json or `PreTrainedConfig.to_dict` has it.
    """
    find = _facts(str(config.get("model_type"))).fixed_layers
    return find(config) if find else {}


def projector_names(family: str, names: Iterable[str]) -> frozenset[str]:
    """Return those canonical parameter names that belong to the projector."""
    modules = tuple(f"{module}." for module in _facts(family).projector)
    return frozenset(name for name in names if name.startswith(modules))


def projector_prefix(family: str) -> str:
    """Return what all canonical names of the projector's parameters begin with, such as "multi_modal_projector."."""
    modules = _facts(family).projector
    return f"{modules[0]}." if len(modules) == 1 else f"{modules[0].rpartition('.')[0]}."


def replaces_image_token(family: str) -> bool:
    """Whether a family's image token needs no row in the embedding."""
    return _facts(family).replaces_image_token


def _facts(family: str) -> FamilyFacts:
    return FAMILY_FACTS.get(family, FamilyFacts())
