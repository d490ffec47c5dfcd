"""Training pictures as the frozen tower sees them, with their packed questions; kept in the cache once made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from vrbench.core.cache import cache_folder, file_digest
from vrbench.core.io import digest_of
from vrbench.core.provenance import package_versions
from vrbench.training.packing import Packer, Row
from vrbench.training.pocket_images import Pictures
from vrbench.training.tower import encode

FORMAT = 1  # of the cached file; raise it when what is written changes
FIELDS = ("tokens", "turn", "position", "target")
# The code that decides what is in a picture, what is asked and what the tower is shown: a change there must not meet
# old features, and neither must another version of the libraries.
SOURCES = (
    "pocket/world.py", "pocket/glyphs.py", "pocket/questions.py", "pocket/turns.py", "pocket/easy_vqa.py",
    "training/pocket_images.py", "training/packing.py", "training/tower.py", "data/images.py",
)  # fmt: skip
LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "numpy")


@dataclass(frozen=True)
class Encoded:
    """Pictures after the tower: features [n, patches, width] and one packed row a picture."""

    features: Tensor
    rows: list[Row]


def cached(
    what: list[str | int], tower: nn.Module, tower_digest: str, packer: Packer, device: torch.device,
    make: Callable[[], Pictures],
) -> Encoded:  # fmt: skip
    """The features of some pictures, from the cache or newly made.

    Args:
        what: what `make` makes, such as ["train", 60000, 6]; part of the cache's key.
        tower: the frozen vision tower.
        tower_digest: identifies its weights.
        packer: writes the questions as tokens.
        device: where the tower is; the features are returned there.
        make: draws the pictures when they are not in the cache.
    """
    root = Path(__file__).parents[1]
    code = [file_digest(root / name) for name in SOURCES]
    key = digest_of([FORMAT, *what, tower_digest, str(device.type), package_versions(LIBRARIES), *code])
    file = cache_folder() / "features" / f"{key[:20]}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # of several trainings that start together, one draws
        if not file.is_file():
            pictures = make()
            _save(Encoded(encode(tower, pictures.pixels, device), packer.rows(pictures.turns)), file)
    return _load(file, device)


def _save(made: Encoded, file: Path) -> None:
    from safetensors.torch import save_file

    kinds = sorted({kind for row in made.rows for kind in row.kinds})
    tensors = {name: torch.from_numpy(np.concatenate([getattr(r, name) for r in made.rows])) for name in FIELDS}
    tensors["lengths"] = torch.tensor([len(r.tokens) for r in made.rows])
    tensors["turns"] = torch.tensor([len(r.kinds) for r in made.rows])
    tensors["kinds"] = torch.tensor([kinds.index(kind) for r in made.rows for kind in r.kinds])
    tensors["features"] = made.features.cpu().contiguous()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata={"kinds": json.dumps(kinds)})
    os.replace(temporary, file)


def _load(file: Path, device: torch.device) -> Encoded:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stored:
        names = json.loads(stored.metadata()["kinds"])
        ends = np.cumsum(stored.get_tensor("lengths").numpy())[:-1]
        split = {name: np.split(stored.get_tensor(name).numpy(), ends) for name in FIELDS}
        last = np.cumsum(stored.get_tensor("turns").numpy())[:-1]
        kinds = [tuple(names[k] for k in part) for part in np.split(stored.get_tensor("kinds").numpy(), last)]
        features = stored.get_tensor("features").to(device)
    rows = [Row(kinds=kinds[i], **{name: parts[i] for name, parts in split.items()}) for i in range(len(kinds))]
    return Encoded(features, rows)
