"""Writing the converted weights, one shard for each file that they come from.

Memory holds one shard at most: its mapped pages, or the tensors that LoRA matrices are merged into.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vrbench.checkpoints.safetensors_index import INDEX, WEIGHTS
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
    files = list(dict.fromkeys(copy.file for copy in copies))
    total = sum(copy.size for copy in copies)
    weight_map: dict[str, str] = {}
    with tqdm(total=total, unit="B", unit_scale=True, desc="converting") as progress:
        for number, file in enumerate(files, 1):
            shard = f"model-{number:05d}-of-{len(files):05d}.safetensors" if len(files) > 1 else WEIGHTS
            part = [copy for copy in copies if copy.file == file]
            _write_shard(part, adapter, folder / shard, progress)
            weight_map |= {copy.target: shard for copy in part}
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _write_shard(copies: list[TensorCopy], adapter: SourceAdapter | None, path: Path, progress: Any) -> None:
    """Write the tensors that come from one file."""
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    places = set()
    with open_tensors(copies[0].file) as get:
        for copy in copies:
            tensor = _converted(copy, adapter, get)
            # A pickled file may hold one tensor under two names; safetensors has no such thing.
            tensors[copy.target] = tensor.clone() if tensor.data_ptr() in places else tensor
            places.add(tensor.data_ptr())
            progress.update(copy.size)
        save_file(tensors, path, {"format": "pt"})


def _converted(copy: TensorCopy, adapter: SourceAdapter | None, get: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """Return one tensor of the converted model: mapped from its file, where nothing of it changes."""
    import torch

    if adapter and copy.pair:
        with open_tensors(copy.file) as get_once:  # so that pages of the unmerged one are not kept
            tensor = merge_lora(get_once(copy.name), adapter, copy.pair)
    else:
        tensor = get(copy.name).contiguous()
    if copy.copied_row is not None:
        tensor = torch.cat([tensor, tensor[copy.copied_row].expand(copy.shape[0] - len(tensor), -1)])
    if tensor.shape != copy.shape:
        raise VrbenchError(f"{copy.file} changed while it was read: {copy.name} is not what it was")
    return tensor
