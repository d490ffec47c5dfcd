"""`vrbench.json` read and judged: what a checkpoint was made from, and whether its steps can be followed."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from vrbench.errors import VrbenchError
from vrbench.layers import LayerSet
from vrbench.records import SCHEMA_VERSION, Lineage

MARKER = "vrbench.json"


def read_lineage(folder: Path) -> Lineage | None:
    """`vrbench.json` of a checkpoint folder, or none if it has none.

    Raises:
        VrbenchError: it cannot be read, or is of another schema version.
    """
    path = folder / MARKER
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
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


def follow_steps(lineage: Lineage, depth: int) -> tuple[list[LayerSet], int, list[str]]:
    """What a lineage's steps do to a base of some depth, and why they cannot all be done.

    Args:
        lineage: of a checkpoint that is put on its base when it is loaded; depth 0 when it states none.
        depth: decoder layers of the base.

    Returns:
        The layers that each pruning step removes, the depth that is left, and one sentence for every wrong step.
    """
    removed: list[LayerSet] = []
    found: list[str] = []
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
        if step.kind == "pruned":
            if layers.is_all:
                found.append(f"{where} removes every layer; at least one must stay")
                continue
            removed.append(layers)
            depth -= len(layers)
    if lineage.depth and lineage.depth != depth and not found:
        found.append(f"{MARKER} of {lineage.id} says depth {lineage.depth}; its steps leave {depth} decoder layers")
    return removed, depth, found
