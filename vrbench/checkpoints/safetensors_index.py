"""What safetensors files say about themselves: their header, read and checked without loading a weight.

The layout is 8 bytes of header length (little endian), a JSON header, then the tensors' bytes, without gaps:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_text

LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "C64": 64, "F16": 16, "BF16": 16, "F32": 32, "F64": 64,
}  # fmt: skip
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Tensor:
    """One entry of a header: the dtype's name and the shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Tensor]:
    """Name -> dtype and shape of every tensor in a safetensors file.

    Raises:
        VrbenchError: the file is missing, is no safetensors file, or is shorter or longer than its header says.
    """
    return {name: tensor for name, (tensor, _) in read_places(path).items()}


def read_places(path: Path) -> dict[str, tuple[Tensor, int]]:
    """As `read_header`, with the byte of the file at which each tensor begins."""
    if not path.is_file():
        raise VrbenchError(f"{path} is missing")
    raw, data_bytes = _raw_header(path)
    start = path.stat().st_size - data_bytes
    places: dict[str, tuple[Tensor, int]] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in raw.items():
        if name == "__metadata__":
            continue
        tensor, span = _entry(path, name, entry)
        places[name] = (tensor, start + span[0])
        spans.append(span)
    _check_spans(path, sorted(spans), data_bytes)
    return places


def _raw_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header and the number of bytes after it."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(LENGTH_BYTES)
        if start == b"version ":
            raise VrbenchError(f"{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
        if len(start) < LENGTH_BYTES:
            raise VrbenchError(f"{path} is no safetensors file: it has {size} bytes")
        length = struct.unpack("<Q", start)[0]
        if length > LONGEST_HEADER:
            raise VrbenchError(f"{path} is no safetensors file: its header would be {length} bytes long")
        if LENGTH_BYTES + length > size:
            raise VrbenchError(f"{path} is truncated: its header has {length} bytes, the file {size}")
        text = stream.read(length)
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or too deep to be read
        raise VrbenchError(f"{path} is no safetensors file: its header is not JSON") from error
    if not isinstance(raw, dict):
        raise VrbenchError(f"{path} is no safetensors file: its header is not a JSON object")
    return raw, size - LENGTH_BYTES - length


def _entry(path: Path, name: str, entry: Any) -> tuple[Tensor, tuple[int, int]]:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
        bits = DTYPE_BITS[dtype]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise VrbenchError(f"{path} is broken: the header's entry for {name!r} cannot be read") from error
    if (end - begin) * 8 != math.prod(shape) * bits or begin < 0 or min(shape, default=0) < 0:
        raise VrbenchError(f"{path} is broken: {name!r} is {dtype} {list(shape)} but has {end - begin} bytes")
    return Tensor(dtype, shape), (begin, end)


def _check_spans(path: Path, spans: list[tuple[int, int]], data_bytes: int) -> None:
    position = 0
    for begin, end in spans:
        if begin != position:
            raise VrbenchError(f"{path} is broken: its tensors overlap or leave a gap at byte {position} of the data")
        position = end
    if position > data_bytes:
        raise VrbenchError(f"{path} is truncated: {position} bytes of weights were written, {data_bytes} are there")
    if position < data_bytes:
        raise VrbenchError(f"{path} is broken: {data_bytes - position} bytes follow its last tensor")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: `model.safetensors`, or the shards that its index names.

    Raises:
        VrbenchError: there is neither, or the index cannot be read.
    """
    single, index = folder / "model.safetensors", folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        shards = sorted(p.name for p in folder.glob("model-*.safetensors"))
        if shards:
            raise VrbenchError(f"{folder} has shards ({shards[0]}, ...) and no {INDEX} that names them; fetch it too")
        others = sorted(p.name for p in folder.glob("*.bin"))
        hint = f"; {', '.join(others)} would have to be converted first: `vrbench convert`" if others else ""
        raise VrbenchError(f"{folder} has no weights: neither model.safetensors nor {INDEX}{hint}")
    return [folder / name for name in sorted(set(_weight_map(index).values()))]


def header_faults(folder: Path) -> list[str]:
    """Every fault of a model folder's weight files: missing shards, broken files, tensors not where the index says."""
    try:
        files = weight_files(folder)
    except VrbenchError as fault:
        return [str(fault)]
    faults: list[str] = []
    headers: dict[str, dict[str, Tensor]] = {}
    for path in files:
        try:
            headers[path.name] = read_header(path)
        except VrbenchError as fault:
            faults.append(str(fault))
    if (folder / "model.safetensors").is_file():
        return faults
    for name, file in _weight_map(folder / INDEX).items():
        if file in headers and name not in headers[file]:
            faults.append(f"{folder / file} lacks {name!r}, which {INDEX} says it has")
    return faults + _twice(folder, headers)


def _twice(folder: Path, headers: dict[str, dict[str, Tensor]]) -> list[str]:
    """Tensors that lie in two shards, so that nobody can tell which one is meant; one sentence for all."""
    holders: dict[str, list[str]] = {}
    for file, tensors in headers.items():
        for name in tensors:
            holders.setdefault(name, []).append(file)
    twice = {name: files for name, files in holders.items() if len(files) > 1}
    if not twice:
        return []
    name, files = next(iter(twice.items()))
    more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
    return [f"{folder} holds {name!r}{more} twice, in {' and '.join(files)}; which one is meant cannot be told"]


def read_headers(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder whose files have no faults."""
    return {name: tensor for path in weight_files(folder) for name, tensor in read_header(path).items()}


def _is_file_name(value: object) -> bool:
    """Whether it names a file beside the index: neither another folder nor what no file can be called."""
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & {"/", "\\", "\0"}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(read_text(index))["weight_map"]
        if not isinstance(found, dict) or not found or not all(_is_file_name(value) for value in found.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VrbenchError(f"{index} cannot be read: it has no weight_map of file names") from error
    return found
