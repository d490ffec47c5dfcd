"""Writing a checkpoint folder: tensors, the recipe's copy, and the lineage last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.cache import file_digest
from vrbench.lineage import MARKER
from vrbench.records import Lineage
from vrbench.train.recipe import TrainRecipe
from vrbench.writing import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

RECIPE_COPY = "recipe.yaml"


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write tensors as bfloat16 safetensors, in one step."""
    import torch
    from safetensors.torch import save_file

    temporary = file.with_name(f".{file.name}.part")
    kept = {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in tensors.items()}
    save_file(kept, temporary, metadata={"format": "pt"})
    os.chmod(temporary, 0o644)
    os.replace(temporary, file)


def publish(folder: Path, lineage: Lineage, recipe: TrainRecipe) -> Path:
    """Add the recipe's copy and `vrbench.json` with the digests of the weights; returns the folder."""
    write_atomically(folder / RECIPE_COPY, recipe.text())
    weights = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    whole = lineage.model_copy(update={"weights": weights})
    write_atomically(folder / MARKER, whole.model_dump_json(indent=1) + "\n")
    return folder
