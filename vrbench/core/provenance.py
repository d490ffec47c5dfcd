"""How a run was made: versions, commit, machine, command."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench import __version__
from vrbench.core.schemas import Answered, Provenance

if TYPE_CHECKING:
    import torch

    from vrbench.models.base_vlm import BaseVLM

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "peft", "lm_eval", "lmms_eval", "datasets", "pillow",
    "numpy", "scipy",
)  # fmt: skip
"""Libraries that decide the numbers."""

ANSWERING: dict[str, tuple[str, ...]] = {
    "loglikelihood": ("torch", "transformers"),
    "text": ("torch", "transformers", "tokenizers"),
    "images": ("torch", "transformers", "tokenizers", "pillow", "numpy"),
}
"""Kind of request -> libraries that touch its answer. Token ids are in the request; what decodes them is not."""

PEFT = ("peft",)
"""Touches every answer of a checkpoint with an adapter, which it merges."""


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Package -> installed version, of those that are installed."""
    return {name: found for name in packages if (found := installed(name))}


def environment(device: str, has_adapter: bool) -> dict[str, str]:
    """What decides the answers of a run besides checkpoint, tasks and settings: libraries and kind of device.

    The harness is not in it: each task has its own.

    Args:
        device: "cpu" or "cuda".
        has_adapter: whether the checkpoint is made with an adapter.
    """
    return {"device": device, **versions_of((*ANSWERING["images"], *(PEFT if has_adapter else ())))}


def provenance(
    vlm: BaseVLM, *, answered: Sequence[Answered], command: str, started: str, seconds: float, images: str = ""
) -> Provenance:
    """What a record says of how it was made.

    Args:
        answered: when and with what its answers were computed.
        command: the command line, or "python".
        started: UTC, ISO 8601.
        seconds: wall time of the whole run of this checkpoint.
        images: what is said of how images are shown.
    """
    commit, dirty = own_commit()
    return Provenance(
        vrbench=__version__,
        commit=commit,
        dirty=dirty,
        packages=versions_of(PACKAGES),
        python=platform.python_version(),
        platform=platform.platform(),
        device=device_name(vlm),
        image_processor=vlm.image_processor_name,
        images=images,
        answered=tuple(answered),
        command=command,
        started=started,
        seconds=round(seconds, 3),
    )


@cache
def installed(package: str) -> str:
    """Version of an installed package; empty when there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def own_commit() -> tuple[str, bool | None]:
    """The `commit_of` of the checkout that this process runs from, as it was when first asked.

    Ask before the work begins: what is committed later is not what this process runs.
    """
    return commit_of(Path(__file__).resolve().parents[2])


def commit_of(root: Path) -> tuple[str, bool | None]:
    """The commit of the checkout at a folder and whether tracked files were changed; ("", None) outside of one.

    What `git archive` made of a commit names it too, but nobody can tell whether its files were changed since.
    """
    if not (root / ".git").exists():
        return _archived(root / ".git_archival.txt"), None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        return commit, bool(subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return "", None


def _archived(file: Path) -> str:
    """The commit that `git archive` writes into a file; "" where there is none."""
    found = file.read_text(encoding="ascii", errors="replace").strip() if file.is_file() else ""
    return found if re.fullmatch(r"[0-9a-f]{40}", found) else ""


def device_name(vlm: BaseVLM) -> str:
    """Where a model is computed."""
    return name_of(vlm.device)


def name_of(device: torch.device) -> str:
    """The card, or the processor with the threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
