"""Surgery: which decoder layers can go, and the checkpoint folder that says so."""

from __future__ import annotations

from pathlib import Path

from vrbench.surgery.recipe import PruneRecipe, recipe_of

__all__ = ["PruneRecipe", "prune", "recipe_of"]


def prune(recipe: PruneRecipe, out: str | Path, device: str = "auto") -> Path:
    """Choose layers to remove and write the folder of the pruned checkpoint; the removal is done when it is loaded.

    Raises:
        VrbenchError: the base cannot be had, more layers are to go than may, or the folder is taken.
    """
    from vrbench.surgery.measured import prune_by_loss

    return prune_by_loss(recipe, Path(out), device)
