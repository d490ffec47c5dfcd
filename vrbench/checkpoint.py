"""Checkpoint: which weights are meant, what they were made from, and whether they are whole (no torch).

Nothing here loads a weight: faults are told from names, headers, digests and `vrbench.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench import adapters, folder_faults, pieces, sources, structure
from vrbench.cache import file_digests
from vrbench.changes import Change, changes_of, what_lies_below
from vrbench.errors import VrbenchError, raise_all, sentences
from vrbench.headers import INDEX, header_faults, weight_files
from vrbench.layers import LayerSet
from vrbench.lineage import MARKER, Origins, follow_steps, origins, read_lineage
from vrbench.models.families import FAMILIES, REFUSED
from vrbench.models.random_shapes import RECIPE
from vrbench.perlayer import length_faults
from vrbench.pieces import PIECES
from vrbench.records import Base, CheckpointRef, Lineage, Step
from vrbench.writing import digest_of

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
        changes: what is then done to the base's layers, in order, before the folder's own weights are put on.
    """

    id: str
    path: Path
    revision: str
    digest: str
    family: str
    depth: int
    lineage: tuple[Lineage, ...] = ()
    base: Checkpoint | None = None
    changes: tuple[Change, ...] = ()

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
        return tuple(change.layers for change in self.changes if change.kind == "pruned")

    @property
    def origins(self) -> Origins:
        """Where its decoder layers come from, and which of them are tuned."""
        return origins(self.lineage, self.depth)

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


def resolve_backbone(name: str, *, near: Path | None = None, offline: bool = False) -> Checkpoint:
    """As `resolve`, of what layers can be restored from: a language model, named or in a folder, or one that sees.

    Args:
        name: "smollm2-135m-instruct", or what `resolve` takes.
        near: a folder that relative paths are tried against first.
        offline: never ask a hub.
    """
    checkpoint, found = _inspect(name, offline=offline, near=near, seeing=False)
    raise_all(found)
    assert checkpoint is not None  # or there would have been a fault
    return checkpoint


def _inspect(
    name: str,
    *,
    offline: bool,
    near: Path | None = None,
    above: tuple[Path, ...] = (),
    seeing: bool = True,
    fitted: bool = True,
) -> tuple[Checkpoint | None, list[str]]:
    try:
        source = sources.find(name, near=near, offline=offline)
        if source.folder in above:
            raise VrbenchError(f"{source.folder} is made, step by step, from itself; mend its {MARKER}")
        if (source.folder / RECIPE).is_file():
            return _random(source), []
        lineage = read_lineage(source.folder)
        if _is_whole(source.folder):
            return _whole(source, lineage, seeing, fitted)
        return _layered(source, lineage or _plain_adapter(source), offline, (*above, source.folder), fitted)
    except VrbenchError as fault:
        return None, list(sentences(fault))


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
    config = adapters.read_adapter_config(source.folder)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise VrbenchError(f"{source.folder / structure.ADAPTER_CONFIG} names no base_model_name_or_path")
    if isinstance(revision, str) and revision and sources.is_hub_id(base, near=source.folder):
        base = f"{base}@{revision}"  # the base that it was trained on, and not what the hub has by now
    return Lineage(id=source.id, family="", depth=0, base=Base(id=base, digest=""))


def _whole(
    source: sources.Source, lineage: Lineage | None, seeing: bool, fitted: bool
) -> tuple[Checkpoint | None, list[str]]:
    folder = source.folder
    found = folder_faults.faults(folder) + header_faults(folder)
    family, depth, decoder = _read_config(folder)
    found += [f"{folder / 'config.json'}: {fault}" for fault in length_faults(decoder, depth)]
    if not found:
        found += _digest_faults(folder, lineage, [p.name for p in weight_files(folder)])
    if not found and fitted and source.id not in sources.BACKBONES and (seeing or family in FAMILIES):
        found += _foreign_faults(folder, family)
    chain = (lineage.model_copy(update={"history": ()}), *lineage.history) if lineage else ()
    if lineage and lineage.depth != depth:
        found.append(f"{folder / MARKER} says depth {lineage.depth}, config.json {depth}")
    elif not found:
        found += _history_faults(folder, chain, depth)
    if found:
        return None, found
    digest = source.digest or _digest(folder, [p.name for p in weight_files(folder)])
    return Checkpoint(source.id, folder, source.revision, digest, family, depth, chain), []


def _random(source: sources.Source) -> Checkpoint:
    """A folder with a recipe instead of weights, which are made when it is loaded."""
    family, depth, _ = _read_config(source.folder)
    return Checkpoint(source.id, source.folder, source.revision, _digest(source.folder, [RECIPE]), family, depth)


def _history_faults(folder: Path, chain: tuple[Lineage, ...], depth: int) -> list[str]:
    try:
        origins(chain, depth)
    except VrbenchError as fault:
        return [f"{folder / MARKER}: {fault}"]
    return []


def _read_config(folder: Path) -> tuple[str, int, dict[str, Any]]:
    """The family (model_type), the depth, and the decoder's settings that config.json states."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        decoder = config.get("text_config", config)
        depth = decoder.get("num_hidden_layers")
        family = config["model_type"]
    except FileNotFoundError as error:
        raise VrbenchError(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VrbenchError(f"{path} cannot be read: it is not JSON with a model_type") from error
    if depth is not None and (type(depth) is not int or depth < 1):
        raise VrbenchError(f"{path} has num_hidden_layers {depth!r}; it has to be a whole number above 0")
    return str(family), depth or _usual_depth(folder), decoder


def _usual_depth(folder: Path) -> int:
    """The depth of a config.json that leaves it out, as that of LLaVA-1.5 does, because it is the usual one."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
        return int(config.num_hidden_layers)
    except Exception:  # transformers' strict configs raise classes of their own
        return 0  # what is wrong with it is told by its family


def _foreign_faults(folder: Path, family: str) -> list[str]:
    """Whether the family is known, and the weights are those of the model that config.json describes."""
    if family in REFUSED:
        return [f"{folder / 'config.json'} is of model_type {family!r}: {REFUSED[family]}"]
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        return [f"{folder / 'config.json'} is of model_type {family!r}; the families known are {known}"]
    return FAMILIES[family].faults(folder)


def _layered(
    source: sources.Source, own: Lineage, offline: bool, above: tuple[Path, ...], fitted: bool
) -> tuple[Checkpoint | None, list[str]]:
    """A folder that changes another checkpoint: adapter, delta, projector, tower, layers removed or restored."""
    folder = source.folder
    if own.base is None:
        raise VrbenchError(f"{folder / MARKER} names no base, and the folder has no whole model")
    base, found = _inspect(own.base.id, offline=offline, near=folder, above=above, fitted=fitted)
    present = [p for p in PIECES if (folder / p).is_file()]
    if base and own.base.digest and base.digest != own.base.digest:
        made, here = own.base.digest[:12], base.digest[:12]
        found.append(f"{source.id} was made on another {own.base.id}: its digest was {made}, the one here has {here}")
    is_marked = (folder / MARKER).is_file()
    if is_marked:
        found += _digest_faults(folder, own, present)
    if base is None:
        return None, found
    steps = follow_steps(own, base.depth, has_pieces=bool(present))
    found += steps.faults
    changes: tuple[Change, ...] = ()
    if not found:
        changes, found = changes_of(
            steps, base, lambda name: _inspect(name, offline=offline, near=folder, seeing=False, fitted=fitted)
        )
    if not found:
        judged = fitted or _is_light(folder, base)
        found += pieces.piece_faults(folder, base, own, changes, steps.depth) if judged else []
    if found:
        return None, found
    digest = _digest(folder, present, what_lies_below(base, changes))
    own = own if is_marked else own.model_copy(update={"steps": (_adapter_step(folder, steps.depth),)})
    own = own.model_copy(update={"family": own.family or base.family, "depth": steps.depth})
    chain = (own, *base.lineage)
    return Checkpoint(source.id, folder, source.revision, digest, own.family, own.depth, chain, base, changes), []


def _is_light(folder: Path, base: Checkpoint) -> bool:
    """Whether what lies in a folder can be judged from files alone, with no empty model built."""
    heavy = (structure.TOWER, structure.PROJECTOR, structure.DELTA)
    return not (any((folder / piece).is_file() for piece in heavy) or base.root.has(RECIPE))


def _adapter_step(folder: Path, depth: int) -> Step:
    """What a PEFT folder that vrbench did not write says of itself."""
    config = adapters.read_adapter_config(folder)
    note = "the projector too (modules_to_save)" if config.get("modules_to_save") else ""
    layers = str(adapters.adapter_layers(folder, depth))
    return Step(kind="trained", layers=layers, depth=depth, method=adapters.method_of(config), note=note)


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
