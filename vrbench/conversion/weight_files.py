"""Weight files as they are published, safetensors or pickled: what they hold, and single tensors of them.

A `.bin` file is unpickled by torch's restricted reader (`weights_only=True`), which makes tensors and nothing else, and
is mapped into memory, so that a tensor's bytes are read only when they are used.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.safetensors_index import Tensor, read_header
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_text

if TYPE_CHECKING:
    import torch

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Dtypes that weights may have: safetensors' name -> torch's."""

WHOLE = (("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json"))
"""The files of a whole model in each format: in one file, or the index of its shards."""


def model_files(folder: Path) -> list[Path]:
    """The weight files of a folder with a whole model, all there.

    Raises:
        VrbenchError: none, both formats, an index that cannot be read, or a shard that is missing.
    """
    found = [(single, index) for single, index in WHOLE if (folder / single).is_file() or (folder / index).is_file()]
    if not found:
        raise VrbenchError(f"{folder} has no weights: none of {', '.join(name for names in WHOLE for name in names)}")
    if len(found) > 1:
        raise VrbenchError(f"{folder} holds its weights twice, as safetensors and as .bin; remove one of them")
    single, index = found[0]
    names = [single] if (folder / single).is_file() else _shards(folder / index)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise VrbenchError(f"{folder} lacks {', '.join(missing)}, which {index} names")
    return [folder / name for name in names]


def has_model(folder: Path) -> bool:
    """Whether a folder holds a whole model's weights, or is meant to."""
    return any((folder / name).is_file() for names in WHOLE for name in names)


def _shards(index: Path) -> list[str]:
    try:
        names = set(json.loads(read_text(index))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VrbenchError(f"{index} cannot be read: it has no weight_map of file names") from error
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise VrbenchError(f"{index} cannot be read: it has no weight_map of file names")
    return sorted(names)


def read_tensor_info(file: Path) -> dict[str, Tensor]:
    """Name -> dtype and shape of all that a weight file holds; no weight is read.

    Raises:
        VrbenchError: it is missing, broken, or holds what is no floating-point tensor.
    """
    if not file.is_file():
        raise VrbenchError(f"{file} is missing")
    if file.suffix == ".safetensors":
        found = read_header(file)
    else:
        names = {torch_name: name for name, torch_name in DTYPES.items()}
        found = {}
        for key, value in _unpickled(file).items():
            dtype = str(value.dtype).removeprefix("torch.")
            found[key] = Tensor(names.get(dtype, dtype), tuple(value.shape))
    return found


def validate_dtypes(file: Path, tensors: dict[str, Tensor]) -> list[str]:
    """A sentence that names all tensors which are no plain weights (quantised, float8, integers); none if there are."""
    odd = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in DTYPES]
    return [f"{file} holds other than {', '.join(DTYPES)}: {', '.join(odd)}"] if odd else []


@contextmanager
def open_tensors(file: Path) -> Iterator[Callable[[str], torch.Tensor]]:
    """A function that gives a tensor of the file by name; what it gave must not be used after the end."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as reader:
            yield reader.get_tensor
    else:
        yield _unpickled(file).__getitem__


def _unpickled(file: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise VrbenchError(f"{file} is refused: it holds more than tensors, and to read it could run code") from error
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        os_errors.reraise_os_error(error)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VrbenchError(f"{file} cannot be read as weights saved by PyTorch 1.6 or later: {reason}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise VrbenchError(f"{file} is no table of tensors by name")
    return {str(name): value for name, value in found.items()}
