"""A stored tensor: where its bytes lie, which part of the model it is, and whether two are the same (no torch)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vrbench.checkpoints.random_shapes import RECIPE
from vrbench.checkpoints.safetensors_index import Tensor
from vrbench.core.errors import VrbenchError

BLOCK = 1 << 24
"""Bytes of each of two tensors that are compared at a time."""

PROJECTORS = {"multi_modal_projector", "mm_projector", "connector", "merger", "deepstack_merger_list", "image_newline"}
TOWERS = {"vision_tower", "vision_model", "visual"}
PARTS = ("LLM", "projector", "vision tower")


@dataclass(frozen=True)
class Place:
    """One stored tensor.

    Attributes:
        name: as it is stored, with the prefix of the part whose file it is.
        tensor: dtype and shape.
        file: where it lies; for random weights the file that says how they are made.
        begin: byte of the file at which it begins.
    """

    name: str
    tensor: Tensor
    file: Path
    begin: int

    @property
    def part(self) -> str:
        """One of `PARTS`."""
        words = set(self.name.split("."))
        return "projector" if words & PROJECTORS else "vision tower" if words & TOWERS else "LLM"

    def is_at(self, other: Place) -> bool:
        """Whether it is the same piece of the same file."""
        return (self.file, self.begin, self.name) == (other.file, other.begin, other.name)

    @property
    def is_made(self) -> bool:
        """Whether it is made when it is loaded, so that there are no bytes to look at."""
        return self.file.name == RECIPE

    @property
    def parameters(self) -> int:
        """Number of values."""
        return math.prod(self.tensor.shape)


def same(first: Place, second: Place) -> bool:
    """Whether two tensors hold the same values, block by block; the second is rounded to the first's dtype before.

    Raises:
        VrbenchError: one of them is made when it is loaded, and is not the same one.
    """
    if first.is_at(second):
        return True
    if first.is_made or second.is_made:
        raise VrbenchError(f"{first.name!r} is random and not stored, so that it cannot be compared with files")
    if first.tensor.shape != second.tensor.shape:
        return False
    if first.tensor.dtype == second.tensor.dtype:
        return all(np.array_equal(a, b) for a, b in zip(_blocks(first), _blocks(second), strict=True))
    return all(
        np.array_equal(_numbers(a, first.tensor.dtype), _rounded(_numbers(b, second.tensor.dtype), first.tensor.dtype))
        for a, b in zip(_blocks(first), _blocks(second), strict=True)
    )


def is_zero(place: Place) -> bool:
    """Whether every value is zero."""
    return not any(np.any(_numbers(block, place.tensor.dtype)) for block in _blocks(place))


def beginning(place: Place, values: int = 1024) -> bytes:
    """The bytes of the first values: a cheap look at whether two tensors could be the same."""
    return next(_blocks(place, values), np.empty(0, np.uint8)).tobytes()


WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def _blocks(place: Place, values: int = BLOCK // 4) -> Iterator[NDArray[np.uint8]]:
    """The tensor's bytes, some values at a time."""
    width = WIDTH.get(place.tensor.dtype)
    if width is None:
        raise VrbenchError(f"{place.file} stores {place.name!r} as {place.tensor.dtype}, which cannot be compared")
    left = place.parameters
    with place.file.open("rb") as stream:
        stream.seek(place.begin)
        while left > 0:
            count = min(left, values)
            yield np.frombuffer(stream.read(count * width), np.uint8)
            left -= count


def _numbers(block: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """The block's values; bfloat16 as the float32 of the same value."""
    if dtype == "BF16":
        return (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return block.view(NUMPY[dtype])


def _rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values as another dtype would hold them, to nearest with ties to even; bfloat16 as float32."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(NUMPY[dtype])
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
