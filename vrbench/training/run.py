"""A training run from its recipe to the finished folder; resumes an interrupted one."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.core.device import is_out_of_memory, resolve_device
from vrbench.core.errors import VrbenchError
from vrbench.training.checkpoint_folder import claim_states, is_empty, is_first, saved_progress
from vrbench.training.curves import Reporting
from vrbench.training.prepare import TrainingSetup, prepare
from vrbench.training.recipe import TrainRecipe
from vrbench.training.recipe_files import load

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


def train(
    recipe: str | TrainRecipe,
    out: str | Path,
    overrides: dict[str, str] | None = None,
    device: str = "auto",
    must_resume: bool = False,
    log_to: Sequence[str] = (),
) -> Path:
    """Run a recipe and write the checkpoint folder that it makes; `vrbench.json` is written last.

    An interrupted run resumes from its newest saved state when it is given the same recipe and folder, and makes the
    same weights on a CPU. Under `accelerate launch` it trains on all the devices that accelerate gives it.

    Args:
        recipe: a shipped recipe's name, a YAML file, or a recipe.
        out: the folder to make; it must not hold a finished checkpoint.
        overrides: values for the recipe's keys, such as {"tune.steps": "20"}.
        device: "auto", "cpu" or "cuda".
        must_resume: raise an error where there is no saved state, instead of starting anew.
        log_to: experiment trackers, of `vrbench.training.curves.TRACKERS`.

    Raises:
        VrbenchError: the recipe or one of its inputs is invalid, the folder is taken, the loss is not finite, or memory
            ran out.
    """
    recipe, out = recipe if isinstance(recipe, TrainRecipe) else load(recipe, overrides), Path(out)
    process_device = _process_device(device)
    setup = prepare(recipe, out, must_resume, log_to)
    is_new = not out.exists()
    state = claim_states(out, recipe)
    if is_first() and (progress := saved_progress(state)):
        _log.warning("vrbench: resumes %s", progress)
    try:
        _run_stages(recipe, setup, out, process_device, state, Reporting(out, tuple(log_to), recipe.makes))
    except VrbenchError:
        if is_first() and is_empty(state):  # there is nothing to resume from
            shutil.rmtree(out if is_new else state, ignore_errors=True)
        raise
    if is_first():
        shutil.rmtree(state, ignore_errors=True)
    return out


def _process_device(name: str) -> torch.device:
    """Return the device of this process, which under `accelerate launch` has a GPU of its own."""
    import torch

    device = torch.device(resolve_device(name))
    if device.type == "cpu":
        return device
    gpu = int(os.environ.get("LOCAL_RANK", device.index or 0))
    torch.cuda.set_device(gpu)
    return torch.device("cuda", gpu)


def _run_stages(
    recipe: TrainRecipe, setup: TrainingSetup | None, out: Path, device: torch.device, state: Path, reporting: Reporting
) -> None:
    from vrbench.training.stages import make_base, tune_base

    try:
        if setup:
            tune_base(recipe, setup, out, device, state, reporting)
        else:
            make_base(recipe, out, device, state, reporting)
    except (MemoryError, RuntimeError) as error:  # the training steps report theirs themselves
        if not is_out_of_memory(error):
            raise
        raise VrbenchError(
            "memory ran out before or after the training steps (loading the model, encoding images, or measuring the "
            "result); use fewer scenes, a smaller base, or a device that is free"
        ) from error
