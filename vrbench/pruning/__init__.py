"""Surgery: layers removed, layers put back, whole layers tuned, and the checkpoint folders that say so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.pruning.recipe import PruneRecipe, recipe_of

if TYPE_CHECKING:
    from vrbench.core.layers import LayerSet
    from vrbench.core.schemas import LineageStep

__all__ = ["PruneRecipe", "order_layers", "prune", "recipe_of", "restore", "write_delta"]


def prune(recipe: PruneRecipe, out: str | Path, device: str = "auto", whole: bool = False) -> Path:
    """Choose layers to remove and write the folder of the pruned checkpoint.

    Args:
        recipe: what is removed from which checkpoint, and how it is chosen.
        out: folder to make.
        device: where the choice is measured: auto, cpu or cuda.
        whole: write the whole smaller model; else only its lineage, and the removal is done when it is loaded.

    Raises:
        VrbenchError: the base cannot be had, more layers are to go than may, or the folder is taken.
    """
    from vrbench.pruning.pruning import prune as prune_layers

    return prune_layers(recipe, Path(out), device, whole)


def order_layers(recipe: PruneRecipe, file: str | Path, device: str = "auto") -> Path:
    """Measure once in which order layers go, and write it; any number of its first ones can be removed afterwards.

    Args:
        recipe: whose `remove` is how many layers the order has at most; `order` of a later recipe names the file.
        file: JSON file to write, a `vrbench.pruning.removal_order.RemovalOrder`.
        device: where it is measured: auto, cpu or cuda.

    Raises:
        VrbenchError: the base cannot be had, more layers are to go than may, or the recipe names them already.
    """
    from vrbench.pruning.removal_order import order_layers as measure

    return measure(recipe, Path(file), device)


def restore(ckpt: str, layers: str, backbone: str, out: str | Path, id_: str = "") -> Path:
    """Write the folder of a checkpoint with some layers put back to a backbone's weights when it is loaded.

    Args:
        ckpt: checkpoint whose layers are restored.
        layers: as `select_layers` reads them, in the checkpoint's depth; removed layers count no more.
        backbone: language model or checkpoint with layers of the same shapes, such as "smollm2-135m-instruct".
        out: folder to make.
        id_: id of the new checkpoint; else the folder's name.

    Raises:
        VrbenchError: either cannot be had, their layers do not fit each other, or the folder is taken.
    """
    from vrbench.pruning.restoring import restore as restore_layers

    return restore_layers(ckpt, layers, backbone, Path(out), id_)


def write_delta(
    model: Any, layers: LayerSet, base: str, out: str | Path, *, id_: str = "", step: LineageStep | None = None
) -> Path:
    """Write what tuning some whole layers and the projector changed; see `vrbench.pruning.delta.write_delta`."""
    from vrbench.pruning.delta import write_delta as write

    return write(model, layers, base, out, id_=id_, step=step)
