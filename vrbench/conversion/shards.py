"""Writing the converted weights one tensor at a time: memory holds one shard's mapped pages and one tensor.

A safetensors file is written here header first (https://github.com/huggingface/safetensors#format), since the library's
writer needs all of a file's tensors in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vrbench.checkpoints.safetensors_index import INDEX
from vrbench.conversion.lora import SourceAdapter, merge_rows, open_pair
from vrbench.conversion.tensor_plan import TensorCopy
from vrbench.conversion.weight_files import open_tensors
from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    import torch

MERGED_NUMBERS = 1 << 18
"""Numbers that are merged with LoRA matrices together: 1 MB in float32."""

ALIGNMENT = 8
"""The header is padded with spaces to a multiple of this many bytes, so that tensors can be memory-mapped."""


def write_shards(copies: list[TensorCopy], adapter: SourceAdapter | None, folder: Path) -> dict[str, str]:
    """Write the converted weights, one shard for each file that they come from, and the index of several.

    Args:
        copies: every tensor of the converted model.
        adapter: has the matrices of the pairs.
        folder: must exist.

    Returns:
        File name -> its sha256.

    Raises:
        VrbenchError: a tensor is not what its file's header said, or a merged one is not finite.
    """
    files = list(dict.fromkeys(copy.file for copy in copies))
    shards = {
        _shard_name(number, len(files)): [copy for copy in copies if copy.file == file]
        for number, file in enumerate(files, 1)
    }
    total = sum(copy.size for copy in copies)
    with tqdm(total=total, unit="B", unit_scale=True, desc="converting") as progress:
        digests = {name: _write_shard(part, adapter, folder / name, progress) for name, part in shards.items()}
    if len(shards) > 1:
        weight_map = {copy.target: name for name, part in shards.items() for copy in part}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return digests


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _write_shard(copies: list[TensorCopy], adapter: SourceAdapter | None, path: Path, progress: Any) -> str:
    """Write the tensors that come from one file; returns the new file's sha256."""
    # Wider dtypes first, so that every tensor starts at a multiple of its own width.
    ordered = sorted(copies, key=lambda copy: (copy.dtype != "F32", copy.target))
    digest = hashlib.sha256()
    with path.open("wb") as out, open_tensors(ordered[0].file) as get:
        header = _header(ordered)
        out.write(header)
        digest.update(header)
        for content in _contents(ordered, adapter, get):
            out.write(content)
            digest.update(content)
            progress.update(len(content))
    return digest.hexdigest()


def _header(copies: list[TensorCopy]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for copy in copies:
        span = [position, position + copy.size]
        entries[copy.target] = {"dtype": copy.dtype, "shape": list(copy.shape), "data_offsets": span}
        position += copy.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _contents(
    copies: list[TensorCopy], adapter: SourceAdapter | None, get: Callable[[str], torch.Tensor]
) -> Iterator[memoryview]:
    """Yield the bytes of the tensors, part by part."""
    import torch

    for copy in copies:
        remaining = copy.size
        for rows in _rows(copy, adapter, get):
            content = rows.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
            remaining -= len(content)
            yield content
        if remaining:
            raise VrbenchError(f"{copy.file} changed while it was read: {copy.name} is not what it was")


def _rows(
    copy: TensorCopy, adapter: SourceAdapter | None, get: Callable[[str], torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Yield the converted tensor, some rows at a time."""
    tensor = get(copy.name)
    if adapter and copy.pair:
        step = max(1, MERGED_NUMBERS // tensor.shape[1])
        with open_pair(adapter, copy.pair) as (a, b):
            for start in range(0, len(tensor), step):
                yield merge_rows(tensor[start : start + step], a, b[start : start + step], copy.pair.scale)
    else:
        yield tensor
    if copy.copied_row is not None:
        row = tensor[copy.copied_row]
        yield row.expand(copy.shape[0] - len(tensor), *row.shape)
