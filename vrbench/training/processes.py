"""One of several processes under `accelerate launch`: which one, and on which card."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vrbench.core.device import resolve_device

if TYPE_CHECKING:
    import torch


def is_first() -> bool:
    """Whether this process is the one that writes: the only one, or that of rank 0."""
    return os.environ.get("RANK", "0") == "0"


def own_device(name: str) -> torch.device:
    """Where this process trains: "cpu", or its own card.

    Raises:
        VrbenchError: no such name, or "cuda" where there is no card.
    """
    import torch

    kind = resolve_device(name)
    if kind == "cpu":
        return torch.device("cpu")
    card = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(card)
    return torch.device("cuda", card)
