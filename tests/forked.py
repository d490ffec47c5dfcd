"""Processes of their own, to be killed or to be one of several: forks of the tests' own process.

They need not import torch and the harnesses again, which takes most of the time of a small piece of work.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from typing import Any


def start(work: Callable[..., None], *arguments: Any, environment: dict[str, str] | None = None) -> ForkProcess:
    """Begin work in such a process.

    Args:
        work: a module's function.
        environment: variables set there before anything else.
    """
    process = multiprocessing.get_context("fork").Process(target=_do, args=(environment or {}, work, arguments))
    process.start()
    return process


def ended(process: ForkProcess, seconds: float = 120) -> int | None:
    """Wait for its end; its exit code, negative if a signal ended it, None if it is still at work."""
    process.join(seconds)
    return process.exitcode


def _do(environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    work(*arguments)
