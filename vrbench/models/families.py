"""The model families that can be loaded: one file each, one line here (no torch until one is used)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.models import llava


@dataclass(frozen=True)
class Family:
    """How a folder of one kind is judged and loaded.

    Attributes:
        faults: folder -> why its weights are not those of the model that its config.json describes; loads none.
        load: (folder, torch dtype) -> (model, tokenizer, image processor), every weight read from the folder.
    """

    faults: Callable[[Path], list[str]]
    load: Callable[[Path, Any], tuple[Any, Any, Any]]


FAMILIES: dict[str, Family] = {
    "llava": Family(llava.faults, llava.load),
}
