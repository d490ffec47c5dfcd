"""The conversations that a recipe means, and what it leaves to the user to set (no torch)."""

from __future__ import annotations

from pathlib import Path

from vrbench.training.conversation_sets import Samples, from_json
from vrbench.training.hub_sets import Columns, from_hub
from vrbench.training.recipe_files import Conversations, Hub, TrainRecipe


def read(settings: Conversations | Hub) -> Samples:
    """The conversations that a recipe's section `data` means.

    Raises:
        VrbenchError: they are not there or faulty.
    """
    if isinstance(settings, Conversations):
        images = Path(settings.images).expanduser() if settings.images else None
        return from_json(Path(settings.conversations).expanduser(), images, settings.most_left_out)
    columns = Columns(settings.image, settings.turns, settings.question, settings.answer)
    root = Path(settings.data_root).expanduser() if settings.data_root else None
    config, revision = settings.config or "default", settings.revision or ""
    return from_hub(settings.hub, config, settings.split, revision, columns, root, settings.most_left_out)


def unset(recipe: TrainRecipe) -> list[str]:
    """The paths that a recipe leaves to the user, one sentence each."""
    needed = {"base": (recipe.base, "the checkpoint folder that is tuned")}
    if isinstance(recipe.data, Conversations):
        needed["data.conversations"] = (recipe.data.conversations, "a JSON file in LLaVA's layout")
    return [
        f"recipe {recipe.name} leaves {key} to you: {what}; give --set {key}=PATH"
        for key, (value, what) in needed.items()
        if not value
    ]
