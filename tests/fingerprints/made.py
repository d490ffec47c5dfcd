"""What the fingerprints are made with: a stand-in for the engine, a tiny model, tasks over made-up items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from benchmarks import documents
from tests import tiny
from tests.evaluation import made_text
from tests.task_data import load_task
from tests.tiny import scratch
from vrbench.evaluation.built_task import SubtaskData, select_items
from vrbench.evaluation.requests import LogLikelihoodRequest, Request
from vrbench.models import llava_model, load
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

ITEMS = 24


class Says:
    """Stands in for the engine: answers by what a function says, and keeps what it is asked."""

    def __init__(self, model: Any, answer: Callable[[Any], Any]) -> None:
        self.vlm = model
        self.said = answer
        self.asked: list[Any] = []

    def answer(self, requests: Sequence[Any], title: str = "") -> list[Any]:
        """The answers in the order of the requests."""
        self.asked += requests
        return [self.said(request) for request in requests]


@cache
def small_llava() -> llava_model.LlavaModel:
    """A tiny LLaVA with random weights, which is asked for its prompts and tokens alone."""
    folder = tiny.save_llava(scratch() / "small" / "llava")
    found = load.load_vlm(resolve_checkpoint(str(folder)))
    assert isinstance(found, llava_model.LlavaModel)
    return found


@cache
def parts_of(task: str, n: int = ITEMS) -> tuple[TaskSpec, list[SubtaskData]]:
    """A task with some made-up items."""
    spec, root = registry.load()[task], scratch() / f"{task} {n}"
    limit = None
    if task in documents.SETS:
        documents.write(spec, root, n)
    elif spec.data.kind == "hub":
        made_text.put(root, spec)
    else:
        limit = n
    return spec, select_items(spec, load_task(spec, root), limit, 0)


def written(request: Request) -> Any:
    if isinstance(request, LogLikelihoodRequest):
        return [list(request.context), list(request.continuation)]
    sizes = [list(one.load().size) for one in request.images]
    return [request.prompt, sizes, request.max_new_tokens, list(request.until)]
