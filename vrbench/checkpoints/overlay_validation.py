"""Validation of a layered checkpoint's weights against its base, from names and shapes (no torch)."""

from __future__ import annotations

from pathlib import Path

from vrbench.checkpoints import llava_shapes, lora_adapter
from vrbench.checkpoints.checkpoint import (
    ADAPTER,
    ADAPTER_CONFIG,
    DELTA,
    OVERLAY_FILES,
    PROJECTOR,
    TOWER,
    TUNED_TOWER,
    WHOLE_LLM,
    Checkpoint,
    LayerEdit,
)
from vrbench.checkpoints.families import FAMILIES, projector_names, projector_prefix, tower_names
from vrbench.checkpoints.model_config import may_tie_head
from vrbench.checkpoints.parameter_names import (
    HEAD,
    IGNORED_BUFFERS,
    PROJECTOR_PREFIX,
    TOWER_PREFIX,
    Shape,
    canonical_name,
    compare_shapes,
    first_of,
    format_layers,
    is_outside_layers,
    layer_index,
    shapes_of,
    without_layers,
)
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.checkpoints.safetensors_index import read_header, read_headers
from vrbench.checkpoints.smollm2 import text_config
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import Lineage


def checkpoint_shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Return canonical name -> shape of a valid checkpoint."""
    if checkpoint.has(RANDOM_WEIGHTS):
        return llava_shapes.folder_shapes(checkpoint.path)
    if checkpoint.base is None:
        found = shapes_of(read_headers(checkpoint.path))
        return {name: shape for name, shape in found.items() if not name.endswith(IGNORED_BUFFERS)}
    below = edited_shapes(checkpoint_shapes(checkpoint.base), checkpoint.edits)
    if checkpoint.has(TOWER):
        below |= shapes_of(read_header(checkpoint.path / PROJECTOR), PROJECTOR_PREFIX)
    return below


def edited_shapes(below: dict[str, Shape], edits: tuple[LayerEdit, ...]) -> dict[str, Shape]:
    """Return the shapes that are left after edits; restoring changes none."""
    for edit in edits:
        if edit.kind == "pruned":
            below = without_layers(below, edit.layers)
    return below


def validate_overlay(
    folder: Path, base: Checkpoint, own: Lineage, edits: tuple[LayerEdit, ...], depth: int
) -> list[str]:
    """Return why the weights of a layered folder do not fit the edited base.

    Args:
        folder: holds the weights.
        base: what they are applied to.
        own: the folder's lineage.
        edits: the layers that are removed and restored before.
        depth: decoder layers after that.
    """
    has = {name for name in OVERLAY_FILES if (folder / name).is_file()}
    if TOWER in has:
        more = sorted(has & {ADAPTER, DELTA, TUNED_TOWER}) + [edit.kind for edit in edits]
        conflict = f"{folder} has {TOWER} and also {', '.join(more)}; that needs a folder of its own"
        return [conflict] * bool(more) + _validate_pocket(folder)
    if base.code:
        return [f"{folder} is based on {base.id}, which runs code of its own; only the base itself can be run"]
    if base.family not in FAMILIES:
        return [f"{folder} has no {TOWER}, and its base {base.id} is a language model without vision"]
    errors: list[str] = []
    if DELTA in has and has - {DELTA, TUNED_TOWER}:
        others = ", ".join(sorted(has - {DELTA, TUNED_TOWER}))
        errors.append(f"{folder} has {DELTA} and also {others}; their order is unknown, make two folders")
    below = edited_shapes(checkpoint_shapes(base), edits)
    projector = projector_names(base.family, below)
    if ADAPTER in has or (folder / ADAPTER_CONFIG).is_file():
        errors += _validate_adapter(folder, own, below, depth, projector)
    if DELTA in has:
        errors += _validate_delta(folder, own, base, below, depth, projector)
    if PROJECTOR in has:  # a tower may contain the projector
        shapes = {name: below[name] for name in projector}
        errors += _validate_part(folder / PROJECTOR, shapes, projector_prefix(base.family))
    if TUNED_TOWER in has:
        errors += _validate_part(
            folder / TUNED_TOWER, {name: below[name] for name in tower_names(base.family, below)}, ""
        )
    return errors


def _validate_adapter(
    folder: Path, own: Lineage, below: dict[str, Shape], depth: int, projector: frozenset[str]
) -> list[str]:
    errors = lora_adapter.validate_adapter(folder, below, depth, projector)
    stated = _trained_layers(own, depth, ("lora", "dora", "rslora", "dora+rslora"))
    if errors or not stated:
        return errors
    layers = lora_adapter.adapter_layers(folder, depth)
    if set(layers) == stated:
        return []
    return [f"{folder / ADAPTER} tunes layers {layers}; its lineage says {format_layers(stated, depth)}"]


def _validate_delta(
    folder: Path, own: Lineage, base: Checkpoint, below: dict[str, Shape], depth: int, projector: frozenset[str]
) -> list[str]:
    """Return why the delta is not what its lineage states: layers, maybe embeddings, all or none of the projector."""
    layers = _trained_layers(own, depth, ("weights", WHOLE_LLM))
    if not layers:
        return [f"{folder} has {DELTA}, but its lineage has no step with layers trained by method 'weights'"]
    header = read_header(folder / DELTA)
    unexpected = [name for name in header if canonical_name(name) != name]
    if unexpected:
        return [f"{folder / DELTA} has {first_of(sorted(unexpected))}, which is not a canonical name"]
    found = {name: tensor.shape for name, tensor in header.items()}
    expected = delta_shapes(below, projector if projector & set(found) else frozenset(), layers)
    if any(step.method == WHOLE_LLM for step in own.steps):
        expected |= outside_shapes(base, below, has_head=HEAD in found)
    return compare_shapes(folder / DELTA, found, expected, list_all=True)


def outside_shapes(base: Checkpoint, below: dict[str, Shape], has_head: bool = False) -> dict[str, Shape]:
    """Return canonical name -> shape of the LLM's weights outside its layers: embeddings, final norm, head.

    Args:
        base: the checkpoint that they are from.
        below: its shapes.
        has_head: keep a stored head that may be the embedding.
    """
    outside = {name: shape for name, shape in below.items() if is_outside_layers(name)}
    if not has_head and may_tie_head(base.root.path):
        outside.pop(HEAD, None)
    return outside


def delta_shapes(below: dict[str, Shape], projector: frozenset[str], layers: set[int]) -> dict[str, Shape]:
    """Return canonical name -> shape of what a delta of some layers holds: these layers and the projector's names."""
    return {name: shape for name, shape in below.items() if name in projector or layer_index(name) in layers}


def _trained_layers(own: Lineage, depth: int, methods: tuple[str, ...]) -> set[int]:
    """Return the layers that a lineage's own steps trained by some methods, at its final depth."""
    steps = [s for s in own.steps if s.kind == "trained" and s.method in methods and s.depth == depth]
    return {layer for step in steps for layer in LayerSet.parse(step.layers, depth)}


def _validate_part(path: Path, expected: dict[str, Shape], prefix: str) -> list[str]:
    """Return why a file cannot replace a part of the model, such as the projector, whose names start with `prefix`."""
    try:
        return compare_shapes(path, shapes_of(read_header(path), prefix), expected)
    except VrbenchError as error:
        return [str(error)]


def _validate_pocket(folder: Path) -> list[str]:
    expected = llava_shapes.llava_shapes(text_config(), llava_shapes.POCKET_VISION)
    errors: list[str] = []
    for file, prefix in ((TOWER, TOWER_PREFIX), (PROJECTOR, PROJECTOR_PREFIX)):
        part = {name: shape for name, shape in expected.items() if name.startswith(prefix)}
        errors += _validate_part(folder / file, part, prefix)
    return errors
