"""Locating a checkpoint by name: a published folder, a named backbone, a local folder, or a snapshot of a hub."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vrbench.checkpoints import random_shapes, smollm2
from vrbench.checkpoints.lineage import LINEAGE_FILE
from vrbench.checkpoints.remote_code import validate_code
from vrbench.checkpoints.safetensors_index import validate_weight_files
from vrbench.core.errors import VrbenchError
from vrbench.core.os_errors import reraise_os_error

PUBLISHED_FOLDER = Path(__file__).parents[1] / "pocket" / "weights"
PREFIX = "pocket/"
HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
"""Owner and name of a repository, and the revision that may follow."""

HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
CODE_FILES = ["*.py"]
PICKLED_FILES = ["*.bin"]
BACKBONES = (smollm2.ID,)
"""Language models that have a name of their own."""


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint's folder and its name; revision and digest where the place it comes from states them."""

    id: str
    folder: Path
    revision: str = ""
    digest: str = ""


def published_names() -> list[str]:
    """Return the names of the checkpoints that ship with the package."""
    return sorted(PREFIX + marker.parent.name for marker in PUBLISHED_FOLDER.glob(f"*/{LINEAGE_FILE}"))


def is_builtin_name(name: str) -> bool:
    """Return whether a name is that of a published checkpoint, a backbone, or of random weights."""
    return name in published_names() or name in BACKBONES or name.startswith(random_shapes.RANDOM_PREFIX)


def locate_checkpoint(
    name: str, *, near: Path | None = None, offline: bool = False, with_code: bool = False, pickles: bool = False
) -> CheckpointSource:
    """Return the folder of a name.

    Args:
        name: "pocket/full", "random/llava-1.5-7b", a backbone's name, a folder, or a hub id such as "org/model" or
            "org/model@revision".
        near: a folder that relative paths are tried against first: that of the checkpoint that names this one.
        offline: look for hub ids in the local cache only, as with HF_HUB_OFFLINE=1.
        with_code: download a hub's Python files too.
        pickles: download a hub's *.bin files too; only `vrbench.conversion` reads them, as tensors.

    Raises:
        VrbenchError: there is no such checkpoint; the message suggests similar names.
    """
    if name in published_names():
        return CheckpointSource(name, PUBLISHED_FOLDER / name.removeprefix(PREFIX))
    if name in BACKBONES:
        return CheckpointSource(name, smollm2.backbone_folder(), digest=smollm2.SHA256)
    if name.startswith(random_shapes.RANDOM_PREFIX):
        return CheckpointSource(name, random_shapes.random_folder(name))
    folder = find_folder(name, near)
    if folder:
        return CheckpointSource(folder.name, folder)
    hub_id = HUB_ID.fullmatch(name)
    if hub_id and not name.startswith(PREFIX):
        from huggingface_hub import constants

        files = HUB_FILES + CODE_FILES * with_code + PICKLED_FILES * pickles
        return _from_hub(hub_id[1], hub_id[2], name, offline or constants.is_offline_mode(), files)
    raise VrbenchError(f"no checkpoint {name!r}: {_hint(name)}")


def find_folder(name: str, near: Path | None = None) -> Path | None:
    """Return the folder of a path, relative to `near` or else to the current folder; None if there is none."""
    places = [*([near / name] if near else []), Path(name).expanduser()] if name else []
    return next((place.resolve() for place in places if place.is_dir()), None)


def is_local(name: str) -> bool:
    """Return whether a name is a checkpoint without a hub request: a published or random one, or a folder."""
    return is_builtin_name(name) or find_folder(name) is not None


def is_hub_id(name: str, *, near: Path | None = None) -> bool:
    """Return whether a name without a revision can only be a repository of a hub."""
    found = HUB_ID.fullmatch(name)
    own = name.startswith((PREFIX, random_shapes.RANDOM_PREFIX))
    return bool(found and not found[2] and not own and not find_folder(name, near))


def relative_name(name: str, out: Path) -> str:
    """Return how a lineage in the folder `out` names another checkpoint: a folder by its relative path."""
    folder = None if name in published_names() or name in BACKBONES else find_folder(name)
    return os.path.relpath(folder, out.resolve()) if folder else name


def _hint(name: str) -> str:
    if Path(name).expanduser().is_file():
        return f"it is a file; name the folder that contains it, {str(Path(name).parent)!r}"
    known = published_names()
    close = difflib.get_close_matches(name, known, n=3)
    if not close:
        parent = Path(name).expanduser().parent
        siblings = [str(p) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        close = difflib.get_close_matches(name, siblings, n=3)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"it is not a folder, and the published ones are {', '.join(known)}"


def _from_hub(repository: str, revision: str | None, name: str, offline: bool, files: list[str]) -> CheckpointSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def snapshot(local_files_only: bool) -> CheckpointSource:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=files, local_files_only=local_files_only
        )
        return CheckpointSource(name, Path(folder), Path(folder).name)

    try:
        cached = snapshot(local_files_only=True)
        lacks_code = set(CODE_FILES) <= set(files) and any(validate_code(cached.folder, trusted=True))
        if offline or not (validate_weight_files(cached.folder) or lacks_code):
            return cached
    except LocalEntryNotFoundError:
        if offline:
            raise VrbenchError(
                f"no checkpoint {name!r}: {_hint(name)}; it is not in the hub's cache either, and the network is off"
            ) from None
    try:
        return snapshot(local_files_only=False)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reraise_os_error(error)
        reason = str(error).strip().splitlines()[0]
        raise VrbenchError(f"no checkpoint {name!r}: {_hint(name)}; the hub gave none either ({reason})") from error
