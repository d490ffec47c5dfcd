"""What a checkpoint folder's files are: their digest as one, and whether they are those that its lineage lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vrbench.checkpoints.lineage import MARKER
from vrbench.core.cache import file_digests
from vrbench.core.io import digest_of
from vrbench.core.schemas import Lineage

TEMPLATES = "additional_chat_templates"
"""Folder with the chat templates beside the default one, each a file."""

# Beside the weights, what decides a model's answers.
SETTINGS = (
    "config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def digest_faults(folder: Path, lineage: Lineage | None, files: list[str]) -> list[str]:
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


def settings_of(folder: Path) -> list[str]:
    """The files beside a folder's weights that decide answers and are there."""
    named = [*SETTINGS, *sorted(f"{TEMPLATES}/{file.name}" for file in (folder / TEMPLATES).glob("*.jinja"))]
    return [name for name in named if (folder / name).is_file()]


def folder_digest(folder: Path, weights: list[str], extra: dict[str, Any] | None = None) -> str:
    """sha256 over a folder's weights and settings and what lies below it; not over its name or its lineage's prose."""
    present = [*(name for name in weights if (folder / name).is_file()), *settings_of(folder)]
    digests = file_digests(folder / name for name in present)
    return digest_of({"files": {name: digests[folder / name] for name in present}, **(extra or {})})
