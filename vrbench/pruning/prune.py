"""Remove the least important layers of a checkpoint, or restore layers: the folder of the new checkpoint."""

from __future__ import annotations

from pathlib import Path

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.layer_edits import plan_restore
from vrbench.checkpoints.locate import relative_name
from vrbench.checkpoints.new_folder import create_folder, require_free, write_lineage
from vrbench.checkpoints.parameter_names import format_layers
from vrbench.core.device import resolve_device
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import write_atomically
from vrbench.core.layers import LayerSet, select_layers
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models.resolve import resolve_backbone, resolve_checkpoint
from vrbench.pruning.questions import DevQuestions
from vrbench.pruning.recipe import PruneRecipe
from vrbench.pruning.removable_layers import RemovableLayers
from vrbench.pruning.removal_methods import BLOCKS, PRUNEME_BLOCK
from vrbench.pruning.removal_order import order_of, read_order

Chosen = tuple[LayerSet, str, str]
"""The layers to remove, what they were chosen by, and how, for the lineage."""


def prune(recipe: PruneRecipe, out: str | Path, device: str = "auto", whole: bool = False) -> Path:
    """Choose layers to remove and write the folder of the pruned checkpoint.

    Args:
        recipe: what is removed from which checkpoint, and how it is chosen.
        out: folder to make.
        device: where the choice is measured: auto, cpu or cuda.
        whole: write the whole smaller model; else only its lineage, and layers are removed when it is loaded.

    Returns:
        The folder.

    Raises:
        VrbenchError: the base cannot be resolved, more layers are named than may be removed, or the folder is taken.
    """
    out, device = Path(out), resolve_device(device)
    require_free(out)
    base = resolve_checkpoint(recipe.base)
    layers, by, note = _choose(recipe, base, device)
    step = LineageStep(
        kind="pruned", layers=str(layers), depth=base.depth, method=by, recipe_digest=recipe.digest, note=note
    )  # fmt: skip
    lineage = _lineage(recipe.makes, base, recipe.base, out, step, base.depth - len(layers))
    with create_folder(out) as folder:
        write_atomically(folder / "recipe.yaml", recipe.text())
        write_lineage(folder, lineage)
        made = resolve_checkpoint(str(folder))
        if whole:
            from vrbench.pruning.export import export_full

            export_full(made, folder, lineage, base)
    return out


def restore(ckpt: str, layers: str, backbone: str, out: str | Path, id_: str = "") -> Path:
    """Write the folder of a checkpoint whose named layers get a backbone's weights when it is loaded.

    Args:
        ckpt: checkpoint whose layers are restored.
        layers: as `vrbench.core.layers.select_layers` reads them, in the checkpoint's current depth.
        backbone: language model or checkpoint with layers of the same shapes, such as "smollm2-135m-instruct".
        out: folder to make.
        id_: id of the new checkpoint; else the folder's name.

    Returns:
        The folder.

    Raises:
        VrbenchError: either cannot be resolved, their layers do not match, or the folder is taken.
    """
    out = Path(out)
    require_free(out)
    base, source = resolve_checkpoint(ckpt), resolve_backbone(backbone)
    chosen = select_layers(layers, base.depth)
    raise_errors(plan_restore(base, (), chosen, source)[1])
    step = LineageStep(
        kind="restored", layers=str(chosen), depth=base.depth, method="weights",
        backbone=BaseRef(id=relative_name(backbone, out), digest=source.digest),
    )  # fmt: skip
    with create_folder(out) as folder:
        write_lineage(folder, _lineage(id_ or out.resolve().name, base, ckpt, out, step, base.depth))
        resolve_checkpoint(str(folder))
    return out


def _lineage(id_: str, base: Checkpoint, name: str, out: Path, step: LineageStep, depth: int) -> Lineage:
    """Return the lineage of one step on a base that the user named."""
    return Lineage(
        id=id_, family=base.family, depth=depth, steps=(step,),
        base=BaseRef(id=relative_name(name, out), digest=base.digest),
        licence=base.lineage[0].licence if base.lineage else "",
    )  # fmt: skip


def _choose(recipe: PruneRecipe, base: Checkpoint, device: str) -> Chosen:
    removable = RemovableLayers.for_checkpoint(base, recipe.outside_region)
    if recipe.layers:
        layers = select_layers(recipe.layers, base.depth)
        raise_errors(removable.validate_layers(layers))
        return layers, recipe.by, "named; not healed"
    count = recipe.remove or 0
    raise_errors(removable.validate_count(count))
    if not recipe.order and recipe.by in BLOCKS:
        return _least_block(recipe, base, removable, count, device)
    if recipe.order:
        order = read_order(Path(recipe.order), base)
        if count > len(order.order):
            raise VrbenchError(f"removal order {recipe.order!r} has {len(order.order)} layers, not {count}")
        raise_errors(removable.validate_layers(order.order[:count]))
    else:
        order = order_of(recipe, base, device)
    return LayerSet.of(order.order[:count], base.depth), order.by, order.describe(count)


def _least_block(recipe: PruneRecipe, base: Checkpoint, removable: RemovableLayers, count: int, device: str) -> Chosen:
    """Choose the consecutive layers, all of them removable, over which hidden states turn least."""
    from vrbench.models.load import load_vlm
    from vrbench.pruning.hidden_states import block_distances
    from vrbench.pruning.samples import Samples

    is_pruneme = recipe.by == PRUNEME_BLOCK
    starts = removable.blocks(count, with_first=not is_pruneme)
    if not starts:
        which = format_layers({*removable.blocks(1, with_first=not is_pruneme)}, base.depth)
        raise VrbenchError(f"no {count} consecutive layers may be removed; those that may are {which}")
    samples = Samples(load_vlm(base, device, "float32"), DevQuestions(recipe.pictures, recipe.turns))
    distances = block_distances(samples, count, final_norm=is_pruneme)[-1]
    first = min(starts, key=distances.__getitem__)
    values = ", ".join(f"{value:.4f}" for value in distances)
    note = f"angular distance over {count} layers from layer 0, 1, ... on: {values}; not healed"
    return LayerSet.of(range(first, first + count), base.depth), recipe.by, note
