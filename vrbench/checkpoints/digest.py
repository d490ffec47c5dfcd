"""The digest of a checkpoint folder's files, and whether they are those that its lineage lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vrbench.checkpoints.lineage import LINEAGE_FILE
from vrbench.core.cache import file_digests
from vrbench.core.io import digest_of
from vrbench.core.schemas import Lineage

TEMPLATES = "additional_chat_templates"
"""Folder with the chat templates other than the default one, each a file."""

SETTINGS = (
    "config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""Files other than the weights that determine a model's answers."""


def validate_digests(folder: Path, lineage: Lineage | None, files: list[str]) -> list[str]:
    """Return weight files that are missing, unlisted, or not those that vrbench.json lists."""
    if lineage is None:
        return []
    missing = [name for name in lineage.weights if not (folder / name).is_file()]
    errors = [f"{folder / name} is missing; {LINEAGE_FILE} lists it" for name in missing]
    errors += [f"{folder / name} is not listed in {LINEAGE_FILE}" for name in files if name not in lineage.weights]
    listed = {folder / name: digest for name, digest in lineage.weights.items() if name not in missing}
    changed = [path for path, digest in file_digests(listed).items() if digest != listed[path]]
    return errors + [f"{path} is not what {LINEAGE_FILE} says: its sha256 differs" for path in changed]


def settings_files(folder: Path) -> list[str]:
    """Return the names of a folder's files, other than the weights, that determine answers."""
    named = [*SETTINGS, *sorted(f"{TEMPLATES}/{file.name}" for file in (folder / TEMPLATES).glob("*.jinja"))]
    return [name for name in named if (folder / name).is_file()]


def folder_digest(folder: Path, weights: list[str], extra: dict[str, Any] | None = None) -> str:
    """Return the sha256 over a folder's weights and settings and `extra`; not over its name or its lineage."""
    present = [*(name for name in weights if (folder / name).is_file()), *settings_files(folder)]
    digests = file_digests(folder / name for name in present)
    return digest_of({"files": {name: digests[folder / name] for name in present}, **(extra or {})})
