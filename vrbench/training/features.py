"""Training images as the frozen tower encodes them, with their packed questions; cached once made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from vrbench.core.cache import cache_folder, file_digest
from vrbench.core.io import digest_of
from vrbench.core.provenance import package_versions
from vrbench.training.packing import FIELDS, EncodedImages, PackedRow, Packer
from vrbench.training.pocket_images import LabelledImages
from vrbench.training.tower import encode

FORMAT = 1  # of the cached file; raise it when what is written changes
SOURCES = (
    "pocket/world.py", "pocket/glyphs.py", "pocket/questions.py", "pocket/turns.py", "pocket/easy_vqa.py",
    "training/pocket_images.py", "training/packing.py", "training/tower.py", "data/images.py",
)  # fmt: skip
"""The code that decides what is in an image, what is asked and what the tower sees: it enters the cache's key."""

LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "numpy")


def cached_features(
    content: list[str | int], tower: nn.Module, tower_digest: str, packer: Packer, device: torch.device,
    make: Callable[[], LabelledImages],
) -> EncodedImages:  # fmt: skip
    """Return the features and rows of some images, on the device, from the cache or newly made.

    Args:
        content: what `make` makes, such as ["train", 60000, 6]; part of the cache's key.
        tower: the frozen vision tower.
        tower_digest: identifies its weights.
        packer: writes the questions as tokens.
        device: of the tower.
        make: draws the images when they are not in the cache.
    """
    root = Path(__file__).parents[1]
    code = [file_digest(root / name) for name in SOURCES]
    key = digest_of([FORMAT, *content, tower_digest, str(device.type), package_versions(LIBRARIES), *code])
    file = cache_folder() / "features" / f"{key[:20]}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # of several trainings that start together, one makes the file
        if not file.is_file():
            images = make()
            _save(EncodedImages(encode(tower, images.pixels, device), packer.rows(images.turns)), file)
    return _load(file, device)


def _save(made: EncodedImages, file: Path) -> None:
    kinds = sorted({kind for row in made.rows for kind in row.kinds})
    tensors = {name: torch.from_numpy(np.concatenate([getattr(r, name) for r in made.rows])) for name in FIELDS}
    tensors["lengths"] = torch.tensor([len(r.tokens) for r in made.rows])
    tensors["turns"] = torch.tensor([len(r.kinds) for r in made.rows])
    tensors["kinds"] = torch.tensor([kinds.index(kind) for r in made.rows for kind in r.kinds])
    tensors["features"] = made.features.cpu().contiguous()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata={"kinds": json.dumps(kinds)})
    os.replace(temporary, file)


def _load(file: Path, device: torch.device) -> EncodedImages:
    with safe_open(file, framework="pt") as stored:
        names = json.loads(stored.metadata()["kinds"])
        ends = np.cumsum(stored.get_tensor("lengths").numpy())[:-1]
        arrays = {name: np.split(stored.get_tensor(name).numpy(), ends) for name in FIELDS}
        last = np.cumsum(stored.get_tensor("turns").numpy())[:-1]
        kinds = [tuple(names[k] for k in part) for part in np.split(stored.get_tensor("kinds").numpy(), last)]
        features = stored.get_tensor("features").to(device)
    rows = [PackedRow(kinds=kinds[i], **{name: parts[i] for name, parts in arrays.items()}) for i in range(len(kinds))]
    return EncodedImages(features, rows)
