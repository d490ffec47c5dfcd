"""The checkpoint folder of a training: saved states while it runs; at its end weights, the recipe's copy and lineage.

Saved states are in the folder's `state/`, where an interrupted run finds the newest complete one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vrbench.checkpoints.lineage import TRAINING_STATES
from vrbench.checkpoints.new_folder import write_lineage
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import read_text, write_atomically
from vrbench.core.schemas import Lineage
from vrbench.training.recipe import TrainRecipe

if TYPE_CHECKING:
    from torch import Tensor

OWNER = "recipe-digest"
"""File beside the states: sha256 of their recipe."""

RECIPE_COPY = "recipe.yaml"
"""The recipe: beside the states of an interrupted training, then beside the weights."""

LOSSES = "losses.safetensors"
"""File in a state, written last: loss and gradient norm of every step so far."""

PREFIX = "checkpoint-"  # of the Trainer's folders


def is_first() -> bool:
    """Return whether this process is the one that writes: the only one, or rank 0 under `accelerate launch`."""
    return os.environ.get("RANK", "0") == "0"


def validate_states(out: Path, recipe: TrainRecipe, must_resume: bool = False) -> list[str]:
    """Return why a recipe cannot start in a checkpoint folder, or cannot resume there; empty when it can.

    Args:
        out: the checkpoint folder, which need not exist.
        recipe: the one to train.
        must_resume: whether having no saved state to resume from is an error.
    """
    folder = out / TRAINING_STATES
    owner = folder / OWNER
    if owner.is_file() and owner.read_text(encoding="utf-8").strip() != recipe.digest:
        return [
            f"{folder} holds the state of another recipe that was interrupted{_differences(folder, recipe)}; give the "
            f"recipe as it was, name another folder, or remove {out}"
        ]
    if must_resume and is_empty(folder):
        return [f"{out} holds no saved state to resume from; leave --resume out to start a new training"]
    return []


def _differences(folder: Path, recipe: TrainRecipe) -> str:
    """Return the keys in which a recipe differs from the one whose states are in a folder, as part of a message."""
    if not (folder / RECIPE_COPY).is_file():
        return ""
    there, here = (_flat(yaml.safe_load(text)) for text in (read_text(folder / RECIPE_COPY), recipe.text()))
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return f" ({', '.join(f'{key} is {there.get(key)} there and {here.get(key)} here' for key in keys)})"


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a recipe's values by keys such as 'tune.lr'."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def interrupted_recipe(out: Path) -> Path:
    """Return the file with the recipe of the interrupted training in a checkpoint folder.

    Raises:
        VrbenchError: there is none.
    """
    copy = out / TRAINING_STATES / RECIPE_COPY
    if not copy.is_file():
        raise VrbenchError(f"{out} holds no interrupted training to resume; name a recipe to start one")
    return copy


def claim_states(out: Path, recipe: TrainRecipe) -> Path:
    """Return the folder of a recipe's saved states in a checkpoint folder; it is made if needed.

    Raises:
        VrbenchError: it holds the states of another recipe.
    """
    raise_errors(validate_states(out, recipe))
    folder = out / TRAINING_STATES
    for name, text in ((RECIPE_COPY, recipe.text()), (OWNER, recipe.digest + "\n")):
        if not (folder / name).is_file():
            write_atomically(folder / name, text)
    return folder


def newest_state(folder: Path) -> Path | None:
    """Return the newest complete state in a folder, such as folder/checkpoint-400; None when there is none."""
    complete = [path for path in _states(folder) if (path / LOSSES).is_file()]
    return max(complete, key=lambda path: int(path.name.removeprefix(PREFIX)), default=None)


def finish_state(folder: Path, step: int, curves: Mapping[str, Tensor]) -> None:
    """Mark the state of a step as complete, with the values [step] of curves, and remove all others."""
    state = folder / f"{PREFIX}{step}"
    save_tensors(curves, state / LOSSES, "float32")
    for other in _states(folder):
        if other != state:
            shutil.rmtree(other, ignore_errors=True)


def _states(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]


def is_empty(folder: Path) -> bool:
    """Return whether a folder of states holds no complete one of any stage."""
    return not any(folder.rglob(LOSSES))


def saved_progress(folder: Path) -> str:
    """Return which saved states a training resumes from, such as 'tune at step 400'; '' when there are none."""
    stages = sorted({path.parent.parent for path in folder.rglob(LOSSES)})
    newest = [(stage.name, newest_state(stage)) for stage in stages]
    return ", ".join(f"{name} at step {state.name.removeprefix(PREFIX)}" for name, state in newest if state)


def save_tensors(tensors: Mapping[str, Tensor], file: Path, dtype: str) -> None:
    """Write tensors as safetensors of one type, "float32" or "bfloat16", atomically."""
    import torch
    from safetensors.torch import save_file

    temporary = file.with_name(f".{file.name}.part")
    converted = {name: value.detach().to("cpu", getattr(torch, dtype)).contiguous() for name, value in tensors.items()}
    save_file(converted, temporary, metadata={"format": "pt"})
    os.chmod(temporary, 0o644)
    os.replace(temporary, file)


def publish(folder: Path, lineage: Lineage, recipe: TrainRecipe) -> None:
    """Add the recipe's copy, and last `vrbench.json` with the digests of the weights."""
    write_atomically(folder / RECIPE_COPY, recipe.text())
    write_lineage(folder, lineage)
