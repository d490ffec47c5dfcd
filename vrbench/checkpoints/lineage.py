"""`vrbench.json`: what a checkpoint was made from, whether its steps can be applied, and where its layers come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.run_storage import read_record
from vrbench.core.schemas import Lineage, LineageStep

LINEAGE_FILE = "vrbench.json"
TRAINING_STATES = "state"
"""Folder of a training's saved states; a checkpoint folder that has it and no lineage is not finished."""


def read_lineage(folder: Path) -> Lineage | None:
    """Return the lineage in a checkpoint folder, or None if it has none.

    Raises:
        VrbenchError: it cannot be read, or is of another schema version.
    """
    path = folder / LINEAGE_FILE
    return read_record(path, Lineage, needs_version=False) if path.is_file() else None


@dataclass(frozen=True)
class AppliedSteps:
    """The effect of a lineage's steps on its base.

    Attributes:
        edits: the steps that change the layers when the checkpoint is loaded, with the layers that they name.
        depth: decoder layers that are left.
        errors: one message for every step that cannot be applied.
    """

    edits: tuple[tuple[LineageStep, LayerSet], ...]
    depth: int
    errors: tuple[str, ...]


def apply_steps(lineage: Lineage, depth: int, has_weights: bool = False) -> AppliedSteps:
    """Apply a lineage's steps to a base of some depth; return their effect and errors.

    Args:
        lineage: of a checkpoint that is applied to its base when it is loaded; depth 0 when it states none.
        depth: decoder layers of the base.
        has_weights: whether the folder has trained weights, which are applied after all edits of layers.
    """
    edits: list[tuple[LineageStep, LayerSet]] = []
    errors: list[str] = []
    trained = False
    for number, step in enumerate(lineage.steps, 1):
        where = f"step {number} ({step.kind}) of {lineage.id}"
        if step.depth != depth:
            errors.append(f"{where} is for {step.depth} decoder layers; the model has {depth} at that point")
            continue
        try:
            layers = LayerSet.parse(step.layers, depth)
        except VrbenchError as error:
            errors.append(f"{where}: {error}")
            continue
        if step.kind == "trained":
            trained = True
        elif trained and has_weights:
            errors.append(f"{where} comes after the training whose weights are in the same folder; it needs its own")
        elif step.kind == "restored" and step.backbone is None:
            errors.append(f"{where} names no backbone that the layers are from")
        elif step.kind == "pruned" and layers.is_all:
            errors.append(f"{where} removes every layer; at least one must stay")
        else:
            edits.append((step, layers))
            depth -= len(layers) if step.kind == "pruned" else 0
    if lineage.depth and lineage.depth != depth and not errors:
        errors.append(
            f"{LINEAGE_FILE} of {lineage.id} says depth {lineage.depth}; its steps leave {depth} decoder layers"
        )
    return AppliedSteps(tuple(edits), depth, tuple(errors))


@dataclass(frozen=True)
class LayerOrigins:
    """Where the decoder layers of a checkpoint come from.

    Attributes:
        first_depth: decoder layers before any was removed.
        numbers: for each layer that is left, its index among those.
        tuned: the region: current indices of the layers whose weights were changed by the latest training that was not
            healing, and not restored since.
        healed: those trained by healing after layers were removed; healing adds no layer to the region.
    """

    first_depth: int
    numbers: tuple[int, ...]
    tuned: tuple[int, ...]
    healed: tuple[int, ...] = ()


def layer_origins(lineages: Sequence[Lineage], depth: int) -> LayerOrigins:
    """Follow all steps of a checkpoint and its bases.

    Args:
        lineages: the checkpoint's own first, then its bases'.
        depth: decoder layers that it has.

    Raises:
        VrbenchError: the steps do not lead to that depth.
    """
    latest = next((line for line in lineages if any(_tunes(step) for step in line.steps)), None)
    steps = [(line is latest, step) for line in reversed(lineages) for step in line.steps]
    first = steps[0][1].depth if steps else depth
    numbers = list(range(first))
    tuned: set[int] = set()
    healed: set[int] = set()
    for is_latest, step in steps:
        if step.depth != len(numbers):
            raise VrbenchError(f"a step ({step.kind}) is for {step.depth} decoder layers; {len(numbers)} are left")
        layers = LayerSet.parse(step.layers, step.depth)
        named = {numbers[i] for i in layers}
        if step.kind == "trained" and step.stage == "heal":
            healed |= named
        elif step.kind == "trained" and is_latest:
            tuned |= named
        elif step.kind == "restored":
            tuned -= named
            healed -= named
        elif step.kind == "pruned":
            numbers = [number for number in numbers if number not in named]
    if len(numbers) != depth:
        raise VrbenchError(f"the steps lead to {len(numbers)} decoder layers; the model has {depth}")
    now = [tuple(i for i, number in enumerate(numbers) if number in these) for these in (tuned, healed)]
    return LayerOrigins(first, tuple(numbers), *now)


def _tunes(step: LineageStep) -> bool:
    return step.kind == "trained" and step.layers != "none" and step.stage != "heal"
