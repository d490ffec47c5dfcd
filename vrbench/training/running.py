"""A training from its recipe to a whole folder: the folder is claimed, states lie in it, faults leave nothing odd."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vrbench.core.device import is_out_of_memory
from vrbench.core.errors import VrbenchError
from vrbench.training.checkpoint_folder import claim_states, is_empty
from vrbench.training.processes import is_first, own_device
from vrbench.training.recipe import TrainRecipe
from vrbench.training.run import start_of


def run(recipe: TrainRecipe, out: Path, device: str) -> Path:
    """See `vrbench.training.train`."""
    from vrbench.training.stages import make_base, tune_base

    where = own_device(device)
    start = start_of(recipe, out)
    is_new = not out.exists()
    state = claim_states(out, recipe.digest)
    try:
        with _memory_told():
            if start:
                tune_base(recipe, start, out, where, state)
            else:
                make_base(recipe, out, where, state)
    except VrbenchError:
        if is_first() and is_empty(state):  # nothing worth going on from
            shutil.rmtree(out if is_new else state, ignore_errors=True)
        raise
    if is_first():
        shutil.rmtree(state, ignore_errors=True)
    return out


@contextmanager
def _memory_told() -> Iterator[None]:
    """Turn running out of memory outside of the steps, which tell it themselves, into a fault."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise VrbenchError(
            "memory ran out before or after the steps, while the model was loaded, pictures were encoded or it was "
            "measured; use fewer scenes, a smaller base, or a device that is free"
        ) from error
