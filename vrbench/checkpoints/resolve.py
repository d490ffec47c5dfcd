"""Checkpoint: which weights are meant, what they were made from, and whether they are whole (no torch).

Nothing here loads a weight: faults are told from names, headers, digests and `vrbench.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vrbench.checkpoints import generation_config, locate, lora_adapter, overlay_validation, parameter_names, validation
from vrbench.checkpoints.digest import SETTINGS as SETTINGS
from vrbench.checkpoints.digest import digest_faults, folder_digest
from vrbench.checkpoints.families import FAMILIES, UNSUPPORTED
from vrbench.checkpoints.layer_edits import Change, changes_of, what_lies_below
from vrbench.checkpoints.lineage import MARKER, UNFINISHED, Origins, follow_steps, origins, read_lineage
from vrbench.checkpoints.model_config import is_original, read_config, stored_depth
from vrbench.checkpoints.overlay_validation import PIECES
from vrbench.checkpoints.per_layer_config import length_faults
from vrbench.checkpoints.random_shapes import RECIPE
from vrbench.checkpoints.remote_code import code_files, needed_code
from vrbench.checkpoints.safetensors_index import INDEX, header_faults, read_headers, weight_files
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, CheckpointRef, Lineage, LineageStep

BASE_KEY, BACKBONE_KEY = "base_model_name_or_path", "backbone.id"

CONVERT = "`vrbench convert SRC DST`"


@dataclass(frozen=True)
class Checkpoint:
    """Weights that were found whole, and how they were made.

    Attributes:
        id: what the user asked for, or a folder's name.
        path: the folder.
        revision: the hub's revision, if it came from there.
        digest: sha256 over all that decides its answers: weights, settings, tokenizer, base, removed layers.
        family: model family, a key of `vrbench.checkpoints.families.FAMILIES`.
        depth: decoder layers that the loaded model has.
        lineage: its own `vrbench.json` first, then those of its bases.
        base: what has to be loaded first; none for a folder that holds a whole model.
        changes: what is then done to the base's layers, in order, before the folder's own weights are put on.
        code: Python file of its own that is run when it is loaded -> its sha256; empty for all that transformers knows.
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
    code: dict[str, str] = field(default_factory=dict)

    def ref(self) -> CheckpointRef:
        """What a run's record says of it."""
        return CheckpointRef(
            id=self.id, revision=self.revision, digest=self.digest, family=self.family, depth=self.depth,
            lineage=self.lineage, code=self.code,
        )  # fmt: skip

    @property
    def root(self) -> Checkpoint:
        """The checkpoint at the bottom, which is loaded first."""
        return self.base.root if self.base else self

    @property
    def has_adapter(self) -> bool:
        """Whether PEFT has a part in it: an adapter in its folder, in its base's, or in a backbone's."""
        below = [self.base, *(change.backbone for change in self.changes)]
        return self.has(parameter_names.ADAPTER) or any(of.has_adapter for of in below if of is not None)

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


@dataclass(frozen=True)
class _How:
    """How names are looked at, all the way down to the last base; see `resolve`."""

    offline: bool = False
    fitted: bool = True
    trusted: bool = False


def resolve(
    name: str, *, offline: bool = False, near: Path | None = None, fitted: bool = True, trusted: bool = False
) -> Checkpoint:
    """The checkpoint of a name, with everything checked that can be checked before weights are loaded.

    Args:
        name: "pocket/full", "random/llava-1.5-7b", a folder, or a hub id.
        offline: never ask a hub.
        near: a folder that relative paths are tried against first.
        fitted: the family has to be known, and code of its own is run to judge the weights; without it a language model
            alone is a checkpoint too, and nothing that is published with the package needs torch to be judged.
        trusted: Python code that comes with the checkpoint may be run, and is when `fitted`.

    Raises:
        VrbenchError: every fault that was found, at once.
    """
    how = _How(offline, fitted, trusted)
    checkpoint, found = (_inspect_whole_model if fitted else _inspect)(name, how, near)
    raise_errors(found)
    assert checkpoint is not None  # or there would have been a fault
    return checkpoint


def faults(name: str, *, offline: bool = False, trusted: bool = False) -> list[str]:
    """Why `resolve(name)` would raise, one sentence each; empty when it would not."""
    return _inspect_whole_model(name, _How(offline, trusted=trusted))[1]


def _inspect_whole_model(name: str, how: _How, near: Path | None = None) -> tuple[Checkpoint | None, list[str]]:
    checkpoint, found = _inspect(name, how, near)
    if checkpoint and not checkpoint.code and checkpoint.family not in FAMILIES:
        found.append(f"{name} is of family {checkpoint.family!r}; those that see are {', '.join(FAMILIES)}")
    return checkpoint, found


def resolve_backbone(name: str, *, near: Path | None = None, offline: bool = False) -> Checkpoint:
    """As `resolve`, of what layers can be restored from: a language model, named or in a folder, or one that sees.

    Args:
        name: "smollm2-135m-instruct", or what `resolve` takes.
        near: a folder that relative paths are tried against first.
        offline: never ask a hub.
    """
    checkpoint, found = _inspect(name, _How(offline), near, seeing=False)
    raise_errors(found)
    assert checkpoint is not None  # or there would have been a fault
    return checkpoint


def _inspect(
    name: str, how: _How, near: Path | None = None, above: tuple[Path, ...] = (), seeing: bool = True, key: str = ""
) -> tuple[Checkpoint | None, list[str]]:
    """See `resolve`.

    Args:
        near: the folder whose file names this checkpoint, by the key `key`.
        above: the folders that it is below.
        seeing: whether a language model alone is none.
    """
    try:
        source = locate.find(name, near=near, offline=how.offline, with_code=how.trusted)
    except VrbenchError as fault:
        return None, [_named_wrongly(near, key, name, sentence) if near and key else sentence
                      for sentence in error_messages(fault)]  # fmt: skip
    try:
        if source.folder in above:
            raise VrbenchError(f"{source.folder} is made, step by step, from itself; mend its {MARKER}")
        if (source.folder / RECIPE).is_file():
            return _random(source), []
        lineage = read_lineage(source.folder)
        if _is_whole(source.folder):
            return _whole(source, lineage, seeing, how)
        return _layered(source, lineage or _plain_adapter(source), (*above, source.folder), how)
    except VrbenchError as fault:
        return None, list(error_messages(fault))


def _named_wrongly(near: Path, key: str, name: str, sentence: str) -> str:
    """A base or backbone that is not found, with the file and key that name it and what was tried."""
    file = near / (MARKER if (near / MARKER).is_file() else parameter_names.ADAPTER_CONFIG)
    tried = dict.fromkeys(str(place.absolute()) for place in (near / name, Path(name).expanduser()))
    return (
        f"{file} has {key} {name!r}: {sentence} (tried {' and '.join(tried)}); set {key} to a folder, absolute or "
        "relative to that file, or to a hub id"
    )


def _is_whole(folder: Path) -> bool:
    """Whether the folder holds all of a model's weights, or is meant to."""
    if (folder / "model.safetensors").is_file() or (folder / INDEX).is_file():
        return True
    layered = (folder / MARKER).is_file() or (folder / parameter_names.ADAPTER_CONFIG).is_file()
    return (folder / "config.json").is_file() and not layered


def _plain_adapter(source: locate.Source) -> Lineage:
    """The lineage of a PEFT folder that vrbench did not write: its base by name, with no digest to hold it to."""
    if (source.folder / UNFINISHED).is_dir():
        raise VrbenchError(f"{source.folder} is half made: its training was stopped; the same command goes on with it")
    if not (source.folder / parameter_names.ADAPTER_CONFIG).is_file():
        pieces = [p for p in PIECES if (source.folder / p).is_file()]
        if pieces:
            raise VrbenchError(f"{source.folder} is half made: it has {', '.join(pieces)} but no {MARKER}")
        raise VrbenchError(f"{source.folder} is no checkpoint: it has neither config.json, {MARKER} nor an adapter")
    if (source.folder / "non_lora_trainables.bin").is_file():
        whose = "the layout of LLaVA's or Bunny's authors"
        raise VrbenchError(f"{source.folder} is an adapter in {whose}; make it a whole model: {CONVERT} --base LLM")
    config = lora_adapter.read_adapter_config(source.folder)
    base, revision = config.get(BASE_KEY), config.get("revision")
    if not isinstance(base, str) or not base:
        raise VrbenchError(f"{source.folder / parameter_names.ADAPTER_CONFIG} names no {BASE_KEY}")
    if isinstance(revision, str) and revision and locate.is_hub_id(base, near=source.folder):
        base = f"{base}@{revision}"  # the base that it was trained on, and not what the hub has by now
    return Lineage(id=source.id, family="", depth=0, base=BaseRef(id=base, digest=""))


def _whole(
    source: locate.Source, lineage: Lineage | None, seeing: bool, how: _How
) -> tuple[Checkpoint | None, list[str]]:
    folder = source.folder
    found = validation.faults(folder, how.trusted) + header_faults(folder)
    try:
        family, depth, decoder = read_config(folder)
    except VrbenchError as fault:
        return None, [*found, *error_messages(fault)]
    if how.fitted or family in FAMILIES:
        found += generation_config.faults(folder, how.trusted)
    found += [f"{folder / 'config.json'}: {fault}" for fault in length_faults(decoder, depth)]
    if not found:
        found += digest_faults(folder, lineage, [p.name for p in weight_files(folder)])
    has_code = bool(needed_code(folder))
    if not found and not has_code and not is_original(folder):
        found += parameter_names.layer_faults(folder, map(parameter_names.canonical, read_headers(folder)), depth)
    if not found and has_code:
        depth, found = _judged_by_its_code(folder) if how.fitted else (depth or stored_depth(folder), [])
    elif not found and source.id not in locate.BACKBONES and ((how.fitted and seeing) or family in FAMILIES):
        found += _foreign_faults(folder, family)
    chain = (lineage.model_copy(update={"history": ()}), *lineage.history) if lineage else ()
    if lineage and lineage.depth != depth:
        found.append(f"{folder / MARKER} says depth {lineage.depth}, config.json {depth}")
    elif not found:
        found += _history_faults(folder, chain, depth)
    if found:
        return None, found
    code = code_files(folder) if has_code else {}
    extra = {"code": code} if code else None
    digest = source.digest or folder_digest(folder, [p.name for p in weight_files(folder)], extra)
    return Checkpoint(source.id, folder, source.revision, digest, family, depth, chain, code=code), []


def _judged_by_its_code(folder: Path) -> tuple[int, list[str]]:
    """Depth and faults of a model whose own code was allowed to run."""
    from vrbench.models.remote_model import validate

    return validate(folder)


def _random(source: locate.Source) -> Checkpoint:
    """A folder with a recipe instead of weights, which are made when it is loaded."""
    family, depth, _ = read_config(source.folder)
    return Checkpoint(source.id, source.folder, source.revision, folder_digest(source.folder, [RECIPE]), family, depth)


def _history_faults(folder: Path, chain: tuple[Lineage, ...], depth: int) -> list[str]:
    try:
        origins(chain, depth)
    except VrbenchError as fault:
        return [f"{folder / MARKER}: {fault}"]
    return []


def _foreign_faults(folder: Path, family: str) -> list[str]:
    """Whether the family is known, and the weights are those of the model that config.json describes."""
    if is_original(folder):
        return [f"{folder} is in the layout of LLaVA's or Bunny's authors; make it one of transformers' own: {CONVERT}"]
    if family in UNSUPPORTED:
        return [f"{folder / 'config.json'} is of model_type {family!r}: {UNSUPPORTED[family]}"]
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        return [f"{folder / 'config.json'} is of model_type {family!r}; the families known are {known}"]
    from vrbench.models import hf_folder

    return hf_folder.validate(folder)


def _layered(
    source: locate.Source, own: Lineage, above: tuple[Path, ...], how: _How
) -> tuple[Checkpoint | None, list[str]]:
    """A folder that changes another checkpoint: adapter, delta, projector, tower, layers removed or restored."""
    folder = source.folder
    if own.base is None:
        raise VrbenchError(f"{folder / MARKER} names no base, and the folder has no whole model")
    is_marked = (folder / MARKER).is_file()
    base, found = _inspect(own.base.id, how, folder, above, key="base.id" if is_marked else BASE_KEY)
    present = [p for p in PIECES if (folder / p).is_file()]
    if base and own.base.digest and base.digest != own.base.digest:
        made, here = own.base.digest[:12], base.digest[:12]
        found.append(f"{source.id} was made on another {own.base.id}: its digest was {made}, the one here has {here}")
    if is_marked:
        found += digest_faults(folder, own, present)
    if base is None:
        return None, found
    named = own.model_copy(update={"id": source.id})  # in errors; a recipe may have called it otherwise
    steps = follow_steps(named, base.depth, has_pieces=bool(present))
    found += steps.faults
    changes: tuple[Change, ...] = ()
    if not found:
        look = partial(_inspect, how=how, near=folder, seeing=False, key=BACKBONE_KEY)
        changes, found = changes_of(steps, base, look)
    if not found:
        judged = how.fitted or not _is_ours(folder, base)
        found += overlay_validation.piece_faults(folder, base, own, changes, steps.depth) if judged else []
    if found:
        return None, found
    digest = folder_digest(folder, present, what_lies_below(base, changes))
    own = own if is_marked else own.model_copy(update={"steps": (_adapter_step(folder, steps.depth),)})
    own = own.model_copy(update={"family": own.family or base.family, "depth": steps.depth})
    chain = (own, *base.lineage)
    return Checkpoint(source.id, folder, source.revision, digest, own.family, own.depth, chain, base, changes), []


def _is_ours(folder: Path, base: Checkpoint) -> bool:
    """Whether the pieces in a folder are published with the package, or of random shapes, and fit without a look."""
    return folder.parent == locate.PUBLISHED or base.root.has(RECIPE)


def _adapter_step(folder: Path, depth: int) -> LineageStep:
    """What a PEFT folder that vrbench did not write says of itself."""
    config = lora_adapter.read_adapter_config(folder)
    note = "the projector too (modules_to_save)" if config.get("modules_to_save") else ""
    layers = str(lora_adapter.adapter_layers(folder, depth))
    return LineageStep(kind="trained", layers=layers, depth=depth, method=lora_adapter.method_of(config), note=note)
