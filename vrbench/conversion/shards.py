"""Tensors from file to file, one at a time: memory holds one shard's mapped pages and one tensor, never a model.

A safetensors file is written by hand, header first (https://github.com/huggingface/safetensors#format), since the
library's writer wants all of a file's tensors in memory at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vrbench.checkpoints.safetensors_index import INDEX
from vrbench.conversion.lora import SourceAdapter, matrices, merged
from vrbench.conversion.tensor_plan import TensorCopy
from vrbench.conversion.weight_files import open_tensors
from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    import torch

NUMBERS_AT_ONCE = 1 << 18
"""Numbers that are merged with LoRA matrices at once: 1 MB in float32."""

ALIGNED = 8
"""The header is filled up with spaces to a multiple of this, so that tensors can be mapped as they are."""


def write_shards(moves: list[TensorCopy], adapter: SourceAdapter | None, folder: Path) -> dict[str, str]:
    """Write the target's weights, one shard for each file that they come from, and the index of several.

    Args:
        moves: every tensor of the target.
        adapter: where the matrices of pairs are.
        folder: must exist.

    Returns:
        File name -> its sha256.

    Raises:
        VrbenchError: a tensor is not what its file's header said, or a merged one is not finite.
    """
    files = list(dict.fromkeys(move.file for move in moves))
    shards = {
        _shard_name(number, len(files)): [move for move in moves if move.file == file]
        for number, file in enumerate(files, 1)
    }
    digests = {}
    with tqdm(total=sum(move.size for move in moves), unit="B", unit_scale=True, desc="converting") as progress:
        for name, part in shards.items():
            digests[name] = _write_shard(part, adapter, folder / name, progress)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(move.size for move in moves)},
            "weight_map": {move.target: name for name, part in shards.items() for move in part},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return digests


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _write_shard(moves: list[TensorCopy], adapter: SourceAdapter | None, path: Path, progress: Any) -> str:
    """Write the moves that come from one file; returns the new file's sha256."""
    # Wider dtypes first, so that every tensor starts at a multiple of its own width.
    ordered = sorted(moves, key=lambda move: (move.dtype != "F32", move.target))
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


def _contents(
    moves: list[TensorCopy], adapter: SourceAdapter | None, get: Callable[[str], torch.Tensor]
) -> Iterator[memoryview]:
    """The bytes of the tensors, part by part."""
    for move in moves:
        left = move.size
        for rows in _rows(move, adapter, get):
            content = _content(rows)
            left -= len(content)
            yield content
        if left:
            raise VrbenchError(f"{move.file} changed while it was read: {move.name} is not what it was")


def _header(moves: list[TensorCopy]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for move in moves:
        span = [position, position + move.size]
        entries[move.target] = {"dtype": move.dtype, "shape": list(move.shape), "data_offsets": span}
        position += move.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    return len(text).to_bytes(8, "little") + text


def _rows(
    move: TensorCopy, adapter: SourceAdapter | None, get: Callable[[str], torch.Tensor]
) -> Iterator[torch.Tensor]:
    """The tensor as it is in the target, some rows at a time."""
    tensor = get(move.name)
    if adapter and move.pair:
        step = max(1, NUMBERS_AT_ONCE // tensor.shape[1])
        with matrices(adapter, move.pair) as (a, b):
            for start in range(0, len(tensor), step):
                yield merged(tensor[start : start + step], a, b[start : start + step], move.pair.scale)
    else:
        yield tensor
    if move.copied_row is not None:
        row = tensor[move.copied_row]
        yield row.expand(move.shape[0] - len(tensor), *row.shape)


def _content(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes, row by row."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
