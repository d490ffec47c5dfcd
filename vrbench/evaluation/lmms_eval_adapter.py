"""lmms-eval's side: its tasks over rows in memory, and a model for it whose answers come from the engine.

Importing this module imports lmms-eval, which takes seconds: import it late.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lmms_eval.api.metrics  # registers exact_match and the like; the tasks look them up by name
import lmms_eval.utils
import yaml
from datasets import DatasetDict
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.api.task import ConfigurableTask

from vrbench.checkpoints.families import PromptFormat
from vrbench.checkpoints.prompts import IMAGE
from vrbench.core import jinja_sandbox
from vrbench.core.errors import VrbenchError
from vrbench.core.io import digest_of
from vrbench.data.image_columns import columns_of
from vrbench.data.image_feature import opening
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.requests import GenerationRequest, RequestImage, request_image
from vrbench.evaluation.settings import stop_criteria
from vrbench.tasks.untrusted import harness_file, with_includes

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels

lmms_eval.utils.env = jinja_sandbox.sandbox_like(lmms_eval.utils.env)  # it renders prompts, choices and targets

FEWSHOT_SEED = 1234
"""lmms-eval's own default."""


class LmmsEvalTask(ConfigurableTask):
    """lmms-eval's task over rows that are already there; nothing is downloaded."""

    def __init__(self, config: Mapping[str, Any], rows: DatasetDict, fewshot: int, model_name: str = "") -> None:
        """Make it; the arguments are those of `lm_eval_adapter.Task`.

        Args:
            model_name: what lmms-eval calls the model class whose `lmms_eval_specific_kwargs` hold.

        Raises:
            VrbenchError: the task is none of generated answers.
        """
        self._rows = rows
        kind = config.get("output_type", "generate_until")
        if kind != "generate_until":
            raise VrbenchError(f"lmms-eval task {config['task']!r} is of type {kind}; only generate_until is supported")
        whole = {**config, "training_split": None, "validation_split": None}
        super().__init__(config=whole, model_name=model_name)
        self.set_config("num_fewshot", fewshot)
        self.set_fewshot_seed(FEWSHOT_SEED)

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Take the rows as given; scoring sees them without their pictures, so that none is decoded for it."""
        process = self.config.process_docs
        # What is mapped has plain images of `datasets` again, which would open otherwise.
        made = {k: v if process is None else opening(process(v)) for k, v in self._rows.items()}
        self.dataset = DatasetDict(made)
        self.dataset_no_image = self.dataset
        if not self.config.process_results_use_image:
            self.dataset_no_image = DatasetDict({k: _without_pictures(v) for k, v in self.dataset.items()})

    def process_results(self, doc: dict[str, Any], results: list[Any], full_docs: Any = None) -> dict[str, Any]:
        """Score one document; a fault in scoring is told at once instead of after five tries."""
        return dict(ConfigurableTask.process_results.__wrapped__(self, doc, results, full_docs))


class _Yaml(yaml.FullLoader):
    """lmms-eval's, which runs `!function`. Its own reader looks for included files in the working folder first."""


_Yaml.add_constructor("!function", lmms_eval.utils.import_function)


def read_config(path: str) -> dict[str, Any]:
    """One of lmms-eval's own YAML files, by its path under lmms-eval's tasks folder.

    Metrics that only write a file for a challenge server are left out.
    """
    config = with_includes(harness_file("lmms-eval", path), _Yaml)
    config["metric_list"] = [metric for metric in config["metric_list"] if metric["metric"] != "submission"]
    return config


def group_figures(parts: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """None: how lmms-eval puts subtasks together differs from group to group."""
    return {}


def prompt_digest_of(instance: Instance) -> None:
    """None: the text around question and pictures is the checkpoint's own chat template."""


class LmmsEvalModel(lmms):
    """A model for lmms-eval, which prompts and answers as lmms-eval's own class for its family does.

    Attributes:
        tasks: name -> task, for what a chat class is shown; without them it is shown the task's text.
    """

    is_simple = True

    def __init__(self, answerer: InferenceEngine, title: str = "") -> None:
        super().__init__()
        self.tasks: Mapping[str, LmmsEvalTask] = {}
        self._answerer = answerer
        self._prompt_format = answerer.vlm.prompt_format
        self._title = title
        self._seen: dict[tuple[str, str, int], tuple[RequestImage, ...]] = {}

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Greedy answers, as the family's class gives them."""
        asked = []
        longest = min(self._prompt_format.max_new_tokens, self._answerer.vlm.context_length // 2)
        for request in requests:
            limit = stop_criteria(request.args[1], longest, self._prompt_format.stop_rule)
            asked.append(GenerationRequest(*self._shown(request), limit.max_new_tokens, limit.until))
        items = [(request.task_name, request.doc_id) for request in requests]
        return [self._prompt_format.postprocess(said) for said in self._answerer.answer(asked, items, self._title)]

    def prompt_digest(self, instance: Instance) -> str:
        """sha256 over what the model was shown."""
        prompt, pictures = self._shown(instance)
        return digest_of([prompt, *(picture.digest for picture in pictures)])

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not asked for: `LmmsEvalTask` takes tasks of generated answers only."""
        raise VrbenchError("log-likelihoods with pictures are not supported")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not asked for: `LmmsEvalTask` takes tasks of one round only."""
        raise VrbenchError("conversations of several rounds are not supported")

    def clean(self) -> None:
        """Keep the model: the default deletes it after one task."""

    def _shown(self, request: Instance) -> tuple[str, tuple[RequestImage, ...]]:
        """The whole prompt and the pictures of a request."""
        context, _, doc_to_visual, doc_id, task, split = request.args
        place = (task, split, doc_id)
        if place not in self._seen:
            rows = self.task_dict[task][split]
            self._seen[place] = tuple(
                request_image(pixels, _Loader(rows, doc_id, doc_to_visual, number))
                for number, pixels in enumerate(doc_to_visual(rows[doc_id]) or ())
            )
        pictures = self._seen[place]
        if task in self.tasks:
            context = prompt_text(self._prompt_format, self.tasks[task], self.task_dict[task][split][doc_id], context)
        return self._answerer.vlm.prompt(context, len(pictures)), pictures


class _Loader:
    """Fetches one picture of one row again."""

    def __init__(self, rows: Any, doc_id: int, doc_to_visual: Any, number: int) -> None:
        self._place = rows, doc_id, doc_to_visual, number

    def __call__(self) -> Pixels:
        rows, doc_id, doc_to_visual, number = self._place
        pixels: Pixels = doc_to_visual(rows[doc_id])[number]
        return pixels


def prompt_text(prompt_format: PromptFormat, task: LmmsEvalTask, doc: Mapping[str, Any], text: str) -> str:
    """What of a document goes into a family's prompt: the task's messages for a chat class, else its text."""
    has_messages = prompt_format.reads_messages and task.config.doc_to_messages is not None
    return _as_text(task, doc) if has_messages else text


def _as_text(task: LmmsEvalTask, doc: Mapping[str, Any]) -> str:
    """The messages of a task as one text, a mark where each image stands.

    MMMU's function for them (lmms_eval/tasks/mmmu/utils.py) changes a setting of its module for good, by which later
    prompts of other families would be others; it is put back.
    """
    settings = getattr(task.config.doc_to_messages, "__globals__", {}).get("config")
    before = copy.deepcopy(settings)
    try:
        (message,) = task.config.doc_to_messages(doc, task.lmms_eval_specific_kwargs)
    finally:
        if isinstance(settings, dict) and before is not None:
            settings.update(before)
    return "".join(IMAGE if part["type"] == "image" else part["text"] for part in message["content"])


def _without_pictures(rows: Any) -> Any:
    """Rows without the columns that are pictures or lists of pictures."""
    return rows.remove_columns(columns_of(rows))
