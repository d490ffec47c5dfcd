"""A checkpoint as one folder of a whole model in transformers' format, for what reads nothing else.

The weights have the names of checkpoints on the hub. transformers 5 saves the vision tower of a LLaVA without the
`vision_model` of those names, reads both, and vLLM reads only the hub's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.checkpoint import TEMPLATE, TOWER, Checkpoint
from vrbench.checkpoints.digest import settings_files
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.checkpoints.safetensors_index import read_headers
from vrbench.core.cache import cached_folder
from vrbench.core.io import digest_of, read_json
from vrbench.models.load import first_folder, load_model

FORMAT = 2  # of the cached folder; raise it when what is written changes

MODEL_SETTINGS = ("config.json", "generation_config.json", "adapter_config.json")
"""Settings that the saved model writes itself."""

MORE_SETTINGS = ("video_preprocessor_config.json",)

LLAVAS = ("llava", "llava_next", "llava_onevision")
"""Model types whose weights `published_name` names."""

TOWERS = ("clip_vision_model", "siglip_vision_model")
"""Types of their vision towers that have the hub's `vision_model`."""

IN_TOWER = re.compile(r"^(?:model\.)?vision_tower\.(?!vision_model\.)")
"""Beginning of the name of a tower's weight that lacks it."""

HUB_PREFIXES = {
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
    "model.": "",  # the tower, the projector and the mark of a new line
}
"""Beginning of a LLaVA's weights in memory -> on the hub; the first that fits."""


def whole_folder(checkpoint: Checkpoint, dtype: torch.dtype, device: str = "cpu") -> Path:
    """Return a folder with a checkpoint's whole model, its weights named as on the hub.

    It is the checkpoint's own if that is such a folder, else one that is written to the cache once.

    Args:
        dtype: of the weights that are written; adapters are merged in float32 first.
        device: where random weights are made.
    """
    is_whole = checkpoint.base is None and not checkpoint.has(TOWER) and not checkpoint.has(RANDOM_WEIGHTS)
    if is_whole and has_published_names(checkpoint.path):
        return checkpoint.path
    key = digest_of([FORMAT, checkpoint.digest, str(dtype)])

    def write(folder: Path) -> None:
        where = device if checkpoint.root.has(RANDOM_WEIGHTS) else "cpu"
        save_whole(load_model(checkpoint, dtype, where), first_folder(checkpoint), folder, checkpoint.template)

    return cached_folder(f"whole-{key[:16]}", write)


def has_published_names(folder: Path) -> bool:
    """Return whether the weights of a whole model's folder are named as on the hub, without what no answer needs."""
    config = read_json(folder / "config.json")
    if not _is_llava(config):
        return True
    unused = ("position_ids", "image_newline") if config["model_type"] == "llava" else "position_ids"
    return not any(IN_TOWER.match(name) or name.endswith(unused) for name in read_headers(folder))


def published_name(name: str) -> str:
    """Return the hub's name of a LLaVA's weight from its name in memory."""
    for prefix, published in HUB_PREFIXES.items():
        if name.startswith(prefix):
            name = published + name.removeprefix(prefix)
            break
    return IN_TOWER.sub("vision_tower.vision_model.", name)


def _is_llava(config: Mapping[str, Any]) -> bool:
    """Return whether a config is of a LLaVA with a CLIP or SigLIP tower."""
    return config.get("model_type") in LLAVAS and config.get("vision_config", {}).get("model_type") in TOWERS


def save_whole(model: Any, first: Path, folder: Path, template: str | None = None) -> None:
    """Save a model with the tokenizer and processor settings of the folder that it was loaded from first.

    A chat template that it was trained with takes the place of that folder's.
    """
    named: dict[str, Any] = {}
    if _is_llava(model.config.to_dict()):
        state = {published_name(name): tensor for name, tensor in model.state_dict().items()}
        named = {"state_dict": state, "save_original_format": False}
    model.save_pretrained(folder, max_shard_size="5GB", **named)
    for name in (*settings_files(first), *MORE_SETTINGS):
        if name not in MODEL_SETTINGS and (first / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(first / name, folder / name)
    if template is not None:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
