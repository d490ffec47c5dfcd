"""lm-eval: its tasks over rows in memory, and requests as its `HFLM` makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lm_eval.utils
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import aggregate_subtask_metrics
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import has_bos_prefix
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from vrbench.core import jinja_sandbox
from vrbench.core.io import digest_of
from vrbench.evaluation.harness_adapter import FEWSHOT_SEED
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, Response, stop_criteria
from vrbench.tasks.scoring import Aggregates
from vrbench.tasks.untrusted import harness_file

if TYPE_CHECKING:
    from datasets import DatasetDict

    from vrbench.models.base_vlm import BaseVLM

lm_eval.utils.env = jinja_sandbox.sandbox_like(lm_eval.utils.env)  # it renders prompts, choices and targets

DEFAULT_MAX_NEW_TOKENS = 256
"""Tokens, where a task names no other number: lm-eval's default for Hugging Face models."""


class LmEvalTask(ConfigurableTask):
    """lm-eval's task over rows that are in memory."""

    def __init__(self, config: Mapping[str, Any], rows: DatasetDict, fewshot: int) -> None:
        self._rows = rows
        super().__init__(config={**config, "training_split": None, "validation_split": None})
        self.set_config("num_fewshot", fewshot)
        self.set_fewshot_seed(FEWSHOT_SEED)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the rows as given."""
        self.dataset = self._rows


class LmEvalAdapter(TemplateLM):
    """lm-eval, whose prompts are the same for all models; see `harness_adapter.HarnessAdapter`.

    Requests are made by lm-eval's own tokenization: the adapter stands in for a model whose "answers" are the requests.
    """

    def __init__(self, vlm: BaseVLM | None = None) -> None:
        super().__init__()
        if vlm is not None:
            self._vlm, self.tokenizer = vlm, vlm.tokenizer

    def read_config(self, path: str) -> dict[str, Any]:
        return dict(load_yaml(harness_file("lm-eval", path)))

    def make_task(self, config: Mapping[str, Any], rows: DatasetDict, fewshot: int, model_name: str = "") -> LmEvalTask:
        return LmEvalTask(config, rows, fewshot)

    def group_scores(self, subtasks: Aggregates) -> dict[str, float]:
        # `weight_by_size: true`, as in lm-eval's own groups of MMLU, BBH, C-Eval and CMMLU.
        sizes = [n for n, _ in subtasks]
        return {
            name: float(aggregate_subtask_metrics([found[name] for _, found in subtasks], sizes, weight_by_size=True))
            for name in subtasks[0][1]
        }

    def prompt_digest(self, instance: Instance, requests: Sequence[Request] = ()) -> str:
        return digest_of([arg for arg in instance.args if isinstance(arg, str)])

    def requests(self, task: Any, instance: Instance) -> list[Request]:
        """Return the requests of one instance: one, or one for each window of a long text."""
        item = (instance.task_name, instance.doc_id)
        return [dataclasses.replace(one, item=item) for one in getattr(self, instance.request_type)([instance], True)]

    def response(self, instance: Instance, responses: Sequence[Any]) -> Response:
        """Return the response to an instance; the log-likelihood of a whole text is the sum over its windows."""
        if instance.request_type != "loglikelihood_rolling":
            return responses[0]
        total = 0.0
        for log, _ in responses:
            total += log
        return total

    @property
    def eot_token_id(self) -> int:
        return self._vlm.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Token in front of a text without context: beginning of text, or where there is none, its end."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return token ids; special tokens are added as the tokenizer does, but never twice."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        # Not verbose: it would warn of long texts, which are cut into windows afterwards.
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False))

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[LogLikelihoodRequest]:
        return [LogLikelihoodRequest(tuple(context), tuple(continuation)) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[LogLikelihoodRequest]:
        """Return the windows of whole texts, each of the model's context length."""
        windows = (
            make_disjoint_window(window)
            for instance in requests
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(instance.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._vlm.context_length,
                context_len=1,
            )
        )
        return [LogLikelihoodRequest(tuple(context), tuple(continuation)) for context, continuation in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[GenerationRequest]:
        """Return the prompts of generated answers."""
        prompts = ((instance.args[0], stop_criteria(instance.args[1], DEFAULT_MAX_NEW_TOKENS)) for instance in requests)
        return [GenerationRequest(prompt, (), stop.max_new_tokens, stop.until) for prompt, stop in prompts]
