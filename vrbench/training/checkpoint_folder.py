"""Saved states of a training in a checkpoint folder's `state/`: found again when whole, gone when the training is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.checkpoints.lineage import UNFINISHED
from vrbench.core.errors import VrbenchError
from vrbench.core.io import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

OWNER = "recipe-digest"
"""File in it: sha256 of the recipe that the states are of."""

WHOLE = "whole"
"""File in a state, written last."""

LOSSES = "losses.safetensors"
"""File in a state: the loss of every step so far."""

PREFIX = "checkpoint-"  # of the Trainer's folders


def claim_states(out: Path, digest: str) -> Path:
    """The folder of the states of a recipe in a checkpoint folder; made when it is not there.

    Raises:
        VrbenchError: it holds the states of another recipe.
    """
    folder = out / UNFINISHED
    owner = folder / OWNER
    if owner.is_file() and owner.read_text(encoding="utf-8").strip() != digest:
        raise VrbenchError(
            f"{folder} holds the state of another recipe that was stopped; name another folder, or remove {out}"
        )
    if not owner.is_file():
        write_atomically(owner, digest + "\n")
    return folder


def newest_state(folder: Path) -> Path | None:
    """The newest whole state in a folder, such as folder/checkpoint-400; None when there is none."""
    whole = [path for path in _states(folder) if (path / WHOLE).is_file()]
    return max(whole, key=_step, default=None)


def finish_state(folder: Path, step: int, losses: Tensor) -> None:
    """Mark the state of a step as whole, and remove the older ones and what was left half written."""
    from safetensors.torch import save_file

    state = folder / f"{PREFIX}{step}"
    save_file({"losses": losses.contiguous()}, state / LOSSES)
    write_atomically(state / WHOLE, "")
    for other in _states(folder):
        if other != state:
            shutil.rmtree(other, ignore_errors=True)


def _states(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]


def _step(state: Path) -> int:
    return int(state.name.removeprefix(PREFIX))


def is_empty(folder: Path) -> bool:
    """Whether a claimed folder holds no whole state, of any stage."""
    return not any(folder.rglob(WHOLE))
