"""Training: a recipe in, a checkpoint folder out."""

from __future__ import annotations

from pathlib import Path

from vrbench.training.recipe import TrainRecipe
from vrbench.training.recipe_files import load, names

__all__ = ["TrainRecipe", "load", "names", "train"]


def train(
    recipe: str | TrainRecipe, out: str | Path, overrides: dict[str, str] | None = None, device: str = "auto"
) -> Path:
    """Run a recipe and write the checkpoint folder that it makes; `vrbench.json` is written last.

    A run that was killed goes on where it was last saved, when it is given the same recipe and folder, and makes the
    same weights on a CPU. Under `accelerate launch` it trains on all the devices that accelerate gives it.

    Args:
        recipe: a shipped recipe's name, a YAML file, or a recipe.
        out: the folder to make; it must not hold a finished checkpoint.
        overrides: values for the recipe's keys, such as {"tune.steps": "20"}.
        device: "auto", "cpu" or "cuda".

    Raises:
        VrbenchError: the recipe is faulty, its base cannot be had, the folder is taken, the loss is not finite, or
            memory ran out.
    """
    wanted = recipe if isinstance(recipe, TrainRecipe) else load(recipe, overrides)
    from vrbench.training.running import run

    return run(wanted, Path(out), device)
