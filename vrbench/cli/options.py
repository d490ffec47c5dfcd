"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

OURS, USERS = 1, 2
"""Exit codes: our fault, the user's fault."""


def from_config(context: typer.Context, file: Path | None) -> Path | None:
    """Make a YAML file's options the defaults of a command; what the command line says still wins."""
    if file is None or context.resilient_parsing:
        return file
    from vrbench.cli.config_file import read_config

    known = {p.name: p for p in context.command.params if p.name and p.name not in ("config", "help")}

    def judge(name: str, value: Any) -> str:
        try:
            known[name].process_value(context, value)
        except typer.BadParameter as error:
            return f"{name} is {value!r}: {error.message}"
        return ""

    context.default_map = {**(context.default_map or {}), **read_config(file, list(known), judge)}
    return file


CONFIG_HELP = "YAML file that gives any of these options; the command line wins."
Config = Annotated[Path | None, typer.Option(help=CONFIG_HELP, callback=from_config, is_eager=True)]
IncludePath = Annotated[Path | None, typer.Option(help="Folder with your own task files.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder with the hub's data sets; the network is left alone then.")]
Checkpoint = Annotated[str, typer.Argument(help="Checkpoint: pocket/NAME, a folder, or a hub id.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Checkpoint folder to make.")]
Id = Annotated[str | None, typer.Option("--id", help="Id of the new checkpoint; else the folder's name.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with a checkpoint; the record names it.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
