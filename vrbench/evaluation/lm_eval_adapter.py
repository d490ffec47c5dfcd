"""lm-eval's side: its tasks over rows in memory, and a model for it whose answers come from the engine.

Importing this module imports lm-eval, torch and datasets: import it late.
"""

from __future__ import annotations

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
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest
from vrbench.evaluation.settings import stop_criteria
from vrbench.tasks.untrusted import harness_file

if TYPE_CHECKING:
    from datasets import DatasetDict

lm_eval.utils.env = jinja_sandbox.sandbox_like(lm_eval.utils.env)  # it renders prompts, choices and targets

FEWSHOT_SEED = 1234
"""lm-eval's own default."""

LONGEST_ANSWER = 256
"""Tokens, where a task names no other: lm-eval's default for Hugging Face models."""


class LmEvalTask(ConfigurableTask):
    """lm-eval's task over rows that are already there; nothing is downloaded."""

    def __init__(self, config: Mapping[str, Any], rows: DatasetDict, fewshot: int, model_name: str = "") -> None:
        """Make it.

        Args:
            config: what lm-eval's YAML says, with `test_split` and `fewshot_split` naming splits of the rows.
            rows: split -> rows.
            fewshot: examples in the prompt.
            model_name: not used: lm-eval's tasks are the same for all models.
        """
        self._rows = rows
        super().__init__(config={**config, "training_split": None, "validation_split": None})
        self.set_config("num_fewshot", fewshot)
        self.set_fewshot_seed(FEWSHOT_SEED)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the rows as given."""
        self.dataset = self._rows


def read_config(path: str) -> dict[str, Any]:
    """One of lm-eval's own YAML files, by its path under lm-eval's tasks folder."""
    return dict(load_yaml(harness_file("lm-eval", path)))


def group_figures(parts: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Figures of a group by metric: the mean over subtasks weighted by their documents.

    That is `weight_by_size: true`, as lm-eval's own groups of MMLU, BBH, C-Eval and CMMLU have it.
    """
    sizes = [n for n, _ in parts]
    return {
        name: float(aggregate_subtask_metrics([found[name] for _, found in parts], sizes, weight_by_size=True))
        for name in parts[0][1]
    }


def prompt_digest_of(instance: Instance) -> str:
    """sha256 over what any model is shown: lm-eval's prompts are the same for all."""
    return digest_of([arg for arg in instance.args if isinstance(arg, str)])


class LmEvalModel(TemplateLM):
    """A model for lm-eval. Contexts and continuations become tokens as in lm-eval's `HFLM`."""

    def __init__(self, answerer: InferenceEngine, title: str = "") -> None:
        super().__init__()
        self._answerer = answerer
        self._title = title
        self.tokenizer: Any = answerer.vlm.tokenizer

    @property
    def eot_token_id(self) -> int:
        """Token that ends a text."""
        return self._answerer.vlm.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Token in front of a text without context: beginning of text, or where there is none, its end."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; special tokens are added as the tokenizer does, but never twice."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        # Not verbose: it would warn of long texts, which are cut into windows afterwards.
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, is greedy) of each continuation."""
        self._items = _items(requests)
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        asked = [LogLikelihoodRequest(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        return self._answerer.answer(asked, self._items, self._title)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood in nats of each whole text, in windows of the model's context length."""
        asked, items = [], []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._answerer.vlm.context_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, windows):
                context, continuation = map(tuple, window)
                asked.append(LogLikelihoodRequest(context, continuation))
                items.append(number)
        totals = [0.0] * len(requests)
        for number, (log, _) in zip(items, self._answerer.answer(asked, items, self._title), strict=True):
            totals[number] += log
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy answers."""
        asked = []
        for request in requests:
            prompt, settings = request.args
            limit = stop_criteria(settings, LONGEST_ANSWER)
            asked.append(GenerationRequest(prompt, (), limit.max_new_tokens, limit.until))
        return self._answerer.answer(asked, _items(requests), self._title)

    def prompt_digest(self, instance: Instance) -> str:
        """sha256 over what the model was shown."""
        return prompt_digest_of(instance)


def _items(requests: Sequence[Instance]) -> list[object]:
    """Which document of which task each request belongs to."""
    return [(request.task_name, request.doc_id) for request in requests]
