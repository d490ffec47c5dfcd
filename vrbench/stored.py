"""Where each tensor of a checkpoint lies, through all that it is made of, and whether two are the same (no torch)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vrbench import structure
from vrbench.changes import Change
from vrbench.checkpoint import Checkpoint
from vrbench.errors import VrbenchError
from vrbench.headers import Tensor, read_header, read_places, weight_files
from vrbench.layers import LayerSet
from vrbench.models.random_shapes import RECIPE
from vrbench.structure import canonical

BLOCK = 1 << 24
"""Bytes of each of two tensors that are compared at a time."""

PROJECTORS = {"multi_modal_projector", "mm_projector", "connector", "merger", "deepstack_merger_list", "image_newline"}
TOWERS = {"vision_tower", "vision_model", "visual"}
BUFFERS = ("rotary_emb.inv_freq", "position_ids")
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


@dataclass(frozen=True)
class Adapter:
    """The LoRA adapter of one folder of a checkpoint.

    Attributes:
        of: id of the checkpoint that it belongs to.
        file: its tensors.
        ranks: layer -> module (such as "self_attn.q_proj") -> rank.
        idle: full names of modules whose second matrix is zero, so that nothing changes.
        parameters: number of values.
        depth: decoder layers of the model that it goes on.
    """

    of: str
    file: Path
    ranks: dict[int, dict[str, int]]
    idle: frozenset[str]
    parameters: int
    depth: int


@dataclass
class Stored:
    """All that a checkpoint is made of; layers are numbered as in the loaded model.

    Attributes:
        tensors: canonical name -> where it lies.
        origins: each layer's whole model (its digest) and its number there.
        adapted: canonical weight name -> the adapters that change it, in turn.
        adapters: all adapters, the first one first.
    """

    tensors: dict[str, Place]
    origins: list[tuple[str, int]]
    adapted: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    adapters: list[Adapter] = field(default_factory=list)


def stored(checkpoint: Checkpoint) -> Stored:
    """What a checkpoint from `checkpoint.resolve` is made of; reads headers, and the second matrices of adapters."""
    if checkpoint.base is None:
        places = _random(checkpoint) if checkpoint.has(RECIPE) else _whole(checkpoint.path)
        return Stored(places, [(checkpoint.digest, layer) for layer in range(checkpoint.depth)])
    found = stored(checkpoint.base)
    for change in checkpoint.changes:
        found = _restored(found, change) if change.backbone else _without(found, change.layers)
    for file in sorted(checkpoint.path.glob("*.safetensors")):
        if file.name == structure.ADAPTER:
            _adapt(found, checkpoint)
        else:
            replaced = _in_file(file, _prefix(file, found.tensors))
            found.tensors |= replaced
            found.adapted = {name: files for name, files in found.adapted.items() if name not in replaced}
    return found


def _prefix(file: Path, below: Collection[str]) -> str:
    """What the names in a file of a layered folder lack, told by the names of what it replaces; no model is built."""
    if file.name != structure.PROJECTOR:
        return {structure.TOWER: structure.TOWER_PREFIX}.get(file.name, "")
    names = [canonical(name) for name in read_header(file)]
    for name in below:
        prefix = name.removesuffix(f".{names[0]}") + "."
        if name.endswith(f".{names[0]}") and all(prefix + other in below for other in names):
            return prefix
    return structure.PROJECTOR_PREFIX


def _whole(folder: Path) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for file in weight_files(folder):
        found |= _in_file(file)
    if _is_tied(folder):
        found.pop("lm_head.weight", None)  # it is the embedding, stored once more
    return found


def _in_file(file: Path, prefix: str = "") -> dict[str, Place]:
    places = {prefix + name: Place(prefix + name, tensor, file, at) for name, (tensor, at) in read_places(file).items()}
    return {canonical(name): place for name, place in places.items() if not name.endswith(BUFFERS)}


def _random(checkpoint: Checkpoint) -> dict[str, Place]:
    from vrbench.models.random_weights import expected_shapes

    file = checkpoint.path / RECIPE
    shapes = expected_shapes(checkpoint.path)
    return {name: Place(name, Tensor("random", shape), file, 0) for name, shape in shapes.items()}


def _is_tied(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parts = (config, config.get("text_config") or {})
    return any(part.get("tie_word_embeddings") for part in parts)


def layer_of(name: str) -> int | None:
    """The decoder layer that a canonical name of the LLM belongs to; none for embeddings, norm and head."""
    found = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def in_layer(name: str, layer: int) -> str:
    """The name of the same tensor in another layer."""
    return re.sub(r"(^|\.)layers\.\d+\.", rf"\g<1>layers.{layer}.", name, count=1)


def _without(found: Stored, removed: LayerSet) -> Stored:
    """The rest after some decoder layers went, numbered anew."""
    kept = removed.complement().indices
    now = {old: new for new, old in enumerate(kept)}

    def renamed(names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for name, value in names.items():
            layer = _llm_layer(found, name)
            if layer is None:
                yield name, value
            elif layer in now:
                yield in_layer(name, now[layer]), value

    return Stored(
        dict(renamed(found.tensors)), [found.origins[i] for i in kept], dict(renamed(found.adapted)), found.adapters
    )


def _restored(found: Stored, change: Change) -> Stored:
    """Some decoder layers as the backbone has them, with its adapters and without those below."""
    assert change.backbone is not None
    theirs = stored(change.backbone)
    now = dict(zip(change.layers, change.sources, strict=True))
    lengthened = {_llm_key(name): name for name in found.tensors if _llm_layer(found, name) in now}
    tensors, adapted = dict(found.tensors), {n: f for n, f in found.adapted.items() if layer_of(n) not in now}
    back = {source: layer for layer, source in now.items()}
    for name, place in theirs.tensors.items():
        source = layer_of(name) if place.part == "LLM" else None
        if source in back:
            key = _llm_key(in_layer(name, back[source]))
            tensors[lengthened.get(key, key)] = place
            if name in theirs.adapted:
                adapted[lengthened.get(key, key)] = theirs.adapted[name]
    return Stored(tensors, found.origins, adapted, found.adapters)


def _llm_key(name: str) -> str:
    """A layer's tensor without what stands before its number, which families write differently."""
    return name[name.find("layers.") :]


def _llm_layer(found: Stored, name: str) -> int | None:
    place = found.tensors.get(name)
    return layer_of(name) if place is None or place.part == "LLM" else None


def _adapt(found: Stored, checkpoint: Checkpoint) -> None:
    """Put a folder's adapter on what is below it; a tensor that is no LoRA matrix replaces the one of its name."""
    file = checkpoint.path / structure.ADAPTER
    places = _in_file(file)
    ranks: dict[int, dict[str, int]] = {}
    idle, scaled = set(), set()  # modules without effect; modules with DoRA's lengths, which may have one of their own
    for name, place in places.items():
        module, matrix, end = name.partition(".lora_")
        layer = layer_of(f"{module}.")
        if not matrix:
            found.tensors[re.sub(r"\.modules_to_save(\.default)?\.", ".", name)] = place
        elif layer is not None and end.startswith("A"):
            ranks.setdefault(layer, {})[module.partition(f"layers.{layer}.")[2]] = place.tensor.shape[0]
        elif end.startswith("B") and is_zero(place):
            idle.add(module)
        elif end.startswith("magnitude"):
            scaled.add(module)
    idle -= scaled
    weights = {name[name.find("layers.") :]: name for name in found.tensors if _llm_layer(found, name) is not None}
    for module in (f"layers.{layer}.{name}" for layer, modules in ranks.items() for name in modules):
        if module not in idle:
            weight = weights.get(f"{module}.weight", f"{module}.weight")
            found.adapted[weight] = (*found.adapted.get(weight, ()), file)
    parameters = sum(place.parameters for place in places.values())
    added = Adapter(checkpoint.id, file, ranks, frozenset(idle), parameters, checkpoint.depth)
    found.adapters = [*found.adapters, added]


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


def parameters(found: Stored) -> dict[str, int]:
    """Part -> number of values, and "total"."""
    counts = dict.fromkeys(PARTS, 0)
    for place in found.tensors.values():
        counts[place.part] += place.parameters
    return {**counts, "total": sum(counts.values())}


def dtypes(found: Stored) -> dict[str, int]:
    """How weights are stored -> number of values, the most common first."""
    counts: dict[str, int] = {}
    for place in found.tensors.values():
        counts[place.tensor.dtype] = counts.get(place.tensor.dtype, 0) + place.parameters
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
