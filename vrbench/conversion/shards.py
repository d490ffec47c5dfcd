"""Writing the converted weights, one shard for each file that they come from.

Memory holds one shard at most: its mapped pages, or the tensors that LoRA matrices are merged into.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vrbench.checkpoints.safetensors_index import INDEX
from vrbench.conversion.lora import SourceAdapter, merge_lora
from vrbench.conversion.tensor_plan import TensorCopy
from vrbench.conversion.weight_files import open_tensors
from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    import torch


def write_shards(copies: list[TensorCopy], adapter: SourceAdapter | None, folder: Path) -> None:
    """Write the converted weights, one shard for each file that they come from, and the index of several.

    Args:
        copies: every tensor of the converted model.
        adapter: has the matrices of the pairs.
        folder: must exist.

    Raises:
        VrbenchError: a tensor is not what its file's header said, or a merged one is not finite.
    """
    from safetensors.torch import save_file

    files = list(dict.fromkeys(copy.file for copy in copies))
    total = sum(copy.size for copy in copies)
    weight_map = {}
    with tqdm(total=total, unit="B", unit_scale=True, desc="converting") as progress:
        for number, file in enumerate(files, 1):
            shard = _shard_name(number, len(files))
            tensors = {}
            for copy in (copy for copy in copies if copy.file == file):
                tensors[copy.target] = _converted(copy, adapter)
                weight_map[copy.target] = shard
                progress.update(copy.size)
            save_file(tensors, folder / shard, {"format": "pt"})
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _converted(copy: TensorCopy, adapter: SourceAdapter | None) -> torch.Tensor:
    """Return one tensor of the converted model: mapped from its file, where nothing of it changes."""
    import torch

    with open_tensors(copy.file) as get:  # for each tensor, so that pages of a merged one are not kept
        tensor = get(copy.name).detach()
    if adapter and copy.pair:
        tensor = merge_lora(tensor, adapter, copy.pair)
    if copy.copied_row is not None:
        tensor = torch.cat([tensor, tensor[copy.copied_row].expand(copy.shape[0] - len(tensor), -1)])
    if tensor.shape != copy.shape:
        raise VrbenchError(f"{copy.file} changed while it was read: {copy.name} is not what it was")
    return tensor.contiguous()
