"""Failures of single checkpoints in a run of several."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.schemas import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A checkpoint that could not be loaded or evaluated.

    Attributes:
        checkpoint: its id.
        reason: one sentence; the exception itself would hold the weights in memory.
        is_internal: whether it is an error in vrbench, and not in the checkpoint, the memory or the disk.
    """

    checkpoint: str
    reason: str
    is_internal: bool


class PartialFailureError(MultipleErrors):
    """Some of several checkpoints could not be evaluated; the others were, and their records are written.

    Attributes:
        runs: of the others, the baseline's first if it is there.
        failed: those that could not be measured.
        baseline_failed: whether the baseline is among those, so that nothing can be compared.
    """

    def __init__(self, runs: Sequence[Run], failed: Sequence[Failure], baseline_failed: bool) -> None:
        self.runs, self.failed, self.baseline_failed = list(runs), tuple(failed), baseline_failed
        super().__init__(f"{one.checkpoint} could not be measured: {one.reason}" for one in failed)


def failure_of(name: str, error: Exception) -> Failure:
    """Return why a checkpoint could not be evaluated; an internal error is logged with its traceback."""
    if isinstance(error, VrbenchError):
        return Failure(name, str(error), is_internal=False)
    from vrbench.core.device import is_out_of_memory

    if is_out_of_memory(error):
        return Failure(name, f"it does not fit into memory ({type(error).__name__}: {error})", is_internal=False)
    _log.exception("checkpoint %s could not be measured", name)
    return Failure(name, f"{type(error).__name__}: {error}", is_internal=True)


def free_memory() -> None:
    """Release what a checkpoint has left on the device: its modules refer to each other, and are not freed at once."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
