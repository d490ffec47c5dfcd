"""Checkpoint: which weights are meant, what they were made from, and whether they are whole (no torch).

Nothing here loads a weight: faults are told from names, headers, digests and `vrbench.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench import folder_faults, sources, structure
from vrbench.cache import file_digests
from vrbench.errors import VrbenchError, raise_all
from vrbench.headers import INDEX, header_faults, read_header, read_headers, weight_files
from vrbench.layers import LayerSet
from vrbench.lineage import MARKER, follow_steps, read_lineage
from vrbench.models.families import FAMILIES
from vrbench.models.random_shapes import RECIPE
from vrbench.records import Base, CheckpointRef, Lineage, digest_of

PIECES = (structure.ADAPTER, structure.PROJECTOR, structure.TOWER)
# Beside the weights, what decides a model's answers.
SETTINGS = (
    "config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """Weights that were found whole, and how they were made.

    Attributes:
        id: what the user asked for, or a folder's name.
        path: the folder.
        revision: the hub's revision, if it came from there.
        digest: sha256 over all that decides its answers: weights, settings, tokenizer, base, removed layers.
        family: model family, a key of `vrbench.models.families.FAMILIES`.
        depth: decoder layers that the loaded model has.
        lineage: its own `vrbench.json` first, then those of its bases.
        base: what has to be loaded first; none for a folder that holds a whole model.
    """

    id: str
    path: Path
    revision: str
    digest: str
    family: str
    depth: int
    lineage: tuple[Lineage, ...] = ()
    base: Checkpoint | None = None

    def ref(self) -> CheckpointRef:
        """What a run's record says of it."""
        return CheckpointRef(
            id=self.id, revision=self.revision, digest=self.digest, family=self.family, depth=self.depth,
            lineage=self.lineage,
        )  # fmt: skip

    @property
    def root(self) -> Checkpoint:
        """The checkpoint at the bottom, which is loaded first."""
        return self.base.root if self.base else self

    @property
    def removed(self) -> tuple[LayerSet, ...]:
        """The layers to remove from the base, step by step; each set counts in the depth left by the one before."""
        steps = self.lineage[0].steps if self.base and self.lineage else ()
        return tuple(LayerSet.parse(s.layers, s.depth) for s in steps if s.kind == "pruned")

    def has(self, piece: str) -> bool:
        """Whether the folder holds a piece such as "projector.safetensors"."""
        return (self.path / piece).is_file()


def resolve(name: str, *, offline: bool = False, near: Path | None = None, fitted: bool = True) -> Checkpoint:
    """The checkpoint of a name, with everything checked that can be checked before weights are loaded.

    Args:
        name: "pocket/full", "random/llava-1.5-7b", a folder, or a hub id.
        offline: never ask a hub.
        near: a folder that relative paths are tried against first.
        fitted: also whether the family is known and the weights are those of the model that config.json describes,
            which imports torch; without it a language model alone is a checkpoint too.

    Raises:
        VrbenchError: every fault that was found, at once.
    """
    if fitted:
        checkpoint, found = _inspect_whole_model(name, offline, near)
    else:
        checkpoint, found = _inspect(name, offline=offline, near=near, fitted=False)
    raise_all(found)
    assert checkpoint is not None  # or there would have been a fault
    return checkpoint


def faults(name: str, *, offline: bool = False) -> list[str]:
    """Why `resolve(name)` would raise, one sentence each; empty when it would not."""
    return _inspect_whole_model(name, offline)[1]


def _inspect_whole_model(name: str, offline: bool, near: Path | None = None) -> tuple[Checkpoint | None, list[str]]:
    checkpoint, found = _inspect(name, offline=offline, near=near)
    if checkpoint and checkpoint.family not in FAMILIES:
        found.append(f"{name} is of family {checkpoint.family!r}; those that see are {', '.join(FAMILIES)}")
    return checkpoint, found


def _inspect(
    name: str, *, offline: bool, near: Path | None = None, above: tuple[Path, ...] = (), fitted: bool = True
) -> tuple[Checkpoint | None, list[str]]:
    try:
        source = sources.find(name, near=near, offline=offline)
        if source.folder in above:
            raise VrbenchError(f"{source.folder} is made, step by step, from itself; mend its {MARKER}")
        if (source.folder / RECIPE).is_file():
            return _random(source), []
        lineage = read_lineage(source.folder)
        if _is_whole(source.folder):
            return _whole(source, lineage, fitted)
        return _layered(source, lineage or _plain_adapter(source), offline, (*above, source.folder), fitted)
    except VrbenchError as fault:
        return None, [str(fault)]


def _is_whole(folder: Path) -> bool:
    """Whether the folder holds all of a model's weights, or is meant to."""
    if (folder / "model.safetensors").is_file() or (folder / INDEX).is_file():
        return True
    layered = (folder / MARKER).is_file() or (folder / structure.ADAPTER_CONFIG).is_file()
    return (folder / "config.json").is_file() and not layered


def _plain_adapter(source: sources.Source) -> Lineage:
    """The lineage of a PEFT folder that vrbench did not write: its base by name, with no digest to hold it to."""
    if not (source.folder / structure.ADAPTER_CONFIG).is_file():
        pieces = [p for p in PIECES if (source.folder / p).is_file()]
        if pieces:
            raise VrbenchError(f"{source.folder} is half made: it has {', '.join(pieces)} but no {MARKER}")
        raise VrbenchError(f"{source.folder} is no checkpoint: it has neither config.json, {MARKER} nor an adapter")
    base = structure.read_adapter_config(source.folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise VrbenchError(f"{source.folder / structure.ADAPTER_CONFIG} names no base_model_name_or_path")
    return Lineage(id=source.id, family="", depth=0, base=Base(id=base, digest=""))


def _whole(source: sources.Source, lineage: Lineage | None, fitted: bool) -> tuple[Checkpoint | None, list[str]]:
    folder = source.folder
    found = folder_faults.faults(folder) + header_faults(folder)
    family, depth = _read_config(folder)
    if not found:
        found += _digest_faults(folder, lineage, [p.name for p in weight_files(folder)])
    if not found and fitted and source.id not in sources.BACKBONES:
        found += _foreign_faults(folder, family)
    if lineage and lineage.depth != depth:
        found.append(f"{folder / MARKER} says depth {lineage.depth}, config.json {depth}")
    if found:
        return None, found
    digest = source.digest or _digest(folder, [p.name for p in weight_files(folder)])
    chain = (lineage,) if lineage else ()
    return Checkpoint(source.id, folder, source.revision, digest, family, depth, chain), []


def _random(source: sources.Source) -> Checkpoint:
    """A folder with a recipe instead of weights, which are made when it is loaded."""
    family, depth = _read_config(source.folder)
    return Checkpoint(source.id, source.folder, source.revision, _digest(source.folder, [RECIPE]), family, depth)


def _read_config(folder: Path) -> tuple[str, int]:
    """The family (model_type) and the depth that config.json states."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        depth = config.get("text_config", config).get("num_hidden_layers")
        family = config["model_type"]
    except FileNotFoundError as error:
        raise VrbenchError(f"{path} is missing") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise VrbenchError(f"{path} cannot be read: it is not JSON with a model_type") from error
    return str(family), int(depth or 0)


def _foreign_faults(folder: Path, family: str) -> list[str]:
    """Whether the family is known, and the weights are those of the model that config.json describes."""
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        return [f"{folder / 'config.json'} is of model_type {family!r}; the families known are {known}"]
    return FAMILIES[family].faults(folder)


def _layered(
    source: sources.Source, own: Lineage, offline: bool, above: tuple[Path, ...], fitted: bool
) -> tuple[Checkpoint | None, list[str]]:
    """A folder that changes another checkpoint: adapter, projector, tower, removed layers."""
    folder = source.folder
    if own.base is None:
        raise VrbenchError(f"{folder / MARKER} names no base, and the folder has no whole model")
    base, found = _inspect(own.base.id, offline=offline, near=folder, above=above, fitted=fitted)
    pieces = [p for p in PIECES if (folder / p).is_file()]
    if base and own.base.digest and base.digest != own.base.digest:
        made, here = own.base.digest[:12], base.digest[:12]
        found.append(f"{source.id} was made on another {own.base.id}: its digest was {made}, the one here has {here}")
    if (folder / MARKER).is_file():
        found += _digest_faults(folder, own, pieces)
    if base is None:
        return None, found
    removed, depth, step_faults = follow_steps(own, base.depth)
    found += step_faults
    if not found:
        found += _piece_faults(folder, base, removed, depth) if fitted or _is_light(folder, base) else []
    if found:
        return None, found
    family = own.family or base.family
    digest = _digest(folder, pieces, {"base": base.digest, "removed": [str(layers) for layers in removed]})
    chain = (own.model_copy(update={"family": family, "depth": depth}), *base.lineage)
    return Checkpoint(source.id, folder, source.revision, digest, family, depth, chain, base), []


def _is_light(folder: Path, base: Checkpoint) -> bool:
    """Whether the pieces can be judged from files alone, with no empty model built."""
    return not ((folder / structure.TOWER).is_file() or base.root.has(RECIPE) or base.family not in FAMILIES)


def _piece_faults(folder: Path, base: Checkpoint, removed: list[LayerSet], depth: int) -> list[str]:
    """Why the pieces of a layered folder do not fit what is left of the base."""
    if (folder / structure.TOWER).is_file():
        return _pocket_faults(folder)
    shapes = _shapes(base)
    for layers in removed:
        shapes = structure.without_layers(shapes, layers)
    found: list[str] = []
    if base.family not in FAMILIES:
        found.append(f"{folder} has no {structure.TOWER}, and its base {base.id} is a language model that sees nothing")
    if (folder / structure.ADAPTER).is_file() or (folder / structure.ADAPTER_CONFIG).is_file():
        found += structure.adapter_faults(folder, shapes, depth)
    if (folder / structure.PROJECTOR).is_file():
        found += structure.part_faults(folder / structure.PROJECTOR, shapes, structure.PROJECTOR_PREFIX)
    return found


def _shapes(checkpoint: Checkpoint) -> dict[str, structure.Shape]:
    """Canonical name -> shape of a checkpoint without faults."""
    if checkpoint.has(RECIPE):
        from vrbench.models.random_weights import expected_shapes

        return expected_shapes(checkpoint.path)
    if checkpoint.base is None:
        return structure.shapes_of(read_headers(checkpoint.path))
    shapes = _shapes(checkpoint.base)
    for layers in checkpoint.removed:
        shapes = structure.without_layers(shapes, layers)
    if checkpoint.has(structure.PROJECTOR):
        projector = read_header(checkpoint.path / structure.PROJECTOR)
        shapes |= structure.shapes_of(projector, structure.PROJECTOR_PREFIX)
    return shapes


def _pocket_faults(folder: Path) -> list[str]:
    """Why a folder's tower and projector are not those of a pocket model."""
    from vrbench.models.llava import expected_shapes
    from vrbench.models.pocket import llava_config

    shapes = expected_shapes(llava_config())
    return structure.part_faults(folder / structure.TOWER, shapes, structure.TOWER_PREFIX) + structure.part_faults(
        folder / structure.PROJECTOR, shapes, structure.PROJECTOR_PREFIX
    )


def _digest_faults(folder: Path, lineage: Lineage | None, files: list[str]) -> list[str]:
    """Weight files that are missing, unlisted, or not those that vrbench.json lists."""
    if lineage is None:
        return []
    absent = [name for name in lineage.weights if not (folder / name).is_file()]
    found = [f"{folder / name} is missing; {MARKER} lists it" for name in absent]
    found += [f"{folder / name} is not listed in {MARKER}" for name in files if name not in lineage.weights]
    present = {folder / name: digest for name, digest in lineage.weights.items() if name not in absent}
    differ = [path for path, digest in file_digests(present).items() if digest != present[path]]
    found += [f"{path} is not what {MARKER} says: its sha256 differs" for path in differ]
    return found


def _digest(folder: Path, weights: list[str], extra: dict[str, Any] | None = None) -> str:
    """sha256 over a folder's weights and settings and what lies below it; not over its name or its lineage's prose."""
    present = [name for name in (*weights, *SETTINGS) if (folder / name).is_file()]
    digests = file_digests(folder / name for name in present)
    return digest_of({"files": {name: digests[folder / name] for name in present}, **(extra or {})})
