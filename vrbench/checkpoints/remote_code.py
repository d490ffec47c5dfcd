"""Python files that come with a checkpoint: which would be run, and whether they may be (no torch; runs none).

A model that transformers does not know names in its settings (`auto_map`) the classes and files that it is made of.
They are run only where the user allows it; then every Python file of the folder is part of the checkpoint's digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vrbench.core.cache import file_digests
from vrbench.core.io import read_json

LOCAL_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Keywords for transformers' `from_pretrained`: no network, and no code but its own, without asking the user."""

TRUST_FLAG = "--trust-remote-code"
AUTO_MAP_FILES = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def required_code(folder: Path) -> list[str]:
    """Return the classes that the folder's settings name, such as "modeling_x.Model" or "org/name--modeling_x.Model".

    Empty for a model that transformers has itself: its own code is used, whatever the settings name.
    """
    maps = [read_json(folder / file).get("auto_map") for file in AUTO_MAP_FILES]
    values = [value for named in maps if isinstance(named, dict) for value in named.values()]
    targets = [t for value in values for t in (value if isinstance(value, list) else [value]) if isinstance(t, str)]
    if not targets or _is_known(str(read_json(folder / "config.json").get("model_type"))):
        return []
    return targets


def validate_code(folder: Path, trusted: bool) -> Iterator[str]:
    """Yield why the model in a folder cannot be made: its code may not be run, or is missing.

    Args:
        folder: of a complete model.
        trusted: whether the user allows its code to be run.
    """
    targets = list(dict.fromkeys(required_code(folder)))
    if not targets:
        return
    if not trusted:
        family = read_json(folder / "config.json").get("model_type")
        yield (
            f"{folder} is of model_type {family!r}, which transformers does not know: it would run the folder's own "
            f"code ({'; '.join(dict.fromkeys(map(_describe, targets)))}); vrbench runs no code that comes with a "
            f"checkpoint: read it and allow it by {TRUST_FLAG} (`vrbench run`, `vrbench inspect`), or give the "
            "checkpoint in a layout of transformers' own, as `vrbench convert` makes it of LLaVA-1.5 and Bunny"
        )
        return
    for target in targets:
        if "--" in target:
            yield f"{folder} needs {_describe(target)}, which no digest covers; put the file into the folder"
        elif not (folder / _file(target)).is_file():
            yield f"{folder} needs {_describe(target)}, which is not there"


def code_files(folder: Path) -> dict[str, str]:
    """Return Python file of a folder -> its sha256: all of them, since any may be imported by another."""
    paths = [path for path in sorted(folder.rglob("*.py")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): digest for path, digest in file_digests(paths).items()}


def _describe(target: str) -> str:
    """Return which class in which file "org/name--modeling_x.Model" is."""
    repository = target.rpartition("--")[0]
    return f"{target.rpartition('.')[2]} in {_file(target)}{f' of {repository}' if repository else ''}"


def _file(target: str) -> str:
    return f"{target.rpartition('--')[2].rpartition('.')[0].replace('.', '/')}.py"


def _is_known(family: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return family in CONFIG_MAPPING_NAMES
