"""A checkpoint as one folder of a whole model in transformers' format, for what reads nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.checkpoint import TOWER, Checkpoint
from vrbench.checkpoints.digest import settings_files
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.core.cache import cached_folder
from vrbench.core.io import digest_of
from vrbench.models.load import first_folder, load_model

FORMAT = 1  # of the cached folder; raise it when what is written changes

MODEL_SETTINGS = ("config.json", "generation_config.json", "adapter_config.json")
"""Settings that the saved model writes itself."""

MORE_SETTINGS = ("video_preprocessor_config.json",)


def whole_folder(checkpoint: Checkpoint, dtype: torch.dtype, device: str = "cpu") -> Path:
    """Return a folder with a checkpoint's whole model: its own if it has one, else one written to the cache once.

    Args:
        dtype: of the weights that are written; adapters are merged in float32 first.
        device: where random weights are made.
    """
    if checkpoint.base is None and not checkpoint.has(TOWER) and not checkpoint.has(RANDOM_WEIGHTS):
        return checkpoint.path
    key = digest_of([FORMAT, checkpoint.digest, str(dtype)])

    def write(folder: Path) -> None:
        where = device if checkpoint.root.has(RANDOM_WEIGHTS) else "cpu"
        save_whole(load_model(checkpoint, dtype, where), first_folder(checkpoint), folder)

    return cached_folder(f"whole-{key[:16]}", write)


def save_whole(model: Any, first: Path, folder: Path) -> None:
    """Save a model with the tokenizer and processor settings of the folder that it was loaded from first."""
    model.save_pretrained(folder, max_shard_size="5GB")
    for name in (*settings_files(first), *MORE_SETTINGS):
        if name not in MODEL_SETTINGS and (first / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(first / name, folder / name)
