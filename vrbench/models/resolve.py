"""Resolve checkpoints, with the checks that need a model without weights (torch is imported only for these)."""

from __future__ import annotations

from pathlib import Path

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.inspect import CheckpointInfo, describe
from vrbench.checkpoints.resolve import Resolver


class MetaModelChecks:
    """The checks of `vrbench.checkpoints.resolve.ModelChecks`, on torch's meta device."""

    def validate_weights(self, folder: Path) -> list[str]:
        """Return why the weights of a known family are not those of the model that config.json describes."""
        from vrbench.models import hf_folder

        return hf_folder.validate(folder)

    def validate_remote_code(self, folder: Path) -> tuple[int, list[str]]:
        """Return depth and errors of the model that the folder's own code makes; the code is run."""
        from vrbench.models import remote_model

        return remote_model.validate(folder)


def resolve_checkpoint(
    name: str, *, offline: bool = False, near: Path | None = None, any_model: bool = False, trusted: bool = False
) -> Checkpoint:
    """Return the checkpoint of a name, with everything checked that can be checked before weights are loaded.

    Args:
        name: "pocket/full", "random/llava-1.5-7b", a folder, or a hub id.
        offline: never ask a hub.
        near: a folder that relative paths are tried against first.
        any_model: accept a family that is not known and a language model alone, and run no code of a folder.
        trusted: Python code that comes with the checkpoint may be run, and is unless `any_model`.

    Raises:
        VrbenchError: with every error that was found.
    """
    return Resolver(MetaModelChecks(), offline, trusted, any_model).checkpoint(name, near)


def resolve_backbone(name: str, *, near: Path | None = None, offline: bool = False) -> Checkpoint:
    """Resolve a model that layers can be restored from, a language model or a VLM, like `resolve_checkpoint`.

    Args:
        name: "smollm2-135m-instruct", or what `resolve_checkpoint` takes.
        near: a folder that relative paths are tried against first.
        offline: never ask a hub.
    """
    return Resolver(MetaModelChecks(), offline).backbone(name, near)


def inspect_checkpoint(
    name: str, base: str | None = None, *, offline: bool = False, trusted: bool = False
) -> CheckpointInfo:
    """Describe a checkpoint, and its differences from its base; code that comes with it is listed and not run.

    Args:
        name: "pocket/full", a folder, a hub id, or a language model's folder.
        base: what it is compared with; by default what it was made from, if that is recorded and available.
        offline: never ask a hub.
        trusted: describe a checkpoint with code of its own too.

    Raises:
        VrbenchError: with every error of the checkpoint or of a base that was named.
    """
    return describe(name, base, Resolver(MetaModelChecks(), offline, trusted, any_model=True))
