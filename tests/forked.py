"""Processes of their own, to be killed or to be one of several, that need not import torch and the harnesses again.

They are copies of one process (multiprocessing's fork server) that imported them and did nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

SLOW = ["tests.training.small_training", "vrbench.evaluation.evaluate", "vrbench.evaluation.lm_eval_adapter",
        "vrbench.evaluation.lmms_eval_adapter", "vrbench.models.load", "vrbench.evaluation.engine"]  # fmt: skip


def start(work: Callable[..., None], *arguments: Any, environment: dict[str, str] | None = None) -> ForkServerProcess:
    """Begin work in such a process.

    Args:
        work: a module's function.
        environment: variables set there before anything else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SLOW)
    process = context.Process(target=_do, args=({**os.environ, **(environment or {})}, work, arguments))
    process.start()
    return process


def ended(process: ForkServerProcess, seconds: float = 120) -> int | None:
    """Wait for its end; its exit code, negative if a signal ended it, None if it is still at work."""
    process.join(seconds)
    return process.exitcode


def _do(environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)
