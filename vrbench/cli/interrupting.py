"""Ctrl-C: one line that says how to go on, and exit code 130, as shells have it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import typer

INTERRUPTED = 130
"""128 + SIGINT."""


def stopping(command: Callable[..., None], how: str) -> Callable[..., None]:
    """A command that ends quietly at Ctrl-C.

    Args:
        command: what typer calls; its signature stays.
        how: what is said of going on.
    """

    @functools.wraps(command)
    def called(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
        except KeyboardInterrupt:
            print(f"\nvrbench: stopped; {how}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    return called
