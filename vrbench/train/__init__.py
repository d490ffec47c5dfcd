"""Training: a recipe in, a checkpoint folder out."""

from __future__ import annotations

from pathlib import Path

from vrbench.train.recipe import TrainRecipe, load, names

__all__ = ["TrainRecipe", "load", "names", "train"]


def train(
    recipe: str | TrainRecipe, out: str | Path, overrides: dict[str, str] | None = None, device: str = "auto"
) -> Path:
    """Run a recipe and write the checkpoint folder that it makes; `vrbench.json` is written last.

    Args:
        recipe: a shipped recipe's name, a YAML file, or a recipe.
        out: the folder to make; it must not hold a finished checkpoint.
        overrides: values for the recipe's keys, such as {"tune.steps": "20"}.
        device: "auto", "cpu" or "cuda".

    Raises:
        VrbenchError: the recipe is faulty, its base cannot be had, the folder is taken, or the loss is not finite.
    """
    from vrbench.train.stages import run_recipe

    wanted = recipe if isinstance(recipe, TrainRecipe) else load(recipe, overrides)
    return run_recipe(wanted, Path(out), device)
