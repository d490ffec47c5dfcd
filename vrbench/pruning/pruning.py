"""Layers chosen by what a checkpoint misses least, and the folder without them: light, or a whole smaller model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vrbench.checkpoints.new_folder import made_folder, name_beside, refuse_taken, write_lineage
from vrbench.checkpoints.resolve import Checkpoint, resolve
from vrbench.core.device import resolve_device
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import write_atomically
from vrbench.core.layers import LayerSet, select_layers
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models.load import load_vlm
from vrbench.pruning.export import write_whole
from vrbench.pruning.names import BLOCK
from vrbench.pruning.recipe import PruneRecipe
from vrbench.pruning.removable_layers import Candidates, candidates_of
from vrbench.pruning.removal_order import read_order, removal_order

Removed = tuple[LayerSet, str, str]
"""The layers that go, how they were chosen, and what is known of the choice."""


def prune(recipe: PruneRecipe, out: Path, device: str, whole: bool) -> Path:
    """See `vrbench.pruning.prune`."""
    where = resolve_device(device)
    refuse_taken(out)
    base = resolve(recipe.base)
    candidates = candidates_of(base, recipe.outside_region)
    lineage = _lineage(recipe, out, base, _removed(recipe, base, candidates, where))
    with made_folder(out) as folder:
        write_atomically(folder / "recipe.yaml", recipe.text())
        write_lineage(folder, lineage)
        made = resolve(str(folder))
        if whole:
            write_whole(made, folder, lineage, base)
    return out


def _removed(recipe: PruneRecipe, base: Checkpoint, candidates: Candidates, device: str) -> Removed:
    if recipe.layers:
        layers = select_layers(recipe.layers, base.depth)
        raise_errors(candidates.layer_faults(layers))
        return layers, recipe.by, "named; not healed"
    count = recipe.remove or 0
    raise_errors(candidates.number_faults(count))
    choose: Callable[[PruneRecipe, Checkpoint, Candidates, str], Removed] = _ordered
    if recipe.order:
        choose = _from_file
    elif recipe.by == BLOCK:
        choose = _block
    return choose(recipe, base, candidates, device)


def _ordered(recipe: PruneRecipe, base: Checkpoint, candidates: Candidates, device: str) -> Removed:
    count = recipe.remove or 0
    order = removal_order(
        base, recipe.by, count, outside_region=recipe.outside_region, pictures=recipe.pictures, turns=recipe.turns,
        device=device,
    )  # fmt: skip
    return LayerSet.of(order.order, base.depth), order.by, order.told(count)


def _from_file(recipe: PruneRecipe, base: Checkpoint, candidates: Candidates, device: str) -> Removed:
    count = recipe.remove or 0
    order = read_order(Path(recipe.order), base)
    if count > len(order.order):
        raise VrbenchError(f"{count} layers are to go; order {recipe.order!r} has {len(order.order)}")
    layers = LayerSet.of(order.order[:count], base.depth)
    raise_errors(candidates.layer_faults(layers))
    return layers, order.by, order.told(count)


def _block(recipe: PruneRecipe, base: Checkpoint, candidates: Candidates, device: str) -> Removed:
    """The consecutive layers, all of which may go, over which the states turn least."""
    from vrbench.pruning.angular import block_distances
    from vrbench.pruning.questions import DevQuestions
    from vrbench.pruning.samples import Samples

    count = recipe.remove or 0
    free = [i for i in range(base.depth - count + 1) if {*range(i, i + count)} <= {*candidates.layers}]
    if not free:
        raise VrbenchError(f"no {count} consecutive layers may go; those that may are {_text(candidates)}")
    samples = Samples(load_vlm(base, device, "float32"), DevQuestions(recipe.pictures, recipe.turns))
    distances = block_distances(samples, count)[-1]
    first = min(free, key=distances.__getitem__)
    told = ", ".join(f"{value:.4f}" for value in distances)
    note = f"angular distance over {count} layers from layer 0, 1, ... on: {told}; not healed"
    return LayerSet.of(range(first, first + count), base.depth), BLOCK, note


def _text(candidates: Candidates) -> str:
    return str(LayerSet.of(candidates.layers, candidates.depth))


def _lineage(recipe: PruneRecipe, out: Path, base: Checkpoint, removed: Removed) -> Lineage:
    layers, by, note = removed
    step = LineageStep(
        kind="pruned", layers=str(layers), depth=base.depth, method=by, recipe_digest=recipe.digest, note=note
    )
    return Lineage(
        id=recipe.makes, family=base.family, depth=base.depth - len(layers), steps=(step,),
        base=BaseRef(id=name_beside(recipe.base, out), digest=base.digest),
        licence=base.lineage[0].licence if base.lineage else "",
    )  # fmt: skip
