"""Options given in other ways than one by one: a YAML file, or KEY=VALUE."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import read_text


def read_config(
    file: Path, known: Sequence[str], judge: Callable[[str, Any], str] = lambda name, value: ""
) -> dict[str, Any]:
    """The options in a YAML file, by their names with underscores ("batch-size" and "batch_size" are the same).

    A list of tasks becomes the comma-separated text that the command line has; one checkpoint becomes a list.

    Args:
        known: the options that there are.
        judge: why an option cannot have a value; empty when it can.

    Raises:
        VrbenchError: the file cannot be read, or names options that do not exist (the nearest is offered for each) or
            values that they cannot have; all at once.
    """
    import yaml

    from vrbench.core.io import load_yaml

    try:
        raw = load_yaml(read_text(file))
    except (OSError, UnicodeDecodeError) as error:
        raise VrbenchError(f"config {str(file)!r} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise VrbenchError(f"config {str(file)!r} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise VrbenchError(f"config {str(file)!r} holds no mapping of options to values")
    given = {str(key).replace("-", "_"): value for key, value in raw.items()}
    if isinstance(given.get("ckpt"), str):
        given["ckpt"] = [given["ckpt"]]
    if isinstance(given.get("tasks"), list):
        given["tasks"] = ",".join(str(name) for name in given["tasks"])
    given = {name: value for name, value in given.items() if value is not None}
    found = [judge(name, value) if name in known else _unknown(name, known) for name, value in given.items()]
    raise_errors(f"config {str(file)!r}: {fault}" for fault in found if fault)
    return given


def read_overrides(pairs: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE texts as a mapping.

    Raises:
        VrbenchError: a text has no "=" or nothing before it.
    """
    split = [(pair, *pair.partition("=")) for pair in pairs]
    raise_errors(
        f"--set {pair!r} cannot be read; write KEY=VALUE" for pair, key, sign, _ in split if not (key and sign)
    )
    return {key.strip(): value for _, key, _, value in split}


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"no option {name!r}; {hint}"
