"""Layers chosen by what a checkpoint misses least, and the folder without them: light, or a whole smaller model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from vrbench.checkpoint import Checkpoint, resolve
from vrbench.device import chosen_device
from vrbench.errors import VrbenchError
from vrbench.layers import LayerSet
from vrbench.models.fixed import fixed_layers
from vrbench.models.load import first_folder, load_vlm
from vrbench.records import Base, Lineage, Step, write_atomically
from vrbench.surgery.angular import angular_distances
from vrbench.surgery.folder import made_folder, name_beside, refuse_taken, write_lineage
from vrbench.surgery.measured import choose, dev_of, loss_without
from vrbench.surgery.recipe import PruneRecipe
from vrbench.surgery.whole import write_whole


def prune(recipe: PruneRecipe, out: Path, device: str, whole: bool) -> Path:
    """See `vrbench.surgery.prune`."""
    where = chosen_device(device)
    refuse_taken(out)
    base = resolve(recipe.base)
    fixed = _fixed(base)
    candidates = _candidates(base, recipe.outside_region, fixed)
    most = min(len(candidates), base.depth - 1)  # one layer must stay
    if recipe.remove > most:
        why = "".join(f"; layer {layer}: {reason}" for layer, reason in sorted(fixed.items())[:1])
        raise VrbenchError(f"{recipe.remove} layers are to go, but of {base.depth} only {most} may{why}")
    removed, note = _choose(load_vlm(base, where, "float32"), recipe, candidates)
    lineage = _lineage(recipe, out, base, removed, note)
    with made_folder(out) as folder:
        write_atomically(folder / "recipe.yaml", recipe.text())
        write_lineage(folder, lineage)
        made = resolve(str(folder))
        if whole:
            write_whole(made, folder, lineage, base)
    return out


def _fixed(base: Checkpoint) -> dict[int, str]:
    """Layer as it is counted now -> why it may not go."""
    file = first_folder(base) / "config.json"
    fixed = fixed_layers(json.loads(file.read_text(encoding="utf-8")))
    left = list(range(base.root.depth))
    for change in _all_changes(base):
        left = [number for i, number in enumerate(left) if i not in change]
    return {i: fixed[number] for i, number in enumerate(left) if number in fixed}


def _all_changes(checkpoint: Checkpoint) -> list[LayerSet]:
    below = _all_changes(checkpoint.base) if checkpoint.base else []
    return [*below, *checkpoint.removed]


def _candidates(base: Checkpoint, outside_region: bool, fixed: dict[int, str]) -> list[int]:
    """All layers that may go, or those of them that the latest training left alone."""
    stays = {*fixed, *(base.origins.tuned if outside_region else ())}
    return [layer for layer in range(base.depth) if layer not in stays]


def _choose(vlm: Any, recipe: PruneRecipe, candidates: list[int]) -> tuple[list[int], str]:
    """The layers that go, the least missed first, and how they were found."""
    dev = dev_of(vlm, recipe.pictures, recipe.turns)
    if recipe.by == "angular":
        distances = angular_distances(dev)
        removed = sorted(candidates, key=distances.__getitem__)[: recipe.remove]
        measured = ", ".join(f"{value:.4f}" for value in distances)
        return removed, f"angular distance of layers 0, 1, ...: {measured}; not healed"
    removed, losses = choose(partial(loss_without, dev), candidates, recipe.remove)
    measured = ", ".join(f"{value:.4f}" for value in losses)
    order = f"removed in the order {removed}"
    return removed, f"{order}; dev loss with 0, 1, ... removed: {measured} nats an answer; not healed"


def _lineage(recipe: PruneRecipe, out: Path, base: Checkpoint, removed: list[int], note: str) -> Lineage:
    step = Step(
        kind="pruned", layers=str(LayerSet.of(removed, base.depth)), depth=base.depth, method=recipe.by,
        recipe_digest=recipe.digest, note=note,
    )  # fmt: skip
    return Lineage(
        id=recipe.makes, family=base.family, depth=base.depth - len(removed), steps=(step,),
        base=Base(id=name_beside(recipe.base, out), digest=base.digest),
        licence=base.lineage[0].licence if base.lineage else "",
    )  # fmt: skip
