"""Where each tensor of a checkpoint is stored, through all that it is made of, and comparison of tensors (no torch)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vrbench.checkpoints import llava_shapes
from vrbench.checkpoints.checkpoint import ADAPTER, OVERLAY_FILES, PROJECTOR, TOWER, Checkpoint, LayerEdit
from vrbench.checkpoints.families import FAMILIES, TOWER_MODULES, projector_prefix
from vrbench.checkpoints.lora_adapter import saved_name
from vrbench.checkpoints.model_config import may_tie_head
from vrbench.checkpoints.parameter_names import (
    HEAD,
    IGNORED_BUFFERS,
    PROJECTOR_PREFIX,
    TOWER_PREFIX,
    canonical_name,
    format_layers,
    rename_layer,
    without_layers,
)
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.checkpoints.safetensors_index import TensorInfo, read_header, weight_files
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Record

BLOCK = 1 << 22
"""Values of each of two tensors that are compared at a time."""

PROJECTORS = {"multi_modal_projector", "mm_projector", "connector", "merger", "deepstack_merger_list", "image_newline"}
PARTS = ("LLM", "projector", "vision tower")
NUMPY: dict[str, type] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
"""Stored dtype -> what numpy reads it as; bfloat16 as its bits."""


@dataclass(frozen=True)
class TensorLocation:
    """One stored tensor, and what is merged into it.

    Attributes:
        name: as it is stored, with the prefix of the part whose file it is.
        tensor: dtype, shape, and the byte of the file at which it begins.
        file: where it is stored; for random weights the file that states how they are made.
        adapters: the adapter files that change it when it is loaded, in order.
    """

    name: str
    tensor: TensorInfo
    file: Path
    adapters: tuple[Path, ...] = ()

    @property
    def part(self) -> str:
        """One of `PARTS`."""
        words = set(self.name.split("."))
        return "projector" if words & PROJECTORS else "vision tower" if words & {*TOWER_MODULES} else "LLM"

    def is_at(self, other: TensorLocation) -> bool:
        """Return whether it is the same part of the same file."""
        return (self.file, self.tensor.begin, self.name) == (other.file, other.tensor.begin, other.name)

    @property
    def is_random(self) -> bool:
        """Whether it is made when it is loaded, so that there are no bytes to compare."""
        return self.file.name == RANDOM_WEIGHTS

    @property
    def parameters(self) -> int:
        """Number of values."""
        return math.prod(self.tensor.shape)

    def is_zero(self) -> bool:
        """Return whether every value is zero."""
        return not any(np.any(_to_numbers(block, self.tensor.dtype)) for block in self.blocks())

    def first_bytes(self, values: int = 1024) -> bytes:
        """Return the bytes of the first values: a cheap test of whether two tensors could be equal."""
        return next(self.blocks(values), np.empty(0, np.uint8)).tobytes()

    def blocks(self, values: int = BLOCK) -> Iterator[NDArray[Any]]:
        """Yield the values in blocks, bfloat16 as 16-bit integers.

        Raises:
            VrbenchError: the dtype is none of `NUMPY`.
        """
        kind = NUMPY.get(self.tensor.dtype)
        if kind is None:
            raise VrbenchError(f"{self.file} stores {self.name!r} as {self.tensor.dtype}, which cannot be compared")
        for first in range(0, self.parameters, values):
            offset = self.tensor.begin + first * np.dtype(kind).itemsize
            yield np.fromfile(self.file, kind, min(values, self.parameters - first), offset=offset)


def same_values(first: TensorLocation, second: TensorLocation) -> bool:
    """Return whether two tensors hold the same values; the second is rounded to the first's dtype before.

    Raises:
        VrbenchError: one of them is made when it is loaded, and is not the same one.
    """
    if first.is_at(second):
        return True
    if first.is_random or second.is_random:
        raise VrbenchError(f"{first.name!r} is random and not stored, so that it cannot be compared with files")
    if first.tensor.shape != second.tensor.shape:
        return False
    dtype, other = first.tensor.dtype, second.tensor.dtype
    pairs = zip(first.blocks(), second.blocks(), strict=True)
    if dtype == other:
        return all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in pairs)
    return all(np.array_equal(_to_numbers(a, dtype), _round_to(_to_numbers(b, other), dtype)) for a, b in pairs)


def _to_numbers(block: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the block's values; bfloat16 as the float32 of the same value."""
    return (block.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else block


def _round_to(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Round values to another dtype, to nearest with ties to even; bfloat16 as float32."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(NUMPY[dtype])
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


class AdapterRanks(Record):
    """The layers of one adapter that have one rank."""

    of: str = Field(description="Checkpoint that the adapter belongs to.")
    rank: int = Field(description="Rank of the LoRA matrices.")
    layers: str = Field(description="Layers, as `LayerSet` text, counted in the model that the adapter was applied to.")
    modules: tuple[str, ...] = Field(description="Modules of a layer, such as 'self_attn.q_proj'.")


@dataclass
class TensorIndex:
    """All stored tensors of a checkpoint; layers are numbered as in the loaded model.

    Attributes:
        tensors: canonical name -> where it is stored.
        origins: for each layer, the digest of the complete model that it is from, and its index there.
        ranks: of all adapters, the first one first.
        adapter_parameters: number of values of all adapters.
    """

    tensors: dict[str, TensorLocation]
    origins: list[tuple[str, int]]
    ranks: list[AdapterRanks] = field(default_factory=list)
    adapter_parameters: int = 0

    def llm_layer(self, name: str) -> int | None:
        """Return the decoder layer of a tensor; None for embeddings, norm, head, and other parts than the LLM."""
        location = self.tensors.get(name)
        found = re.search(r"(?:^|\.)layers\.(\d+)\.", name) if location is None or location.part == "LLM" else None
        return int(found[1]) if found else None

    def parameters(self) -> dict[str, int]:
        """Return part -> number of values, and "total"."""
        counts = dict.fromkeys(PARTS, 0)
        for location in self.tensors.values():
            counts[location.part] += location.parameters
        return {**counts, "total": sum(counts.values())}

    def dtypes(self) -> dict[str, int]:
        """Return stored dtype -> number of values, the most common first."""
        counts = Counter[str]()
        for location in self.tensors.values():
            counts[location.tensor.dtype] += location.parameters
        return dict(counts.most_common())


def index_tensors(checkpoint: Checkpoint) -> TensorIndex:
    """Index a resolved checkpoint; reads headers, and the second matrices of adapters."""
    if checkpoint.base is None:
        tensors = (
            _random_tensors(checkpoint.path) if checkpoint.has(RANDOM_WEIGHTS) else _stored_tensors(checkpoint.path)
        )
        return TensorIndex(tensors, [(checkpoint.digest, layer) for layer in range(checkpoint.depth)])
    index = index_tensors(checkpoint.base)
    for edit in checkpoint.edits:
        if edit.backbone:
            _restore_layers(index, index_tensors(edit.backbone), edit)
        else:
            index.tensors = without_layers(index.tensors, edit.layers, index.llm_layer)
            index.origins = [index.origins[i] for i in edit.layers.complement()]
    family = checkpoint.base.family  # that of a language model below a tower has no projector
    prefix = projector_prefix(family) if family in FAMILIES else PROJECTOR_PREFIX
    prefixes = {TOWER: TOWER_PREFIX, PROJECTOR: prefix}
    for file in (checkpoint.path / name for name in OVERLAY_FILES if checkpoint.has(name)):
        if file.name == ADAPTER:
            _add_adapter(index, checkpoint)
        else:
            index.tensors |= _tensors_in(file, prefixes.get(file.name, ""))
    return index


def _stored_tensors(folder: Path) -> dict[str, TensorLocation]:
    found: dict[str, TensorLocation] = {}
    for file in weight_files(folder):
        found |= _tensors_in(file)
    head, embedding = found.get(HEAD), found.get("embed_tokens.weight")
    if head and embedding and may_tie_head(folder) and same_values(head, embedding):
        del found[HEAD]  # the embedding, stored once more; a different one would be loaded as it is
    return found


def _tensors_in(file: Path, prefix: str = "") -> dict[str, TensorLocation]:
    found = (TensorLocation(prefix + name, tensor, file) for name, tensor in read_header(file).items())
    return {canonical_name(one.name): one for one in found if not one.name.endswith(IGNORED_BUFFERS)}


def _random_tensors(folder: Path) -> dict[str, TensorLocation]:
    shapes = llava_shapes.folder_shapes(folder).items()
    return {name: TensorLocation(name, TensorInfo("random", shape), folder / RANDOM_WEIGHTS) for name, shape in shapes}


def _restore_layers(index: TensorIndex, backbone: TensorIndex, edit: LayerEdit) -> None:
    """Replace some decoder layers by those of the backbone, with its adapters and without those below."""
    to_layer = dict(zip(edit.sources, edit.layers, strict=True))
    full_names = {_from_layers(name): name for name in index.tensors if index.llm_layer(name) in edit.layers}
    for name, location in backbone.tensors.items():
        source = backbone.llm_layer(name)
        if source in to_layer:
            key = _from_layers(rename_layer(name, to_layer[source]))
            index.tensors[full_names.get(key, key)] = location


def _from_layers(name: str) -> str:
    """Return a layer's tensor name from "layers." on; the prefix differs between families."""
    return name[name.find("layers.") :]


def _add_adapter(index: TensorIndex, checkpoint: Checkpoint) -> None:
    """Add a folder's adapter to the index; a tensor that is not a LoRA matrix replaces the one of its name."""
    file = checkpoint.path / ADAPTER
    tensors = _tensors_in(file)
    ranks: dict[int, dict[str, int]] = {}
    zero, scaled = set(), set()  # modules whose second matrix is zero; modules with a magnitude vector (DoRA)
    for name, location in tensors.items():
        module, matrix, end = name.partition(".lora_")
        layer = index.llm_layer(f"{module}.")
        if not matrix:
            index.tensors[saved_name(name)] = location
        elif layer is not None and end.startswith("A"):
            ranks.setdefault(layer, {})[module.partition(f"layers.{layer}.")[2]] = location.tensor.shape[0]
        elif end.startswith("B") and location.is_zero():
            zero.add(module)
        elif end.startswith("magnitude"):
            scaled.add(module)
    weights = {_from_layers(name): name for name in index.tensors if index.llm_layer(name) is not None}
    for module in (f"layers.{layer}.{name}" for layer, modules in ranks.items() for name in modules):
        if module not in zero - scaled:  # else the adapter changes nothing
            weight = index.tensors[weights[f"{module}.weight"]]
            index.tensors[weights[f"{module}.weight"]] = replace(weight, adapters=(*weight.adapters, file))
    index.adapter_parameters += sum(location.parameters for location in tensors.values())
    index.ranks += _group_ranks(ranks, checkpoint)


def _group_ranks(ranks: dict[int, dict[str, int]], checkpoint: Checkpoint) -> Iterator[AdapterRanks]:
    """Yield the ranks of an adapter, layer -> module -> rank, with layers that have the same ones together."""
    layers: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for layer, modules in sorted(ranks.items()):
        for rank in sorted(set(modules.values())):
            named = tuple(sorted(module for module, r in modules.items() if r == rank))
            layers.setdefault((rank, named), []).append(layer)
    for (rank, named), numbers in layers.items():
        text = format_layers(numbers, checkpoint.depth)
        yield AdapterRanks(of=checkpoint.id, rank=rank, layers=text, modules=named)
