"""Headers of safetensors files and the index of shards, read and checked without loading a weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vrbench.core.errors import VrbenchError, collect_errors
from vrbench.core.io import require_json

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header (little endian); the tensors follow without gaps."""

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "C64": 64, "F16": 16, "BF16": 16, "F32": 32, "F64": 64,
}  # fmt: skip
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: the dtype's name, the shape, and the byte of the file at which it begins."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = field(default=0, compare=False)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return name -> dtype, shape and place of every tensor in a safetensors file.

    Raises:
        VrbenchError: the file is missing, is not a safetensors file, or is shorter or longer than its header says.
    """
    if not path.is_file():
        raise VrbenchError(f"{path} is missing")
    with path.open("rb") as stream:
        start = stream.read(LENGTH_BYTES)
    if start == b"version ":
        raise VrbenchError(f"{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    found: dict[str, TensorInfo] = {}
    try:
        with safe_open(path, framework="np") as file:
            begin = LENGTH_BYTES + int.from_bytes(start, "little")
            for name in file.offset_keys():
                part = file.get_slice(name)
                found[name] = TensorInfo(part.get_dtype(), tuple(part.get_shape()), begin)
                begin += math.prod(found[name].shape) * DTYPE_BITS[found[name].dtype] // 8
    except SafetensorError as error:
        raise VrbenchError(
            f"{path} is truncated or no valid safetensors file ({error}); download or save it again"
        ) from error
    except KeyError as error:
        raise VrbenchError(f"{path} has tensors of the unknown dtype {error}") from error
    return found


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder: `model.safetensors`, or the shards that its index names.

    Raises:
        VrbenchError: there is neither, or the index cannot be read.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        return [single]
    if index.is_file():
        return [folder / name for name in sorted(set(read_weight_map(index).values()))]
    shards = sorted(p.name for p in folder.glob("model-*.safetensors"))
    if shards:
        raise VrbenchError(f"{folder} has shards ({shards[0]}, ...) and no {INDEX} that names them; download it too")
    others = sorted(p.name for p in folder.glob("*.bin"))
    hint = f"; {', '.join(others)} would have to be converted first: `vrbench convert`" if others else ""
    raise VrbenchError(f"{folder} has no weights: neither {WEIGHTS} nor {INDEX}{hint}")


def validate_weight_files(folder: Path) -> list[str]:
    """Return every error of a model folder's weight files: missing shards, broken files, misplaced tensors."""
    errors: list[str] = []
    headers: dict[str, dict[str, TensorInfo]] = {}
    with collect_errors(errors):
        for path in weight_files(folder):
            with collect_errors(errors):
                headers[path.name] = read_header(path)
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file() or (errors and not headers):
        return errors
    for name, file in read_weight_map(folder / INDEX).items():
        if file in headers and name not in headers[file]:
            errors.append(f"{folder / file} lacks {name!r}, which {INDEX} says it has")
    holders: dict[str, list[str]] = {}
    for file, tensors in headers.items():
        for name in tensors:
            holders.setdefault(name, []).append(file)
    twice = {name: files for name, files in holders.items() if len(files) > 1}
    for name, files in list(twice.items())[:1]:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        errors.append(f"{folder} holds {name!r}{more} twice, in {' and '.join(files)}; which one is meant is unknown")
    return errors


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Return all tensors of a model folder whose files have no errors."""
    return {name: tensor for path in weight_files(folder) for name, tensor in read_header(path).items()}


def read_weight_map(index: Path) -> dict[str, str]:
    """Return tensor -> file of an index of shards.

    Raises:
        VrbenchError: it is not JSON, or has no such table.
    """
    found = require_json(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(map(_is_plain_file_name, found.values())):
        raise VrbenchError(f"{index} cannot be read: it has no weight_map of file names")
    return found


def _is_plain_file_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & {"/", "\\", "\0"}
