"""Canonical parameter names, and tensors compared by name and shape (no torch)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from vrbench.checkpoints.safetensors_index import TensorInfo
from vrbench.core.layers import LayerSet

Shape = tuple[int, ...]
T = TypeVar("T")
PROJECTOR_PREFIX = "multi_modal_projector."
TOWER_PREFIX = "vision_tower."

WRAPPERS = {"base_model", "model", "language_model", "text_model"}
"""Module names that differ between model classes, library versions and PEFT; canonical names leave them out."""

TOWER_WRAPPER = "vision_model"
"""A wrapper inside of a vision tower; elsewhere it is the tower itself, whose layers have numbers."""

HEAD = "lm_head.weight"
OUTSIDE_LAYERS = {"embed_tokens": "embeddings", "lm_head": "head", "norm": "final norm"}
"""First part of the canonical name of an LLM's weights outside its layers -> their name in words."""

IGNORED_BUFFERS = ("rotary_emb.inv_freq", "position_ids")
"""Ends of the names of buffers that older files carry; they affect no answer."""


def canonical_name(name: str) -> str:
    """Return a parameter's name without wrappers, such as 'layers.3.mlp.up_proj.weight'."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(p for i, p in enumerate(parts) if p != TOWER_WRAPPER or "vision_tower" not in parts[:i])


def shapes_of(tensors: Mapping[str, TensorInfo], prefix: str = "") -> dict[str, Shape]:
    """Return canonical name -> shape, of tensors whose names lack a prefix such as "vision_tower."."""
    return {canonical_name(prefix + name): tensor.shape for name, tensor in tensors.items()}


def layer_index(name: str) -> int | None:
    """Return the decoder layer of a canonical name; None outside the decoder (towers, projector, embeddings)."""
    found = re.match(r"layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def is_outside_layers(name: str) -> bool:
    """Return whether a canonical name is of the LLM's embeddings, final norm or head."""
    return name.partition(".")[0] in OUTSIDE_LAYERS


def validate_unique_names(
    where: Path | str, names: Iterable[str], key: Callable[[str], str] = canonical_name
) -> list[str]:
    """Return an error for tensors that are stored under two names for one parameter, so that one of them is lost.

    Args:
        where: what the message begins with.
        names: as they are stored.
        key: maps the names of one parameter to one value.
    """
    stored: dict[str, list[str]] = {}
    for name in names:
        stored.setdefault(key(name), []).append(name)
    twice = sorted(name for name, of in stored.items() if len(of) > 1)
    if not twice:
        return []
    both = " and ".join(repr(name) for name in stored[twice[0]])
    more = f" (and {len(twice) - 1} more such pairs)" if len(twice) > 1 else ""
    return [f"{where} holds one weight under two names, {both}{more}; which one is meant is unknown"]


def validate_layer_numbers(where: Path | str, names: Iterable[str], depth: int) -> list[str]:
    """Return decoder layers that a config counts and the weights lack, or that the weights have beyond its count.

    Args:
        where: the folder, with its config.json.
        names: of the weights, canonical.
        depth: num_hidden_layers.
    """
    present = {n for n in map(layer_index, names) if n is not None}
    if not present:  # other names; the family's own check says what is missing
        return []
    missing, beyond = set(range(depth)) - present, {n for n in present if n >= depth}
    stated = f"{where}/config.json has num_hidden_layers {depth}, and the weights"
    has_gap = len(present) <= max(present)
    fix = f"number them 0 to {len(present) - 1}, without a gap" if has_gap else f"set it to {len(present)}"
    errors = []
    if missing:
        which = format_layers(missing, depth)
        errors.append(f"{stated} lack decoder layers {which}; download them again, or, for a pruned model, {fix}")
    if beyond:
        which = f"{min(beyond)} to {max(beyond)}" if len(beyond) > 1 else str(*beyond)
        errors.append(f"{stated} have decoder layers beyond it: {which}; {fix}, or remove the extra layers")
    return errors


def rename_layer(name: str, layer: int) -> str:
    """Return the name of the same tensor in another layer."""
    return re.sub(r"(^|\.)layers\.\d+\.", rf"\g<1>layers.{layer}.", name, count=1)


def without_layers(
    values: Mapping[str, T], removed: LayerSet, layer_of: Callable[[str], int | None] = layer_index
) -> dict[str, T]:
    """Return the values by parameter name after some decoder layers were removed and the rest renumbered."""
    kept: dict[str, T] = {}
    for name, value in values.items():
        layer = layer_of(name)
        if layer is None:
            kept[name] = value
        elif layer not in removed:
            kept[rename_layer(name, layer - sum(gone < layer for gone in removed))] = value
    return kept


def compare_shapes(
    where: Path | str, found: Mapping[str, Shape], expected: Mapping[str, Shape], list_all: bool = False
) -> list[str]:
    """Return what is missing, unexpected, or of another shape in `found`.

    Args:
        where: what the messages begin with.
        found: canonical name -> shape.
        expected: the same of the expected model.
        list_all: name all tensors; else one message for each kind of error, with one name and the number of others.
    """
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    other = sorted(n for n in set(found) & set(expected) if found[n] != expected[n])

    def groups(names: list[str]) -> list[list[str]]:
        return [[name] for name in names] if list_all else [names] if names else []

    return [
        *(f"{where} lacks {first_of(names)} that its model has" for names in groups(missing)),
        *(f"{where} has {first_of(names)}, which its model does not have" for names in groups(unexpected)),
        *(
            f"{where} has another shape for {first_of(names)}: {list(found[names[0]])}, where the model has "
            f"{list(expected[names[0]])}"
            for names in groups(other)
        ),
    ]


def format_layers(layers: Iterable[int], depth: int) -> str:
    """Return layers as `LayerSet` text: '0-3,8', 'all' or 'none'."""
    return str(LayerSet(tuple(layers), depth, allow_empty=True))


def first_of(names: Sequence[str]) -> str:
    """Return the first name in quotes, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"
