"""Options that several commands share, options from a YAML file, and overrides as KEY=VALUE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vrbench.core.errors import VrbenchError, raise_errors, suggest_names
from vrbench.core.io import parse_file


def from_config(context: typer.Context, file: Path | None) -> Path | None:
    """Make a YAML file's options the defaults of a command; options on the command line override them."""
    if file is None or context.resilient_parsing:
        return file
    known = {p.name: p for p in context.command.params if p.name and p.name not in ("config", "help")}

    def check(name: str, value: Any) -> str:
        try:
            known[name].process_value(context, value)
        except typer.BadParameter as error:
            return f"{name} is {value!r}: {error.message}"
        return ""

    context.default_map = {**(context.default_map or {}), **read_config(file, list(known), check)}
    return file


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
    raw = parse_file(file, f"config {str(file)!r}", "YAML")
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


Config = Annotated[
    Path | None,
    typer.Option(
        help="YAML file with any of these options; options on the command line override it.",
        callback=from_config,
        is_eager=True,
    ),
]
IncludePath = Annotated[Path | None, typer.Option(help="Folder with your own task files.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of downloaded data sets; turns off the network.")]
Checkpoint = Annotated[str, typer.Argument(help="Checkpoint: pocket/NAME, a folder, or a hub id.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Checkpoint folder to write.")]
Id = Annotated[str | None, typer.Option("--id", help="Id of the new checkpoint; default: the folder's name.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code from the checkpoint; the record lists it.")
]
TrustTaskCode = Annotated[
    bool, typer.Option("--trust-task-code", help="Run Python scorers beside task files of --include-path.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
