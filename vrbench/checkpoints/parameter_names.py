"""Whether the pieces of a layered checkpoint fit the model below them, judged from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from vrbench.checkpoints.safetensors_index import Tensor, read_header
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet

Shape = tuple[int, ...]
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
DELTA = "delta.safetensors"
PROJECTOR = "projector.safetensors"
PROJECTOR_PREFIX = "multi_modal_projector."
TOWER = "tower.safetensors"
TOWER_PREFIX = "vision_tower."

# Wrappers that come and go between model classes, library versions and PEFT; without them names can be compared.
WRAPPERS = {"base_model", "model", "language_model", "text_model"}
TOWER_WRAPPER = "vision_model"  # inside of a vision tower; elsewhere it is the tower, whose layers have numbers
# A buffer that older files carry in each layer; it decides no answer.
WITHOUT_EFFECT = ("rotary_emb.inv_freq",)


def canonical(name: str) -> str:
    """A parameter's name without wrappers, such as 'layers.3.mlp.up_proj.weight' or 'vision_tower.encoder...'."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(p for i, p in enumerate(parts) if p != TOWER_WRAPPER or "vision_tower" not in parts[:i])


def shapes_of(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Shape]:
    """Canonical name -> shape, of tensors whose names lack a prefix such as "vision_tower."."""
    return {canonical(prefix + name): tensor.shape for name, tensor in tensors.items()}


def twin_faults(where: Path | str, names: Iterable[str], same: Callable[[str], str] = canonical) -> list[str]:
    """A sentence for tensors that are stored under two names for one parameter, so that one of them is lost.

    Args:
        where: what the sentence begins with.
        names: as they are stored.
        same: gives what two names for one parameter have in common.
    """
    stored: dict[str, list[str]] = {}
    for name in names:
        stored.setdefault(same(name), []).append(name)
    twins = sorted(name for name, of in stored.items() if len(of) > 1)
    if not twins:
        return []
    both = " and ".join(repr(name) for name in stored[twins[0]])
    more = f" (and so {len(twins) - 1} more)" if len(twins) > 1 else ""
    return [f"{where} holds one weight under two names, {both}{more}; which one is meant cannot be told"]


def layer_of(name: str) -> int | None:
    """The decoder layer that a canonical name belongs to; none outside the decoder (towers, projector, embeddings)."""
    found = re.match(r"layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def layer_faults(where: Path | str, names: Iterable[str], depth: int) -> list[str]:
    """Decoder layers that a config counts and the weights lack, or that lie there beyond its count.

    Args:
        where: the folder, with its config.json.
        names: of the weights, canonical.
        depth: num_hidden_layers.
    """
    there = {n for n in map(layer_of, names) if n is not None}
    if not there:  # named otherwise; whoever knows the family says what is missing
        return []
    missing, beyond = set(range(depth)) - there, {n for n in there if n >= depth}
    said = f"{where}/config.json has num_hidden_layers {depth}, and the weights"
    has_gap = len(there) <= max(there)
    mend = f"number them 0 to {len(there) - 1}, without a gap" if has_gap else f"set it to {len(there)}"
    faults = []
    if missing:
        which = layer_text(missing, depth)
        faults.append(f"{said} lack decoder layers {which}; fetch them again, or, of a model with fewer layers, {mend}")
    if beyond:
        which = f"{min(beyond)} to {max(beyond)}" if len(beyond) > 1 else str(*beyond)
        faults.append(f"{said} have decoder layers beyond it: {which}; {mend}, or take those out that are not meant")
    return faults


def without_layers(shapes: Mapping[str, Shape], removed: Iterable[int]) -> dict[str, Shape]:
    """The shapes of the model after some decoder layers were removed and the rest renumbered."""
    gone = set(removed)
    kept: dict[str, Shape] = {}
    for name, shape in shapes.items():
        layer = layer_of(name)
        if layer is None:
            kept[name] = shape
        elif layer not in gone:
            now = layer - sum(g < layer for g in gone)
            kept[re.sub(r"^layers\.\d+", f"layers.{now}", name)] = shape
    return kept


def difference_faults(
    where: Path | str, found: Mapping[str, Shape], expected: Mapping[str, Shape], every: bool = False
) -> list[str]:
    """What is missing, foreign, or of another shape in `found`.

    Args:
        where: what the sentences begin with.
        found: canonical name -> shape.
        expected: the same of the model that it should be.
        every: name all tensors; else one sentence for each kind of fault, with one name and the number of others.
    """
    missing = sorted(set(expected) - set(found))
    foreign = sorted(set(found) - set(expected))
    other = sorted(n for n in set(found) & set(expected) if found[n] != expected[n])

    def each(names: list[str]) -> list[list[str]]:
        return [[name] for name in names] if every else [names] if names else []

    return [
        *(f"{where} lacks {first_of(names)} of the model that it should be" for names in each(missing)),
        *(f"{where} has {first_of(names)}, which the model that it should be has not" for names in each(foreign)),
        *(
            f"{where} has another shape for {first_of(names)}: {list(found[names[0]])}, where the model has "
            f"{list(expected[names[0]])}"
            for names in each(other)
        ),
    ]


def part_faults(path: Path, shapes: Mapping[str, Shape], prefix: str) -> list[str]:
    """Why a file cannot replace the part of a model of these shapes whose names start with the prefix; empty if it can.

    Args:
        path: safetensors file of one part, such as the projector, under the part's own parameter names.
        shapes: canonical name -> shape of the whole model.
        prefix: such as "multi_modal_projector.".
    """
    try:
        found = shapes_of(read_header(path), prefix)
    except VrbenchError as fault:
        return [str(fault)]
    expected = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
    return difference_faults(path, found, expected)


def layer_text(layers: Iterable[int], depth: int) -> str:
    """Layers as a reader knows them: '0-3,8', 'all' or 'none'."""
    return str(LayerSet(tuple(layers), depth, allow_empty=True))


def first_of(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"
