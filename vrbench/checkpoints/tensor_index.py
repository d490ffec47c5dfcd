"""Where each tensor of a checkpoint lies, through all that it is made of (no torch)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vrbench.checkpoints import parameter_names
from vrbench.checkpoints.layer_edits import Change
from vrbench.checkpoints.overlay_validation import PIECES
from vrbench.checkpoints.parameter_names import canonical
from vrbench.checkpoints.random_shapes import RECIPE
from vrbench.checkpoints.resolve import Checkpoint
from vrbench.checkpoints.safetensors_index import Tensor, read_header, read_places, weight_files
from vrbench.checkpoints.tensor_location import PARTS, Place, is_zero, same
from vrbench.core.io import read_text
from vrbench.core.layers import LayerSet

BUFFERS = ("rotary_emb.inv_freq", "position_ids")


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
    for file in (checkpoint.path / piece for piece in PIECES if checkpoint.has(piece)):
        if file.name == parameter_names.ADAPTER:
            _adapt(found, checkpoint)
        else:
            replaced = _in_file(file, _prefix(file, found.tensors))
            found.tensors |= replaced
            found.adapted = {name: files for name, files in found.adapted.items() if name not in replaced}
    return found


def _prefix(file: Path, below: Collection[str]) -> str:
    """What the names in a file of a layered folder lack, told by the names of what it replaces; no model is built."""
    if file.name != parameter_names.PROJECTOR:
        return {parameter_names.TOWER: parameter_names.TOWER_PREFIX}.get(file.name, "")
    names = [canonical(name) for name in read_header(file)]
    for name in below if names else ():
        prefix = name.removesuffix(f".{names[0]}") + "."
        if name.endswith(f".{names[0]}") and all(prefix + other in below for other in names):
            return prefix
    return parameter_names.PROJECTOR_PREFIX


def _whole(folder: Path) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for file in weight_files(folder):
        found |= _in_file(file)
    head, embedding = found.get("lm_head.weight"), found.get("embed_tokens.weight")
    if head and embedding and _is_tied(folder) and same(head, embedding):
        del found["lm_head.weight"]  # it is the embedding, stored once more; another one would be loaded as it is
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
    config = json.loads(read_text(folder / "config.json"))
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
    file = checkpoint.path / parameter_names.ADAPTER
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
