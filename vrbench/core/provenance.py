"""How a run was made: package versions, the commit of the checkout, device and command."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vrbench.core.schemas import Provenance
from vrbench.core.version import __version__

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "peft", "lm_eval", "lmms_eval", "datasets", "pillow",
    "numpy", "scipy",
)  # fmt: skip
"""Packages whose versions a record states."""

ANSWER_PACKAGES: dict[str, tuple[str, ...]] = {
    "loglikelihood": ("torch", "transformers"),
    "text": ("torch", "transformers", "tokenizers"),
    "images": ("torch", "transformers", "tokenizers", "pillow", "numpy"),
}
"""Kind of request -> packages that determine its answer. Token ids are in the request; what decodes them is not."""

ADAPTER_PACKAGES = ("peft",)
"""Packages that determine every answer of a checkpoint with an adapter, which is merged by PEFT."""

VRBENCH, VLLM = "vrbench", "vllm"
BACKEND_PACKAGES: dict[str, tuple[str, ...]] = {VRBENCH: (), VLLM: ("vllm",)}
"""What computes answers, vrbench's own engine or vLLM -> packages that determine every answer besides the others."""


def now() -> str:
    """Return the time in UTC, as it is stored with answers and records."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return package -> version of those packages that are installed."""
    return {name: found for name in packages if (found := package_version(name))}


@cache
def package_version(package: str) -> str:
    """Return the version of an installed package; empty when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def answer_packages(has_adapter: bool, backend: str = VRBENCH) -> dict[str, str]:
    """Return the versions of all packages that determine a checkpoint's answers, with PEFT where it has an adapter."""
    adapter = ADAPTER_PACKAGES if has_adapter else ()
    return package_versions((*ANSWER_PACKAGES["images"], *adapter, *BACKEND_PACKAGES[backend]))


def make_provenance(device: str, seconds: float, **stated: Any) -> Provenance:
    """Return what a record states of how it was made: the versions and machine of this process, and `stated` fields."""
    commit, dirty = own_commit()
    return Provenance(
        vrbench=__version__, commit=commit, dirty=dirty, packages=package_versions(PACKAGES),
        python=platform.python_version(), platform=platform.platform(), device=device, seconds=round(seconds, 3),
        **stated,
    )  # fmt: skip


@cache
def own_commit() -> tuple[str, bool | None]:
    """Return `commit_of` the checkout that this process runs from, as it was when first called.

    Call it before the work begins: what is committed later is not what this process runs.
    """
    return commit_of(Path(__file__).resolve().parents[2])


def commit_of(root: Path) -> tuple[str, bool | None]:
    """Return the commit of a checkout and whether tracked files were changed; ("", None) outside of one.

    The output of `git archive` names its commit too, but not whether files were changed since.
    """
    if not (root / ".git").exists():
        file = root / ".git_archival.txt"
        archived = file.read_text(encoding="ascii", errors="replace").strip() if file.is_file() else ""
        return archived if re.fullmatch(r"[0-9a-f]{40}", archived) else "", None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        return commit, bool(subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return "", None
