"""Python files that come with a checkpoint: which would be run, and why they may not be (no torch; runs none).

A model that transformers does not know says in its settings (`auto_map`) which classes in which files it is made of.
They are run only where the user allows it; then every Python file of the folder is part of the checkpoint's digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vrbench.core.cache import file_digests
from vrbench.core.io import Json, read_json

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""What transformers' readers are told: nothing from the net, and no code but their own, without asking anyone."""

FLAG = "--trust-remote-code"
SETTINGS_FILES = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def needed_code(folder: Path) -> list[str]:
    """What the folder's settings name, such as "modeling_x.Model" or "org/name--modeling_x.Model"; empty if nothing.

    A model that transformers has itself needs none: its own code is used, whatever the settings name.
    """
    wanted = [read_json(folder / file).get("auto_map") for file in SETTINGS_FILES]
    targets = [target for said in wanted if isinstance(said, dict) for target in _targets(said)]
    if not targets or _is_known(str(read_json(folder / "config.json").get("model_type"))):
        return []
    return targets


def code_faults(folder: Path, trusted: bool) -> Iterator[str]:
    """Why the model in a folder cannot be made: its code may not be run, or is not there.

    Args:
        folder: of a whole model.
        trusted: whether the user allows that its code is run.
    """
    targets = needed_code(folder)
    if not targets:
        return
    if not trusted:
        family = read_json(folder / "config.json").get("model_type")
        yield (
            f"{folder} is of model_type {family!r}, which transformers does not know: it would run the folder's own "
            f"code ({'; '.join(dict.fromkeys(map(_told, targets)))}); vrbench runs no code that comes with a "
            f"checkpoint: read it and allow it by {FLAG} (`vrbench run`, `vrbench inspect`), or give the checkpoint "
            "in a layout of transformers' own, as `vrbench convert` makes it of LLaVA-1.5 and Bunny"
        )
        return
    for target in dict.fromkeys(targets):
        if "--" in target:
            yield f"{folder} needs {_told(target)}, which no digest of the folder covers; put the file into the folder"
        elif not (folder / _file(target)).is_file():
            yield f"{folder} needs {_told(target)}, which is not there"


def code_files(folder: Path) -> dict[str, str]:
    """Python file of a folder -> its sha256: all of them, since any may be imported by another."""
    paths = [path for path in sorted(folder.rglob("*.py")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): digest for path, digest in file_digests(paths).items()}


def _targets(auto_map: Json) -> Iterator[str]:
    for value in auto_map.values():
        yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str))


def _told(target: str) -> str:
    """Of "org/name--modeling_x.Model": which class in which file."""
    place = target.rpartition("--")[0]
    return f"{target.rpartition('.')[2]} in {_file(target)}{f' of {place}' if place else ''}"


def _file(target: str) -> str:
    return f"{target.rpartition('--')[2].rpartition('.')[0].replace('.', '/')}.py"


def _is_known(family: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return family in CONFIG_MAPPING_NAMES
