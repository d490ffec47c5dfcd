"""The protocol that the adapters of lm-eval and lmms-eval implement."""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vrbench.evaluation.requests import Request, Response
from vrbench.tasks.scoring import Aggregates

if TYPE_CHECKING:
    from datasets import DatasetDict

FEWSHOT_SEED = 1234
"""The default of both harnesses."""

NOISY_LOGGERS = ("lmms_eval", "utils", "en_utils")
"""Loggers of lmms-eval; the names of its tasks' modules are those that its YAML files give them."""


class HarnessAdapter(Protocol):
    """One harness: its task files, task objects, and requests to one loaded model.

    It is made without a model where only tasks are built or scored.
    """

    def read_config(self, path: str, /) -> dict[str, Any]:
        """Return the content of one of the harness's own YAML files, by its path under the harness's tasks folder."""

    def make_task(self, config: Mapping[str, Any], rows: DatasetDict, fewshot: int, model_name: str = "", /) -> Any:
        """Return the harness's task object over rows in memory; nothing is downloaded.

        Args:
            config: content of a task's YAML file, with `test_split` and `fewshot_split` naming splits of the rows.
            rows: split -> rows.
            fewshot: examples in the prompt.
            model_name: name of the harness's model class whose model-specific settings apply.
        """

    def group_scores(self, subtasks: Aggregates, /) -> dict[str, float]:
        """Return the harness's aggregates of a group of subtasks by metric; empty where it has no common rule."""

    def prompt_digest(self, instance: Any, requests: Sequence[Request] = (), /) -> str | None:
        """Return the sha256 over what a model is shown.

        Args:
            requests: to the model; without them the digest is None where it depends on the model.
        """

    def requests(self, instances: Sequence[tuple[Any, Any]], /) -> list[list[Request]]:
        """Return the requests to the model that answer each of the harness's instances, mostly a single one.

        Args:
            instances: all those of a task, each with the harness's task object.
        """

    def response(self, instance: Any, responses: Sequence[Any], /) -> Response:
        """Return what the harness gets for an instance, from the responses to its requests."""


@contextlib.contextmanager
def silence_output() -> Iterator[None]:
    """Suppress the output, logs and progress bars of the harnesses; exceptions pass through."""
    from loguru import logger

    for name in NOISY_LOGGERS:
        logger.disable(name)
    lm_eval = logging.getLogger("lm_eval")
    if lm_eval.level != logging.ERROR:  # setting it again empties the caches of all loggers, slow for every single item
        lm_eval.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore the state of `random` afterwards."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
