"""Commands that train."""

from __future__ import annotations

from typing import Annotated

import typer

from vrbench.cli.options import Device, Out


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", show_default=False)],
    out: Out,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key. May be repeated.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Train a checkpoint after a recipe."""
    from vrbench.config import read_overrides
    from vrbench.train import train as train_recipe

    print(f"checkpoint: {train_recipe(recipe, out, read_overrides(changes or []), device)}")
