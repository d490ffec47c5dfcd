"""`vrbench.json` read and judged: what a checkpoint was made from, and whether its steps can be followed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_text
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import SCHEMA_VERSION, Lineage, LineageStep

MARKER = "vrbench.json"
UNFINISHED = "state"
"""Folder of a training's saved states; a checkpoint folder that has it and no marker is not made yet."""


def read_lineage(folder: Path) -> Lineage | None:
    """`vrbench.json` of a checkpoint folder, or none if it has none.

    Raises:
        VrbenchError: it cannot be read, or is of another schema version.
    """
    path = folder / MARKER
    if not path.is_file():
        return None
    try:
        raw = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise VrbenchError(f"{path} is not JSON: {error}") from error
    version = raw.get("schema_version", SCHEMA_VERSION) if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise VrbenchError(f"{path} has schema version {version}; this vrbench reads {SCHEMA_VERSION}")
    try:
        return Lineage.model_validate(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise VrbenchError(f"{path} cannot be read: {where}: {fault['msg']}") from error


@dataclass(frozen=True)
class Followed:
    """What a lineage's steps do to its base.

    Attributes:
        changes: the steps that are done to the layers when the checkpoint is loaded, with the layers that they mean.
        depth: decoder layers that are left.
        faults: one sentence for every step that cannot be done.
    """

    changes: tuple[tuple[LineageStep, LayerSet], ...]
    depth: int
    faults: tuple[str, ...]


def follow_steps(lineage: Lineage, depth: int, has_pieces: bool = False) -> Followed:
    """What a lineage's steps do to a base of some depth, and why they cannot all be done.

    Args:
        lineage: of a checkpoint that is put on its base when it is loaded; depth 0 when it states none.
        depth: decoder layers of the base.
        has_pieces: whether the folder has trained weights, which are put on after all layers are removed and restored.
    """
    changes: list[tuple[LineageStep, LayerSet]] = []
    found: list[str] = []
    trained = False
    for number, step in enumerate(lineage.steps, 1):
        where = f"step {number} ({step.kind}) of {lineage.id}"
        if step.depth != depth:
            found.append(f"{where} is for {step.depth} decoder layers; the model has {depth} at that point")
            continue
        try:
            layers = LayerSet.parse(step.layers, depth)
        except VrbenchError as fault:
            found.append(f"{where}: {fault}")
            continue
        if step.kind == "trained":
            trained = True
            continue
        if trained and has_pieces:
            found.append(f"{where} comes after the training whose weights lie in the same folder; it needs its own")
        elif step.kind == "restored" and step.backbone is None:
            found.append(f"{where} names no backbone that the layers are from")
        elif step.kind == "pruned" and layers.is_all:
            found.append(f"{where} removes every layer; at least one must stay")
        else:
            changes.append((step, layers))
            depth -= len(layers) if step.kind == "pruned" else 0
    if lineage.depth and lineage.depth != depth and not found:
        found.append(f"{MARKER} of {lineage.id} says depth {lineage.depth}; its steps leave {depth} decoder layers")
    return Followed(tuple(changes), depth, tuple(found))


@dataclass(frozen=True)
class Origins:
    """Where the decoder layers of a checkpoint come from.

    Attributes:
        first_depth: decoder layers before any was removed.
        numbers: for each layer that is left, its number among those.
        tuned: the region: the layers, as they are counted now, whose weights the latest training changed that was no
            healing, and no restoring undid.
        healed: those that healing trained after layers had been removed; it makes no layer part of the region.
    """

    first_depth: int
    numbers: tuple[int, ...]
    tuned: tuple[int, ...]
    healed: tuple[int, ...] = ()


def origins(lineages: Sequence[Lineage], depth: int) -> Origins:
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
        if step.kind == "trained" and step.stage == "heal":
            healed |= {numbers[i] for i in layers}
        elif step.kind == "trained" and is_latest:
            tuned |= {numbers[i] for i in layers}
        elif step.kind == "restored":
            tuned -= {numbers[i] for i in layers}
            healed -= {numbers[i] for i in layers}
        elif step.kind == "pruned":
            numbers = [number for i, number in enumerate(numbers) if i not in layers]
    if len(numbers) != depth:
        raise VrbenchError(f"the steps lead to {len(numbers)} decoder layers; the model has {depth}")
    now = [tuple(i for i, number in enumerate(numbers) if number in these) for these in (tuned, healed)]
    return Origins(first, tuple(numbers), *now)


def _tunes(step: LineageStep) -> bool:
    return step.kind == "trained" and step.layers != "none" and step.stage != "heal"
