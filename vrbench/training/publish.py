"""Writing a checkpoint folder: tensors, the recipe's copy, and the lineage last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.lineage import MARKER
from vrbench.checkpoints.parameter_names import ADAPTER, DELTA, PROJECTOR
from vrbench.core.cache import file_digest
from vrbench.core.io import write_atomically
from vrbench.core.schemas import Lineage
from vrbench.training.recipe import TrainRecipe, TuneStage

if TYPE_CHECKING:
    from torch import Tensor

    from vrbench.core.layers import LayerSet

RECIPE_COPY = "recipe.yaml"


def save_tensors(tensors: Mapping[str, Tensor], file: Path, dtype: str) -> None:
    """Write tensors as safetensors of one type, "float32" or "bfloat16", in one step."""
    import torch
    from safetensors.torch import save_file

    temporary = file.with_name(f".{file.name}.part")
    kept = {name: value.detach().to("cpu", getattr(torch, dtype)).contiguous() for name, value in tensors.items()}
    save_file(kept, temporary, metadata={"format": "pt"})
    os.chmod(temporary, 0o644)
    os.replace(temporary, file)


def save_tuned(model: Any, layers: LayerSet, settings: TuneStage, base: str, out: Path, dtype: str) -> str:
    """Write what was trained: an adapter and the projector, or a delta; returns the lineage's word for it.

    Args:
        model: transformers' model, with PEFT around it where it carries LoRA.
        layers: that were tuned; may be none.
        settings: how.
        base: what the adapter's settings name as its base.
        out: the folder.
        dtype: of what is written: the recipe's.
    """
    from vrbench.models.components import layer_parameters, projector_parameters

    if len(layers) and settings.tuning == "weights":
        save_tensors(layer_parameters(model, layers) | projector_parameters(model), out / DELTA, dtype)
        return "weights"
    if len(layers):
        _save_adapter(model, base, out, dtype)
    if settings.lr_projector:
        save_tensors(_projector(model), out / PROJECTOR, dtype)
    return "lora" if len(layers) else "projector"


def _save_adapter(model: Any, base: str, out: Path, dtype: str) -> None:
    from safetensors.torch import load_file

    model.peft_config["default"].base_model_name_or_path = base  # not the folder where it lies here
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's model card, which says nothing of this model
    save_tensors(load_file(out / ADAPTER), out / ADAPTER, dtype)


def _projector(model: Any) -> dict[str, Tensor]:
    """The projector's tensors under its own names."""
    from vrbench.models.components import projector_parameters, projector_prefix
    from vrbench.training.trainable import core_of

    core = core_of(model)
    prefix = projector_prefix(core)
    return {name.removeprefix(prefix): value for name, value in projector_parameters(core).items()}


def publish(folder: Path, lineage: Lineage, recipe: TrainRecipe) -> Path:
    """Add the recipe's copy and `vrbench.json` with the digests of the weights; returns the folder."""
    write_atomically(folder / RECIPE_COPY, recipe.text())
    weights = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    whole = lineage.model_copy(update={"weights": weights})
    write_atomically(folder / MARKER, whole.model_dump_json(indent=1) + "\n")
    return folder
