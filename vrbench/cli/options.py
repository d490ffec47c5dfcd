"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def from_config(context: typer.Context, file: Path | None) -> Path | None:
    """Make a YAML file's options the defaults of a command; options on the command line override them."""
    if file is None or context.resilient_parsing:
        return file
    from vrbench.cli.config_file import read_config

    known = {p.name: p for p in context.command.params if p.name and p.name not in ("config", "help")}

    def check(name: str, value: Any) -> str:
        try:
            known[name].process_value(context, value)
        except typer.BadParameter as error:
            return f"{name} is {value!r}: {error.message}"
        return ""

    context.default_map = {**(context.default_map or {}), **read_config(file, list(known), check)}
    return file


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
