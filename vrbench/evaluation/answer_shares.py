"""A checkpoint's loaded engine, and what a process other than rank 0 does with it: answer its share of all requests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.core.errors import VrbenchError
from vrbench.core.provenance import own_commit
from vrbench.evaluation.broadcast_store import open_store
from vrbench.evaluation.failures import free_memory
from vrbench.evaluation.ranks import Ranks
from vrbench.evaluation.run_plan import PlannedTask, RunPlan
from vrbench.evaluation.shared_work import SharedWork

if TYPE_CHECKING:
    from vrbench.evaluation.engine import InferenceEngine

_log = logging.getLogger(__name__)


def answer_shares(run_plan: RunPlan, shared: SharedWork) -> None:
    """Answer this process's share of all checkpoints and tasks.

    No error ends the process, since torchrun would end rank 0 with it: rank 0 answers what is left, and if it finds the
    same error, it records it.
    """
    for checkpoint in run_plan.checkpoints:
        with _logged_errors(run_plan.ranks, checkpoint.id):
            if run_plan.finished_run(checkpoint) is not None:
                continue
            with loaded_engine(run_plan, checkpoint, shared) as engine:
                for task in run_plan.tasks:
                    with _logged_errors(run_plan.ranks, f"{checkpoint.id} {task.spec.id}"):
                        _answer_share(task, engine, shared)
        free_memory()


def _answer_share(task: PlannedTask, engine: InferenceEngine, shared: SharedWork) -> None:
    *_, requests = shared.requests.build_requests(task.spec, task.subtasks, engine.vlm)
    engine.answer_share(list(chain.from_iterable(requests)))


@contextmanager
def _logged_errors(ranks: Ranks, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, VrbenchError) else f"{type(error).__name__}: {error}"
        _log.error("vrbench: process %d leaves %s to process 0: %s", ranks.rank, what, reason)
        _log.debug("error of process %d", ranks.rank, exc_info=True)


@contextmanager
def loaded_engine(run_plan: RunPlan, checkpoint: Checkpoint, shared: SharedWork) -> Iterator[InferenceEngine]:
    """Load a checkpoint, and open its answers."""
    from vrbench.evaluation.backends import loaded_vlm
    from vrbench.evaluation.engine import InferenceEngine

    config, ranks = run_plan.config, run_plan.ranks
    own_commit()  # before the weights are loaded: what is committed during the run did not compute the answers
    device, bases = ranks.device(config.device), shared.bases(checkpoint)
    with (
        open_store(run_plan.store_file(checkpoint), checkpoint.digest, ranks) as store,
        ranks.fatal_errors(),
        loaded_vlm(checkpoint, config, device, bases) as vlm,
    ):
        yield InferenceEngine(
            vlm, store, config.batch_size, shared.features, config.show_progress, config.gpu_memory, ranks,
            config.deterministic,
        )  # fmt: skip
