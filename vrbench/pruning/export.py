"""A layered checkpoint written out as one whole model, and read back before anyone is told of it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints import resolve as checkpoints
from vrbench.checkpoints.digest import settings_of
from vrbench.checkpoints.lineage import MARKER
from vrbench.checkpoints.new_folder import write_lineage
from vrbench.checkpoints.parameter_names import ADAPTER, first_of
from vrbench.checkpoints.resolve import Checkpoint
from vrbench.checkpoints.safetensors_index import read_header
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Lineage
from vrbench.models import components
from vrbench.models.load import first_folder, load_model

OF_THE_MODEL = ("config.json", "generation_config.json", "adapter_config.json")
"""Settings that the saved model writes itself."""

MORE_SETTINGS = ("video_preprocessor_config.json",)
NEW_TOKENS = 16
HALVES = {"BF16": torch.bfloat16, "F16": torch.float16}
"""safetensors' name of a type -> torch's, of those that float32 would only make bigger."""


def write_whole(made: Checkpoint, folder: Path, lineage: Lineage, base: Checkpoint) -> None:
    """Make a folder that holds a layered checkpoint's lineage into one that holds its whole model.

    It is saved, loaded again from disk, and compared: layers, every weight, and one generation with the cache. The
    lineage, with those of all bases, is written last.

    Args:
        made: the layered checkpoint.
        folder: its own, not yet under its final name.
        lineage: as it was written for the layered one.
        base: of the layered one.

    Raises:
        VrbenchError: what was read back is not what was written.
    """
    dtype = exact_dtype(made)
    model = load_model(made, dtype)
    first = first_folder(made)
    (folder / MARKER).unlink()
    model.save_pretrained(folder, max_shard_size="5GB")
    for name in (*settings_of(first), *MORE_SETTINGS):
        if name not in OF_THE_MODEL and (first / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(first / name, folder / name)
    kept = _kept(model)
    del model  # so that two of them are never in memory
    compare_saved(kept, folder, made.depth, dtype)
    write_lineage(folder, lineage.model_copy(update={"history": base.lineage}))


def exact_dtype(made: Checkpoint) -> torch.dtype:
    """The type that holds a checkpoint's weights without loss: that of its files, or float32 where they are merged."""
    kinds: set[str] = set()
    below: Checkpoint | None = made
    while below:
        if below.has(ADAPTER):
            return torch.float32
        kinds |= {t.dtype for file in below.path.glob("*.safetensors") for t in read_header(file).values()}
        kinds |= {"F32" for change in below.changes if change.backbone}  # whose files may hold another type
        below = below.base
    return HALVES.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32


@dataclass(frozen=True)
class Kept:
    """What is kept of a model in memory to hold a saved one against: sha256 of each parameter, and what it says."""

    weights: dict[str, str]
    said: list[int]


def compare_saved(kept: Kept, folder: Path, depth: int, dtype: torch.dtype) -> None:
    """Load a saved folder again and hold it against what was in memory.

    Raises:
        VrbenchError: the folder has faults, another number of layers, another weight, or says something else.
    """
    saved = checkpoints.resolve(str(folder))
    again = load_model(saved, dtype)
    layers = len(components.decoder_layers(again))
    if not layers == saved.depth == depth:
        raise VrbenchError(f"the saved model has {layers} decoder layers, its config says {saved.depth}, not {depth}")
    there = _kept(again)
    other = sorted(name for name, digest in kept.weights.items() if there.weights.get(name) != digest)
    if other:
        raise VrbenchError(f"the saved model has another {first_of(other)} than the one in memory")
    if there.said != kept.said:
        raise VrbenchError("the saved model, loaded again, does not say what the one in memory says")


def _kept(model: Any) -> Kept:
    bits = {name: p.detach().contiguous().view(torch.uint8) for name, p in model.named_parameters()}
    return Kept({name: hashlib.sha256(value.numpy()).hexdigest() for name, value in bits.items()}, _said(model))


@torch.inference_mode()
def _said(model: Any) -> list[int]:
    """What a model says greedily, with its cache, after a few tokens.

    Its weights are copied first: tensors that lie in a mapped file are aligned otherwise than tensors in memory, and a
    product's last bits follow.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    words = components.decoder(model).get_input_embeddings().weight.shape[0]
    prompt = torch.arange(1, 9)[None] * (words // 16) % words
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "use_cache": True}
    return [int(token) for token in model.generate(input_ids=prompt, attention_mask=prompt * 0 + 1, **settings)[0]]
