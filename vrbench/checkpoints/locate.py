"""Where a checkpoint's name leads: a published folder, a named backbone, a local folder, or a snapshot from a hub."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vrbench.checkpoints import random_shapes
from vrbench.checkpoints.remote_code import code_faults
from vrbench.checkpoints.safetensors_index import header_faults
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError

PUBLISHED = Path(__file__).parents[1] / "pocket" / "weights"
PREFIX = "pocket/"
HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
"""Owner and name of a repository, and the revision that may follow."""

HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
CODE = ["*.py"]
PICKLES = ["*.bin"]


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder and its name; revision and digest where the place it comes from states them."""

    id: str
    folder: Path
    revision: str = ""
    digest: str = ""


def _smollm2() -> Source:
    from vrbench.checkpoints.smollm2 import ID, backbone_digest, backbone_folder

    return Source(ID, backbone_folder(), digest=backbone_digest())


BACKBONES: dict[str, Callable[[], Source]] = {"smollm2-135m-instruct": _smollm2}


def published() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(PREFIX + marker.parent.name for marker in PUBLISHED.glob("*/vrbench.json"))


def find(
    name: str, *, near: Path | None = None, offline: bool = False, with_code: bool = False, pickles: bool = False
) -> Source:
    """The folder that a name stands for.

    Args:
        name: "pocket/full", "random/llava-1.5-7b", a backbone's name, a folder, or a hub id such as "org/model" or
            "org/model@revision".
        near: a folder that relative paths are tried against first: that of the checkpoint whose base is looked for.
        offline: look for hub ids in the local cache only; HF_HUB_OFFLINE=1 says the same.
        with_code: take a hub's Python files too, which are else left there.
        pickles: take a hub's *.bin files too; only `vrbench.conversion` reads them, as tensors.

    Raises:
        VrbenchError: there is no such checkpoint; the sentence offers near names.
    """
    if name in published():
        return Source(name, PUBLISHED / name.removeprefix(PREFIX))
    if name in BACKBONES:
        return BACKBONES[name]()
    if name.startswith(random_shapes.PREFIX):
        return Source(name, random_shapes.folder_of(name))
    for folder in ([near / name] if near else []) + [Path(name).expanduser()]:
        if name and folder.is_dir():
            return Source(folder.resolve().name, folder.resolve())
    hub_id = HUB_ID.fullmatch(name)
    if hub_id and not name.startswith(PREFIX):
        files = HUB_FILES + CODE * with_code + PICKLES * pickles
        return _from_hub(hub_id[1], hub_id[2], name, offline or _hub_is_off(), files)
    raise VrbenchError(f"no checkpoint {name!r}: {_hint(name)}")


def is_here(name: str) -> bool:
    """Whether a name stands for a checkpoint without asking a hub: a published or random one, or a folder."""
    ours = name in published() or name in BACKBONES or name.startswith(random_shapes.PREFIX)
    return ours or (bool(name) and Path(name).expanduser().is_dir())


def is_hub_id(name: str, *, near: Path | None = None) -> bool:
    """Whether a name without a revision can only stand for a repository of a hub."""
    found = HUB_ID.fullmatch(name)
    ours = name.startswith((PREFIX, random_shapes.PREFIX))
    folders = [Path(name).expanduser(), *([near / name] if near else [])]
    return bool(found and not found[2] and not ours and not any(folder.is_dir() for folder in folders))


def name_beside(name: str, out: Path) -> str:
    """How a lineage in the folder `out` names another checkpoint: a folder by its way from there."""
    if name in published() or name in BACKBONES or not Path(name).expanduser().is_dir():
        return name
    return os.path.relpath(Path(name).expanduser().resolve(), out.resolve())


def _hint(name: str) -> str:
    if Path(name).expanduser().is_file():
        return f"it is a file; name the folder that it lies in, {str(Path(name).parent)!r}"
    known = published()
    close = difflib.get_close_matches(name, known, n=3)
    if not close:
        parent = Path(name).expanduser().parent
        siblings = [str(p) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        close = difflib.get_close_matches(name, siblings, n=3)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"it is no folder, and the published ones are {', '.join(known)}"


def _lacks_code(folder: Path) -> bool:
    """Whether code that the folder needs is not there, since it was fetched without."""
    return any(True for _ in code_faults(folder, trusted=True))


def _hub_is_off() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _from_hub(repository: str, revision: str | None, name: str, offline: bool, files: list[str]) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def snapshot(local_files_only: bool) -> Source:
        place = snapshot_download(
            repository, revision=revision, allow_patterns=files, local_files_only=local_files_only
        )
        folder = Path(place)
        return Source(name, folder, folder.name)

    try:
        cached = snapshot(local_files_only=True)
        lacks_code = set(CODE) <= set(files) and _lacks_code(cached.folder)
        if offline or not (header_faults(cached.folder) or lacks_code):
            return cached
    except LocalEntryNotFoundError:
        if offline:
            raise VrbenchError(
                f"no checkpoint {name!r}: {_hint(name)}; it is not in the hub's cache either, and the network is off"
            ) from None
    try:
        return snapshot(local_files_only=False)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        os_errors.reraise_os_error(error)
        reason = str(error).strip().splitlines()[0]
        raise VrbenchError(f"no checkpoint {name!r}: {_hint(name)}; the hub gave none either ({reason})") from error
