"""lmms-eval: its tasks over rows in memory, and requests as its own class for a model's family makes them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lmms_eval.api.metrics  # registers exact_match and the like; the tasks look them up by name
import lmms_eval.utils
import yaml
from datasets import DatasetDict
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableTask

from vrbench.checkpoints.families import PromptFormat
from vrbench.checkpoints.prompts import IMAGE
from vrbench.core import jinja_sandbox
from vrbench.core.errors import VrbenchError
from vrbench.data.image_columns import columns_of
from vrbench.data.tables import decode_images
from vrbench.evaluation.harness_adapter import FEWSHOT_SEED
from vrbench.evaluation.requests import (
    GenerationRequest,
    Request,
    RequestImage,
    Response,
    request_image,
    stop_criteria,
)
from vrbench.tasks.scoring import Aggregates
from vrbench.tasks.untrusted import harness_file, load_with_includes

if TYPE_CHECKING:
    from PIL.Image import Image

    from vrbench.models.base_vlm import BaseVLM

lmms_eval.utils.env = jinja_sandbox.sandbox_like(lmms_eval.utils.env)  # it renders prompts, choices and targets


class LmmsEvalTask(ConfigurableTask):
    """lmms-eval's task over rows that are in memory."""

    def __init__(self, config: Mapping[str, Any], rows: DatasetDict, fewshot: int, model_name: str = "") -> None:
        """Make a task; the arguments are those of `harness_adapter.HarnessAdapter.make_task`.

        Raises:
            VrbenchError: the task's answers are not generated.
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
        """Take the rows as given; scoring sees them without their images, so that none is decoded for it."""
        process = self.config.process_docs
        # Mapped rows have plain images of `datasets` again, which would open otherwise.
        processed = {k: v if process is None else decode_images(process(v)) for k, v in self._rows.items()}
        self.dataset = self.dataset_no_image = DatasetDict(processed)
        if not self.config.process_results_use_image:
            self.dataset_no_image = DatasetDict({k: v.remove_columns(columns_of(v)) for k, v in processed.items()})

    def process_results(self, doc: dict[str, Any], results: list[Any], full_docs: Any = None) -> dict[str, Any]:
        """Score one document; an error in scoring is raised at the first of lmms-eval's five tries."""
        return dict(ConfigurableTask.process_results.__wrapped__(self, doc, results, full_docs))


class _TaskFileLoader(yaml.FullLoader):
    """Runs `!function` as lmms-eval's loader does, which looks for included files in the working folder first."""


_TaskFileLoader.add_constructor("!function", lmms_eval.utils.import_function)


class LmmsEvalAdapter:
    """lmms-eval, whose requests are those of its own class for a model's family; see `HarnessAdapter`."""

    def __init__(self, vlm: BaseVLM | None = None) -> None:
        if vlm is not None:
            self._vlm = vlm

    def read_config(self, path: str) -> dict[str, Any]:
        """Read a config without the metrics that only write a file for a challenge server."""
        config = load_with_includes(harness_file("lmms-eval", path), _TaskFileLoader)
        config["metric_list"] = [metric for metric in config["metric_list"] if metric["metric"] != "submission"]
        return config

    def make_task(
        self, config: Mapping[str, Any], rows: DatasetDict, fewshot: int, model_name: str = ""
    ) -> LmmsEvalTask:
        return LmmsEvalTask(config, rows, fewshot, model_name)

    def group_scores(self, subtasks: Aggregates) -> dict[str, float]:
        return {}  # how lmms-eval combines subtasks differs from group to group

    def prompt_digest(self, instance: Instance, requests: Sequence[Request] = ()) -> str | None:
        shown = [request.prompt_digest for request in requests if isinstance(request, GenerationRequest)]
        return shown[0] if shown else None

    def requests(self, instances: Sequence[tuple[LmmsEvalTask, Instance]]) -> list[list[Request]]:
        """Return the one request of each instance."""
        return [[self._request(task, instance)] for task, instance in instances]

    def _request(self, task: LmmsEvalTask, instance: Instance) -> Request:
        text, settings, doc_to_visual, doc_id, _, split = instance.args
        rows, prompt_format = task.dataset[split], self._vlm.prompt_format
        # Kept with the task, which all checkpoints of a run share.
        known: dict[Any, tuple[RequestImage, ...]] = task.__dict__.setdefault("request_images", {})
        is_new = (split, doc_id) not in known
        row = rows[doc_id] if is_new or prompt_format.reads_messages else {}
        if is_new:
            known[split, doc_id] = tuple(
                request_image(image, _ImageLoader(rows, doc_id, doc_to_visual, number))
                for number, image in enumerate(doc_to_visual(row) or ())
            )
        images = known[split, doc_id]
        longest = min(prompt_format.max_new_tokens, self._vlm.context_length // 2)
        stop = stop_criteria(settings, longest, prompt_format.stop_rule)
        prompt = self._vlm.prompt(prompt_text(prompt_format, task, row, text), len(images))
        item = (instance.task_name, instance.doc_id)
        return GenerationRequest(prompt, images, stop.max_new_tokens, stop.until, item=item)

    def response(self, instance: Instance, responses: Sequence[Any]) -> Response:
        """Return the answer as the family's class gives it."""
        return self._vlm.prompt_format.postprocess(responses[0])


class _ImageLoader:
    """Loads one image of one row again."""

    def __init__(self, rows: Any, doc_id: int, doc_to_visual: Any, number: int) -> None:
        self._arguments = rows, doc_id, doc_to_visual, number

    def __call__(self) -> Image:
        rows, doc_id, doc_to_visual, number = self._arguments
        image: Image = doc_to_visual(rows[doc_id])[number]
        return image


def prompt_text(prompt_format: PromptFormat, task: LmmsEvalTask, doc: Mapping[str, Any], text: str) -> str:
    """Return what of a document goes into a family's prompt: the task's messages for a chat class, else its text.

    MMMU's function for messages (lmms_eval/tasks/mmmu/utils.py) changes a setting of its module for good, which would
    change later prompts of other families; the setting is restored.
    """
    to_messages = task.config.doc_to_messages
    if not prompt_format.reads_messages or to_messages is None:
        return text
    settings = getattr(to_messages, "__globals__", {}).get("config")
    before = copy.deepcopy(settings)
    try:
        (message,) = to_messages(doc, task.lmms_eval_specific_kwargs)
    finally:
        if isinstance(settings, dict) and before is not None:
            settings.update(before)
    return "".join(IMAGE if part["type"] == "image" else part["text"] for part in message["content"])
