"""Resolve a checkpoint's name, with everything checked that can be checked before weights are loaded (no torch).

Errors are found from names, headers, digests and `vrbench.json`. What only a model without weights can show is asked of
`ModelChecks`; `vrbench.models.resolve` passes the checks in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from vrbench.checkpoints import locate, lora_adapter
from vrbench.checkpoints.checkpoint import ADAPTER_CONFIG, OVERLAY_FILES, Checkpoint, LayerEdit
from vrbench.checkpoints.digest import folder_digest, validate_digests
from vrbench.checkpoints.families import FAMILIES, UNSUPPORTED
from vrbench.checkpoints.generation_config import validate_generation_config
from vrbench.checkpoints.layer_edits import base_digests, resolve_edits
from vrbench.checkpoints.lineage import LINEAGE_FILE, TRAINING_STATES, apply_steps, layer_origins, read_lineage
from vrbench.checkpoints.locate import CheckpointSource, locate_checkpoint
from vrbench.checkpoints.model_config import is_author_layout, read_model_config, stored_depth, validate_layer_counts
from vrbench.checkpoints.overlay_validation import validate_overlay
from vrbench.checkpoints.parameter_names import canonical_name, validate_layer_numbers
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.checkpoints.remote_code import code_files, required_code
from vrbench.checkpoints.safetensors_index import INDEX, WEIGHTS, read_headers, validate_weight_files, weight_files
from vrbench.checkpoints.validation import validate_folder
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.schemas import BaseRef, Lineage, LineageStep

BASE_KEY, BACKBONE_KEY = "base_model_name_or_path", "backbone.id"
CONVERT = "`vrbench convert SRC DST`"

Found = tuple[Checkpoint | None, list[str]]
"""A checkpoint, or None and every error."""


class ModelChecks(Protocol):
    """Checks that need a model on torch's meta device."""

    def validate_weights(self, folder: Path) -> list[str]:
        """Return why the weights of a known family are not those of the model that config.json describes."""

    def validate_remote_code(self, folder: Path) -> tuple[int, list[str]]:
        """Return depth and errors of the model that the folder's own code makes; the code is run."""


@dataclass(frozen=True)
class Resolver:
    """How names are resolved, down to the last base.

    Attributes:
        checks: for what only a model without weights can show.
        offline: never ask a hub.
        trusted: Python code that comes with a checkpoint may be run.
        any_model: accept a family that is not known and a language model alone; run no code of a folder, and skip the
            checks of overlays that are published with the package.
    """

    checks: ModelChecks
    offline: bool = False
    trusted: bool = False
    any_model: bool = False

    def checkpoint(self, name: str, near: Path | None = None) -> Checkpoint:
        """Return the checkpoint of a name.

        Args:
            name: "pocket/full", "random/llava-1.5-7b", a folder, or a hub id.
            near: a folder that relative paths are tried against first.

        Raises:
            VrbenchError: with every error that was found.
        """
        found, errors = self._find(name, near)
        if found and not self.any_model and not found.code and found.family not in FAMILIES:
            errors.append(f"{name} is of family {found.family!r}; those with vision are {', '.join(FAMILIES)}")
        raise_errors(errors)
        assert found is not None  # or there would have been an error
        return found

    def backbone(self, name: str, near: Path | None = None) -> Checkpoint:
        """Return the checkpoint of a model that layers can be restored from: a language model or a VLM."""
        found, errors = self._find(name, near, needs_vision=False)
        raise_errors(errors)
        assert found is not None  # or there would have been an error
        return found

    def _find(
        self,
        name: str,
        near: Path | None = None,
        above: tuple[Path, ...] = (),
        needs_vision: bool = True,
        key: str = "",
    ) -> Found:
        """Return the checkpoint of a name, and every error.

        Args:
            near: the folder whose file names this checkpoint, by the key `key`.
            above: the folders that are made from it.
            needs_vision: refuse a language model alone.
        """
        try:
            source = locate_checkpoint(name, near=near, offline=self.offline, with_code=self.trusted)
        except VrbenchError as error:
            found = error_messages(error)
            return None, [_reference_error(near, key, name, message) for message in found] if near and key else found
        folder = source.folder
        try:
            if folder in above:
                raise VrbenchError(f"{folder} is made, step by step, from itself; correct its {LINEAGE_FILE}")
            if (folder / RANDOM_WEIGHTS).is_file():
                family, depth, _ = read_model_config(folder)
                digest = folder_digest(folder, [RANDOM_WEIGHTS])
                return Checkpoint(source.id, folder, source.revision, digest, family, depth), []
            lineage = read_lineage(folder)
            if _is_complete(folder):
                return self._complete(source, lineage, needs_vision)
            return self._layered(source, lineage or _adapter_lineage(source), (*above, folder))
        except VrbenchError as error:
            return None, error_messages(error)

    def _complete(self, source: CheckpointSource, lineage: Lineage | None, needs_vision: bool) -> Found:
        folder = source.folder
        errors = validate_folder(folder, self.trusted) + validate_weight_files(folder)
        try:
            family, depth, decoder = read_model_config(folder)
        except VrbenchError as error:
            return None, [*errors, *error_messages(error)]
        if not self.any_model or family in FAMILIES:
            errors += validate_generation_config(folder, self.trusted)
        errors += [f"{folder / 'config.json'}: {error}" for error in validate_layer_counts(decoder, depth)]
        weights = [] if errors else [path.name for path in weight_files(folder)]
        if not errors:
            errors += validate_digests(folder, lineage, weights)
        has_code = bool(required_code(folder))
        if not errors and not has_code and not is_author_layout(folder):
            errors += validate_layer_numbers(folder, map(canonical_name, read_headers(folder)), depth)
        if not errors and has_code:
            check = self.checks.validate_remote_code
            depth, errors = (depth or stored_depth(folder), []) if self.any_model else check(folder)
        elif not errors and source.id not in locate.BACKBONES:
            if (needs_vision and not self.any_model) or family in FAMILIES:
                errors += _validate_family(folder, family) or self.checks.validate_weights(folder)
        chain = (lineage.model_copy(update={"history": ()}), *lineage.history) if lineage else ()
        if lineage and lineage.depth != depth:
            errors.append(f"{folder / LINEAGE_FILE} says depth {lineage.depth}, config.json {depth}")
        elif not errors:
            try:
                layer_origins(chain, depth)
            except VrbenchError as error:
                errors.append(f"{folder / LINEAGE_FILE}: {error}")
        if errors:
            return None, errors
        code = code_files(folder) if has_code else {}
        digest = source.digest or folder_digest(folder, weights, {"code": code} if code else None)
        return Checkpoint(source.id, folder, source.revision, digest, family, depth, chain, code=code), []

    def _layered(self, source: CheckpointSource, own: Lineage, above: tuple[Path, ...]) -> Found:
        """Resolve a folder that changes another checkpoint: adapter, delta, projector, tower, layers edited."""
        folder = source.folder
        if own.base is None:
            raise VrbenchError(f"{folder / LINEAGE_FILE} names no base, and the folder has no complete model")
        has_lineage = (folder / LINEAGE_FILE).is_file()
        base, errors = self._find(own.base.id, folder, above, key="base.id" if has_lineage else BASE_KEY)
        present = [name for name in OVERLAY_FILES if (folder / name).is_file()]
        if base and own.base.digest and base.digest != own.base.digest:
            made, here = own.base.digest[:12], base.digest[:12]
            errors.append(
                f"{source.id} was made on another {own.base.id}: its digest was {made}, the one here has {here}"
            )
        if has_lineage:
            errors += validate_digests(folder, own, present)
        if base is None:
            return None, errors
        named = own.model_copy(update={"id": source.id})  # in errors; a recipe may have given it another name
        steps = apply_steps(named, base.depth, has_weights=bool(present))
        errors += steps.errors
        edits: tuple[LayerEdit, ...] = ()
        if not errors:
            find = partial(self._find, near=folder, needs_vision=False, key=BACKBONE_KEY)
            edits, errors = resolve_edits(steps, base, find)
        is_known_to_fit = self.any_model and (folder.parent == locate.PUBLISHED_FOLDER or base.root.has(RANDOM_WEIGHTS))
        if not errors and not is_known_to_fit:
            errors += validate_overlay(folder, base, own, edits, steps.depth)
        if errors:
            return None, errors
        digest = folder_digest(folder, present, base_digests(base, edits))
        own = own if has_lineage else own.model_copy(update={"steps": (_adapter_step(folder, steps.depth),)})
        own = own.model_copy(update={"family": own.family or base.family, "depth": steps.depth})
        chain = (own, *base.lineage)
        return Checkpoint(source.id, folder, source.revision, digest, own.family, own.depth, chain, base, edits), []


def _reference_error(near: Path, key: str, name: str, message: str) -> str:
    """Return the error of a base or backbone that is not found, with the file and key that name it."""
    file = near / (LINEAGE_FILE if (near / LINEAGE_FILE).is_file() else ADAPTER_CONFIG)
    tried = dict.fromkeys(str(place.absolute()) for place in (near / name, Path(name).expanduser()))
    return (
        f"{file} has {key} {name!r}: {message} (tried {' and '.join(tried)}); set {key} to a folder, absolute or "
        "relative to that file, or to a hub id"
    )


def _is_complete(folder: Path) -> bool:
    """Return whether the folder holds all of a model's weights, or is meant to."""
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return True
    layered = (folder / LINEAGE_FILE).is_file() or (folder / ADAPTER_CONFIG).is_file()
    return (folder / "config.json").is_file() and not layered


def _adapter_lineage(source: CheckpointSource) -> Lineage:
    """Return the lineage of a PEFT folder that vrbench did not write: its base by name, with no digest to check."""
    folder = source.folder
    if (folder / TRAINING_STATES).is_dir():
        raise VrbenchError(f"{folder} is incomplete: its training was stopped; the same command resumes it")
    if not (folder / ADAPTER_CONFIG).is_file():
        present = [name for name in OVERLAY_FILES if (folder / name).is_file()]
        if present:
            raise VrbenchError(f"{folder} is incomplete: it has {', '.join(present)} but no {LINEAGE_FILE}")
        raise VrbenchError(f"{folder} is not a checkpoint: it has neither config.json, {LINEAGE_FILE} nor an adapter")
    if (folder / "non_lora_trainables.bin").is_file():
        whose = "the layout of LLaVA's or Bunny's authors"
        raise VrbenchError(f"{folder} is an adapter in {whose}; make it a complete model: {CONVERT} --base LLM")
    config = lora_adapter.read_adapter_config(folder)
    base, revision = config.get(BASE_KEY), config.get("revision")
    if not isinstance(base, str) or not base:
        raise VrbenchError(f"{folder / ADAPTER_CONFIG} names no {BASE_KEY}")
    if isinstance(revision, str) and revision and locate.is_hub_id(base, near=folder):
        base = f"{base}@{revision}"  # the base that it was trained on, and not what the hub has by now
    return Lineage(id=source.id, family="", depth=0, base=BaseRef(id=base, digest=""))


def _adapter_step(folder: Path, depth: int) -> LineageStep:
    config = lora_adapter.read_adapter_config(folder)
    note = "the projector too (modules_to_save)" if config.get("modules_to_save") else ""
    layers = str(lora_adapter.adapter_layers(folder, depth))
    return LineageStep(
        kind="trained", layers=layers, depth=depth, method=lora_adapter.adapter_method(config), note=note
    )


def _validate_family(folder: Path, family: str) -> list[str]:
    if is_author_layout(folder):
        return [f"{folder} is in the layout of LLaVA's or Bunny's authors; make it one of transformers' own: {CONVERT}"]
    if family in UNSUPPORTED:
        return [f"{folder / 'config.json'} is of model_type {family!r}: {UNSUPPORTED[family]}"]
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        return [f"{folder / 'config.json'} is of model_type {family!r}; the families known are {known}"]
    return []
