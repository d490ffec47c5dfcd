"""Whether what lies in a layered checkpoint's folder fits the model below it (headers only; no weight is loaded)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints import lora_adapter, parameter_names
from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.parameter_names import ADAPTER, ADAPTER_CONFIG, DELTA, PROJECTOR, TOWER, Shape, layer_of
from vrbench.checkpoints.random_shapes import RECIPE
from vrbench.checkpoints.remote_code import LOCAL
from vrbench.checkpoints.safetensors_index import read_header, read_headers
from vrbench.core.schemas import Lineage

if TYPE_CHECKING:
    from vrbench.checkpoints.layer_edits import Change
    from vrbench.checkpoints.resolve import Checkpoint

PIECES = (ADAPTER, DELTA, PROJECTOR, TOWER)


def shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Canonical name -> shape of a checkpoint without faults."""
    if checkpoint.has(RECIPE):
        from vrbench.models.random_weights import expected_shapes

        return expected_shapes(checkpoint.path)
    if checkpoint.base is None:
        found = parameter_names.shapes_of(read_headers(checkpoint.path))
        return {name: shape for name, shape in found.items() if not name.endswith(parameter_names.WITHOUT_EFFECT)}
    below = changed_shapes(shapes(checkpoint.base), checkpoint.changes)
    if checkpoint.has(TOWER):
        below |= parameter_names.shapes_of(read_header(checkpoint.path / PROJECTOR), parameter_names.PROJECTOR_PREFIX)
    return below


def changed_shapes(below: dict[str, Shape], changes: tuple[Change, ...]) -> dict[str, Shape]:
    """The shapes that are left when layers were removed; restoring changes none."""
    for change in changes:
        if change.kind == "pruned":
            below = parameter_names.without_layers(below, change.layers)
    return below


def piece_faults(folder: Path, base: Checkpoint, own: Lineage, changes: tuple[Change, ...], depth: int) -> list[str]:
    """Why the pieces of a layered folder do not fit what is left of the base.

    Args:
        folder: holds the pieces.
        base: what they are put on.
        own: the folder's lineage.
        changes: the layers that are removed and restored before.
        depth: decoder layers after that.
    """
    has = {piece for piece in PIECES if (folder / piece).is_file()}
    if TOWER in has:
        more = sorted(has & {ADAPTER, DELTA}) + [change.kind for change in changes]
        fault = f"{folder} has {TOWER} and also {', '.join(more)}; that needs a folder of its own"
        return [fault] * bool(more) + _pocket_faults(folder)
    if base.code:
        return [f"{folder} is put on {base.id}, which runs code of its own; only the model as it lies there can be run"]
    if base.family not in FAMILIES:
        return [f"{folder} has no {TOWER}, and its base {base.id} is a language model that sees nothing"]
    found: list[str] = []
    if DELTA in has and len(has) > 1:
        others = ", ".join(sorted(has - {DELTA}))
        found.append(f"{folder} has {DELTA} and also {others}; which goes on last cannot be told, make two folders")
    below = changed_shapes(shapes(base), changes)
    if ADAPTER in has or (folder / ADAPTER_CONFIG).is_file():
        found += _adapter_faults(folder, base, own, below, depth)
    if DELTA in has:
        found += _delta_faults(folder, base, own, below, depth)
    if PROJECTOR in has:
        prefix, names = projector_of(base, below)
        theirs = {name: shape for name, shape in below.items() if name in names}  # a tower may have it inside of itself
        found += parameter_names.part_faults(folder / PROJECTOR, theirs, prefix)
    return found


def restored_faults(base: Checkpoint, before: tuple[Change, ...], change: Change) -> list[str]:
    """Why the backbone's layers do not fit where they are to go: every tensor that is missing, too many or unlike."""
    assert change.backbone is not None
    below, theirs = changed_shapes(shapes(base), before), shapes(change.backbone)
    found: list[str] = []
    for layer, source in zip(change.layers, change.sources, strict=True):
        where = f"layers.{layer}."
        have = {n.replace(f"layers.{source}.", where, 1): s for n, s in theirs.items() if layer_of(n) == source}
        want = {name: shape for name, shape in below.items() if layer_of(name) == layer}
        found += parameter_names.difference_faults(f"layer {source} of {change.backbone.id}", have, want, every=True)
    return found


def _adapter_faults(folder: Path, base: Checkpoint, own: Lineage, below: dict[str, Shape], depth: int) -> list[str]:
    found = lora_adapter.adapter_faults(folder, below, depth, lambda: projector_of(base, below)[1])
    told = _trained(own, depth, ("lora", "dora", "rslora", "dora+rslora"))
    if found or not told:
        return found
    layers = lora_adapter.adapter_layers(folder, depth)
    if set(layers) != told:
        has = f"{folder / ADAPTER} tunes layers {layers}"
        return [f"{has}; its lineage says {parameter_names.layer_text(told, depth)}"]
    return []


def _delta_faults(folder: Path, base: Checkpoint, own: Lineage, below: dict[str, Shape], depth: int) -> list[str]:
    """Whether the delta has all of the layers that its lineage says, and the projector, and nothing else."""
    layers = _trained(own, depth, ("weights",))
    if not layers:
        return [f"{folder} has {DELTA}, but its lineage has no step with layers trained by method 'weights'"]
    header = read_header(folder / DELTA)
    odd = [name for name in header if parameter_names.canonical(name) != name]
    if odd:
        return [f"{folder / DELTA} has {parameter_names.first_of(sorted(odd))}, which is no canonical name"]
    return parameter_names.difference_faults(
        folder / DELTA, {name: t.shape for name, t in header.items()}, delta_shapes(base, below, layers), every=True
    )


def delta_shapes(base: Checkpoint, below: dict[str, Shape], layers: set[int]) -> dict[str, Shape]:
    """Canonical name -> shape of what a delta of some layers holds: these layers and the projector."""
    projector = projector_of(base, below)[1]
    return {n: s for n, s in below.items() if n in projector or layer_of(n) in layers}


def _trained(own: Lineage, depth: int, methods: tuple[str, ...]) -> set[int]:
    """The layers that a lineage's own steps trained in one of some ways, at the depth that it has at the end."""
    from vrbench.core.layers import LayerSet

    steps = [s for s in own.steps if s.kind == "trained" and s.method in methods and s.depth == depth]
    return {layer for step in steps for layer in LayerSet.parse(step.layers, depth)}


def projector_of(base: Checkpoint, below: Mapping[str, Shape]) -> tuple[str, frozenset[str]]:
    """The canonical prefix and names of a model's projector: by name in a LLaVA, else by structure in an empty model.

    Args:
        base: whose family it is.
        below: canonical name -> shape of the model.
    """
    if base.family == "llava":  # so that no torch is needed where names tell it
        prefix = parameter_names.PROJECTOR_PREFIX
        return prefix, frozenset(name for name in below if name.startswith(prefix))
    from transformers import AutoConfig

    return _projector_of(AutoConfig.from_pretrained(base.root.path, **LOCAL).to_json_string())


@lru_cache(maxsize=8)
def _projector_of(config_text: str) -> tuple[str, frozenset[str]]:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from vrbench.models.components import projector_parameters, projector_prefix

    raw: dict[str, Any] = json.loads(config_text)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(raw.pop("model_type"), **raw))
    return projector_prefix(model), frozenset(projector_parameters(model))


def _pocket_faults(folder: Path) -> list[str]:
    """Why a folder's tower and projector are not those of a pocket model."""
    from vrbench.models.hf_folder import expected_shapes
    from vrbench.models.pocket import llava_config

    expected = expected_shapes(llava_config())
    return parameter_names.part_faults(
        folder / TOWER, expected, parameter_names.TOWER_PREFIX
    ) + parameter_names.part_faults(folder / PROJECTOR, expected, parameter_names.PROJECTOR_PREFIX)
