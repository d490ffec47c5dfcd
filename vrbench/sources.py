"""Where a checkpoint's name leads: a published folder, a named backbone, a local folder, or a snapshot from a hub."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vrbench.errors import VrbenchError
from vrbench.headers import header_faults
from vrbench.models import random_shapes

PUBLISHED = Path(__file__).parent / "pocket" / "weights"
PREFIX = "pocket/"
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder and its name; revision and digest where the place it comes from states them."""

    id: str
    folder: Path
    revision: str = ""
    digest: str = ""


def _smollm2() -> Source:
    from vrbench.models.smollm2 import ID, backbone_digest, backbone_folder

    return Source(ID, backbone_folder(), digest=backbone_digest())


BACKBONES: dict[str, Callable[[], Source]] = {"smollm2-135m-instruct": _smollm2}


def published() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(PREFIX + marker.parent.name for marker in PUBLISHED.glob("*/vrbench.json"))


def find(name: str, *, near: Path | None = None, offline: bool = False) -> Source:
    """The folder that a name stands for.

    Args:
        name: "pocket/full", "random/llava-1.5-7b", a backbone's name, a folder, or a hub id such as "org/model" or
            "org/model@revision".
        near: a folder that relative paths are tried against first: that of the checkpoint whose base is looked for.
        offline: look for hub ids in the local cache only; HF_HUB_OFFLINE=1 says the same.

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
    hub_id = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?", name)
    if hub_id and not name.startswith(PREFIX):
        return _from_hub(hub_id[1], hub_id[2], name, offline or _hub_is_off())
    raise VrbenchError(f"no checkpoint {name!r}: {_hint(name)}")


def name_beside(name: str, out: Path) -> str:
    """How a lineage in the folder `out` names another checkpoint: a folder by its way from there."""
    if name in published() or name in BACKBONES or not Path(name).expanduser().is_dir():
        return name
    return os.path.relpath(Path(name).expanduser().resolve(), out.resolve())


def _hint(name: str) -> str:
    known = published()
    close = difflib.get_close_matches(name, known, n=3)
    if not close:
        parent = Path(name).expanduser().parent
        siblings = [str(p) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        close = difflib.get_close_matches(name, siblings, n=3)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"it is no folder, and the published ones are {', '.join(known)}"


def _hub_is_off() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _from_hub(repository: str, revision: str | None, name: str, offline: bool) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def snapshot(local_files_only: bool) -> Source:
        folder = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=HUB_FILES, local_files_only=local_files_only
            )
        )
        return Source(name, folder, folder.name)

    try:
        cached = snapshot(local_files_only=True)
        if offline or not header_faults(cached.folder):
            return cached
    except LocalEntryNotFoundError:
        if offline:
            raise VrbenchError(
                f"no checkpoint {name!r}: {_hint(name)}; it is not in the hub's cache either, and the network is off"
            ) from None
    try:
        return snapshot(local_files_only=False)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VrbenchError(f"no checkpoint {name!r}: {_hint(name)}; the hub gave none either ({reason})") from error
