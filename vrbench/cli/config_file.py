"""Options from a YAML file, and overrides as KEY=VALUE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from vrbench.core.errors import VrbenchError, raise_errors, suggest_names
from vrbench.core.io import load_yaml, read_text


def read_config(
    file: Path, known: Sequence[str], validate: Callable[[str, Any], str] = lambda name, value: ""
) -> dict[str, Any]:
    """Return the options in a YAML file by their names; "batch-size" and "batch_size" are the same.

    A list of tasks becomes the comma-separated text of the command line; one checkpoint becomes a list.

    Args:
        file: the file.
        known: names of all options.
        validate: (name, value) -> why the option cannot have the value, or an empty text.

    Raises:
        VrbenchError: the file cannot be read, or has unknown options or invalid values, all together.
    """
    try:
        raw = load_yaml(read_text(file))
    except (OSError, UnicodeDecodeError) as error:
        raise VrbenchError(f"config {str(file)!r} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise VrbenchError(f"config {str(file)!r} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise VrbenchError(f"config {str(file)!r} is not a mapping of options to values")
    given = {str(key).replace("-", "_"): value for key, value in raw.items() if value is not None}
    if isinstance(given.get("ckpt"), str):
        given["ckpt"] = [given["ckpt"]]
    if isinstance(given.get("tasks"), list):
        given["tasks"] = ",".join(str(name) for name in given["tasks"])
    errors = [
        validate(name, value) if name in known else f"no option {name!r}; {suggest_names(name, known)}"
        for name, value in given.items()
    ]
    raise_errors(f"config {str(file)!r}: {error}" for error in errors if error)
    return given


def read_overrides(pairs: Iterable[str]) -> dict[str, str]:
    """Return KEY=VALUE texts as a mapping.

    Raises:
        VrbenchError: a text has no "=" or nothing before it.
    """
    split = [(pair, *pair.partition("=")) for pair in pairs]
    raise_errors(f"--set {pair!r} is invalid; use KEY=VALUE" for pair, key, sign, _ in split if not (key and sign))
    return {key.strip(): value for _, key, _, value in split}
