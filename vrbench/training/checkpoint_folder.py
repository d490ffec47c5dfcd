"""The checkpoint folder of a training: saved states while it runs; at its end weights, the recipe's copy and lineage.

Saved states are in the folder's `state/`, where an interrupted run finds the newest complete one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.checkpoints.lineage import TRAINING_STATES
from vrbench.checkpoints.new_folder import write_lineage
from vrbench.core.errors import VrbenchError
from vrbench.core.io import write_atomically
from vrbench.core.schemas import Lineage
from vrbench.training.recipe import TrainRecipe

if TYPE_CHECKING:
    from torch import Tensor

OWNER = "recipe-digest"
"""File beside the states: sha256 of their recipe."""

LOSSES = "losses.safetensors"
"""File in a state, written last: the loss of every step so far."""

PREFIX = "checkpoint-"  # of the Trainer's folders


def is_first() -> bool:
    """Return whether this process is the one that writes: the only one, or rank 0 under `accelerate launch`."""
    return os.environ.get("RANK", "0") == "0"


def claim_states(out: Path, digest: str) -> Path:
    """Return the folder of a recipe's saved states in a checkpoint folder; it is made if needed.

    Raises:
        VrbenchError: it holds the states of another recipe.
    """
    folder = out / TRAINING_STATES
    owner = folder / OWNER
    if owner.is_file() and owner.read_text(encoding="utf-8").strip() != digest:
        raise VrbenchError(
            f"{folder} holds the state of another recipe that was interrupted; name another folder, or remove {out}"
        )
    if not owner.is_file():
        write_atomically(owner, digest + "\n")
    return folder


def newest_state(folder: Path) -> Path | None:
    """Return the newest complete state in a folder, such as folder/checkpoint-400; None when there is none."""
    complete = [path for path in _states(folder) if (path / LOSSES).is_file()]
    return max(complete, key=lambda path: int(path.name.removeprefix(PREFIX)), default=None)


def finish_state(folder: Path, step: int, losses: Tensor) -> None:
    """Mark the state of a step as complete, and remove all others."""
    state = folder / f"{PREFIX}{step}"
    save_tensors({"losses": losses}, state / LOSSES, "float32")
    for other in _states(folder):
        if other != state:
            shutil.rmtree(other, ignore_errors=True)


def _states(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]


def is_empty(folder: Path) -> bool:
    """Return whether a claimed folder holds no complete state of any stage."""
    return not any(folder.rglob(LOSSES))


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
    write_atomically(folder / "recipe.yaml", recipe.text())
    write_lineage(folder, lineage)
