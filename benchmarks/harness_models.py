"""Models for the harnesses' own evaluators, answered by vrbench's engine: what its scores are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from lm_eval.api.model import LM
from lmms_eval.api.model import lmms

from vrbench.evaluation.harness_adapter import HarnessAdapter
from vrbench.evaluation.lm_eval_adapter import LmEvalAdapter
from vrbench.evaluation.lmms_eval_adapter import LmmsEvalAdapter


def answers(adapter: HarnessAdapter, engine: Any, instances: Sequence[Any], tasks: Sequence[Any]) -> list[Any]:
    """Return the engine's responses to a harness's instances."""
    requests = adapter.requests(list(zip(tasks, instances, strict=True)))
    said = iter(engine.answer([one for of in requests for one in of]))
    return [adapter.response(one, [next(said) for _ in of]) for one, of in zip(instances, requests, strict=True)]


class LmEvalModel(LM):
    """A model for lm-eval."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine, self.adapter = engine, LmEvalAdapter(engine.vlm)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        return answers(self.adapter, self.engine, requests, [None] * len(requests))

    loglikelihood_rolling = generate_until = loglikelihood


class LmmsEvalModel(lmms):
    """A model for lmms-eval.

    Attributes:
        tasks: name -> task, for what a chat class is shown; without them it is shown the task's text.
    """

    is_simple = True

    def __init__(self, engine: Any, tasks: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.engine, self.adapter, self.tasks = engine, LmmsEvalAdapter(engine.vlm), dict(tasks or {})

    def generate_until(self, requests: list[Any]) -> list[Any]:
        return answers(self.adapter, self.engine, requests, [self._task(one.args[4]) for one in requests])

    def _task(self, name: str) -> Any:
        text_only = SimpleNamespace(doc_to_messages=None)
        return self.tasks.get(name) or SimpleNamespace(dataset=self.task_dict[name], config=text_only)

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    def clean(self) -> None:
        """Keep the model: the default deletes it after one task."""
