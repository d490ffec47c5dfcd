"""lm-eval: its tasks over rows in memory, and requests as its `HFLM` makes them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import lm_eval.api.task
import lm_eval.utils
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import aggregate_subtask_metrics
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from vrbench.core import jinja_sandbox
from vrbench.core.io import digest_of
from vrbench.data.tables import Documents
from vrbench.evaluation.harness_adapter import FEWSHOT_SEED
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, Response, stop_criteria
from vrbench.evaluation.tokenization import BatchTokenizer
from vrbench.tasks.scoring import Aggregates
from vrbench.tasks.untrusted import harness_file

if TYPE_CHECKING:
    from datasets import DatasetDict

    from vrbench.models.base_vlm import BaseVLM

lm_eval.utils.env = jinja_sandbox.sandbox_like(lm_eval.utils.env)  # it renders prompts, choices and targets
lm_eval.api.task.tqdm = lambda iterable, **settings: iterable  # a progress bar for each subject, which nobody sees

DEFAULT_MAX_NEW_TOKENS = 256
"""Tokens, where a task names no other number: lm-eval's default for Hugging Face models."""


class LmEvalTask(ConfigurableTask):
    """lm-eval's task over rows that are in memory."""

    def __init__(self, config: Mapping[str, Any], rows: DatasetDict, fewshot: int) -> None:
        self._rows = rows
        self._examples: dict[int, dict[str, Any]] = {}  # id of a few-shot document -> template -> its text
        super().__init__(config={**config, "training_split": None, "validation_split": None})
        self.set_config("num_fewshot", fewshot)
        self.set_fewshot_seed(FEWSHOT_SEED)
        if hasattr(self, "sampler"):
            self._examples = {id(document): {} for document in self.sampler.df}

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the rows as given."""
        self.dataset = self._rows

    @cached_property
    def eval_docs(self) -> Documents:
        """The documents that are scored, processed once."""
        return Documents(self.test_docs())

    @staticmethod
    def resolve_field(doc: dict[str, Any], field: str | None = None) -> Any:
        """Return a column or a rendered template; a text without jinja is that text."""
        if field and field not in doc and not set("{\r") & set(field):
            return field
        return ConfigurableTask.resolve_field(doc, field)

    def doc_to_text(self, doc: Any, doc_to_text: Any = None) -> Any:
        """Return the question; that of an example is rendered once."""
        template = self.config.doc_to_text if doc_to_text is None else doc_to_text
        return self._render(super().doc_to_text, "text", doc, template)

    def doc_to_target(self, doc: Any, doc_to_target: Any = None) -> Any:
        """Return the right answer; that of an example is rendered once."""
        template = self.config.doc_to_target if doc_to_target is None else doc_to_target
        return self._render(super().doc_to_target, "target", doc, template)

    def _render(self, render: Callable[[Any, Any], Any], what: str, doc: Any, template: Any) -> Any:
        rendered = self._examples.get(id(doc))
        if rendered is None or not isinstance(template, str) or "random" in template:
            return render(doc, template)
        key = f"{what} {template}"
        if key not in rendered:
            rendered[key] = render(doc, template)
        return rendered[key]


class LmEvalAdapter:
    """lm-eval, whose prompts are the same for all models; see `harness_adapter.HarnessAdapter`.

    Requests are those of lm-eval's `HFLM`, token for token (`lm_eval/api/model.py`, `lm_eval/models/huggingface.py`).
    """

    def __init__(self, vlm: BaseVLM | None = None) -> None:
        if vlm is not None:
            self._vlm = vlm
            first = vlm.tokenizer.bos_token_id
            # Token in front of a text without context: beginning of text, or where there is none, its end.
            self._first_token = vlm.eos_token_id if first is None else int(first)
            self._first_text = str(vlm.tokenizer.decode(self._first_token))

    @cached_property
    def _tokenizer(self) -> BatchTokenizer:
        return BatchTokenizer(self._vlm.tokenizer)

    def read_config(self, path: str) -> dict[str, Any]:
        return copy.deepcopy(_read_yaml(path))

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

    def requests(self, instances: Sequence[tuple[Any, Instance]]) -> list[list[Request]]:
        """Return the requests of each instance: one, or one for each window of a long text."""
        makers = {
            "loglikelihood": self._loglikelihoods,
            "loglikelihood_rolling": self._whole_texts,
            "generate_until": self._generations,
        }
        made: list[list[Request]] = []
        for kind, group in groupby((instance for _, instance in instances), key=lambda one: one.request_type):
            made += makers[kind](list(group))
        return made

    def response(self, instance: Instance, responses: Sequence[Any]) -> Response:
        """Return the response to an instance; the log-likelihood of a whole text is the sum over its windows."""
        if instance.request_type != "loglikelihood_rolling":
            return responses[0]
        total = 0.0
        for log, _ in responses:
            total += log
        return total

    def _encode(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """Yield the token ids of each text; special tokens are added as the tokenizer does, but never twice."""
        return self._tokenizer.encode((text, not text.startswith(self._first_text)) for text in texts)

    def _loglikelihoods(self, instances: Sequence[Instance]) -> Iterable[list[Request]]:
        """Yield the request of each option; spaces at the end of a context belong to the option."""
        by_context = [(context, list(of)) for context, of in groupby(instances, key=lambda one: one.args[0])]
        ids = self._tokenizer.encode(
            (text, context != "" and not text.startswith(self._first_text))
            for context, of in by_context
            for text in (context.rstrip(), *(context + instance.args[1] for instance in of))
        )
        for context, of in by_context:
            tokens = tuple(next(ids))
            for instance in of:
                whole = next(ids)
                if context == "":  # the first token stands for the context, and is not there twice
                    tokens = (self._first_token,)
                    whole = whole if whole[0] == self._first_token else [self._first_token, *whole]
                yield [LogLikelihoodRequest(tokens, tuple(whole[len(tokens) :]), _item(instance))]

    def _whole_texts(self, instances: Sequence[Instance]) -> Iterable[list[Request]]:
        """Yield the windows of whole texts, each of the model's context length."""
        for instance, tokens in zip(instances, self._encode([one.args[0] for one in instances]), strict=True):
            windows = get_rolling_token_windows(tokens, self._first_token, self._vlm.context_length, context_len=1)
            yield [
                LogLikelihoodRequest(tuple(context), tuple(continuation), _item(instance))
                for context, continuation in map(make_disjoint_window, windows)
            ]

    def _generations(self, instances: Sequence[Instance]) -> Iterable[list[Request]]:
        """Yield the prompt of each generated answer."""
        prompts = [instance.args[0] for instance in instances]
        for instance, prompt, tokens in zip(instances, prompts, self._encode(prompts), strict=True):
            stop = stop_criteria(instance.args[1], DEFAULT_MAX_NEW_TOKENS)
            # With a first token as text, the model's class decides whether it is read twice.
            known = () if prompt.startswith(self._first_text) else tuple(tokens)
            yield [GenerationRequest(prompt, (), stop.max_new_tokens, stop.until, known, _item(instance))]


@lru_cache(maxsize=256)
def _read_yaml(path: str) -> dict[str, Any]:
    return dict(load_yaml(harness_file("lm-eval", path)))


def _item(instance: Instance) -> tuple[str, int]:
    return instance.task_name, instance.doc_id
