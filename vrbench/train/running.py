"""A training from its recipe to a whole folder: the folder is claimed, states lie in it, faults leave nothing odd."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from vrbench.device import chosen_device
from vrbench.errors import VrbenchError
from vrbench.lineage import MARKER
from vrbench.train.recipe import TrainRecipe
from vrbench.train.states import claim_states, is_empty


def run(recipe: TrainRecipe, out: Path, device: str) -> Path:
    """See `vrbench.train.train`."""
    from vrbench.train.stages import run_recipe

    if (out / MARKER).exists():
        raise VrbenchError(f"{out} already holds a checkpoint; name another folder, or remove it")
    where = torch.device(chosen_device(device))
    is_new = not out.exists()
    state = claim_states(out, recipe.digest)
    try:
        run_recipe(recipe, out, where, state)
    except VrbenchError:
        if is_empty(state):  # nothing worth going on from
            shutil.rmtree(out if is_new else state, ignore_errors=True)
        raise
    shutil.rmtree(state, ignore_errors=True)
    return out
