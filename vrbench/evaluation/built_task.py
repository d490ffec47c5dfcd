"""A task with its harness's task objects and their requests: built once, answered and scored any number of times."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import VrbenchError
from vrbench.core.memory import pause_garbage_collection
from vrbench.data import sampling
from vrbench.evaluation.harness_adapter import FEWSHOT_SEED, HarnessAdapter, silence_output
from vrbench.evaluation.requests import OWN_SETTINGS, LogLikelihoodRequest, Request
from vrbench.tasks.item_keys import identify
from vrbench.tasks.scoring import ItemKey
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from vrbench.models.base_vlm import BaseVLM

MODEL_SPECIFIC = (
    "lmms_eval_specific_kwargs", "model_specific_target_kwargs", "model_specific_generation_kwargs",
)  # fmt: skip
"""Keys of lmms-eval's YAML files with settings for each model class."""

CACHED_TOKENS = 1 << 25
"""Tokens of requests that are kept for the next checkpoint; 8 to 40 bytes each."""


def adapter_of(spec: TaskSpec, vlm: BaseVLM | None = None) -> HarnessAdapter:
    """Return the adapter of a task's harness, for a model where one is asked."""
    if spec.harness == "lm-eval":
        from vrbench.evaluation.lm_eval_adapter import LmEvalAdapter

        return LmEvalAdapter(vlm)
    from vrbench.evaluation.lmms_eval_adapter import LmmsEvalAdapter

    return LmmsEvalAdapter(vlm)


@dataclass(frozen=True)
class SubtaskData:
    """The items of one config of a task that are used.

    Attributes:
        config: name of the config, "default" where there is none.
        positions: positions of the items in the whole split.
        rows: split -> rows; the scored split holds only the items at the positions.
    """

    config: str
    positions: Sequence[int]
    rows: DatasetDict
    _harness_tasks: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def harness_task(self, spec: TaskSpec, model_name: str = "") -> Any:
        """Return the harness's task object over these items, made once for each kind of prompt.

        Args:
            model_name: name of the lmms-eval model class that is asked; where the task has settings for that class
                alone (MMMU's prompt for qwen3_vl), they apply.
        """
        made, model_name = self._harness_tasks, model_name if spec.harness == "lmms-eval" else ""
        if model_name not in made:
            config = harness_config(spec, self.config)
            variant = model_name if any(model_name in (config.get(key) or ()) for key in MODEL_SPECIFIC) else ""
            if variant not in made:
                made[variant] = adapter_of(spec).make_task(config, self.rows, spec.fewshot, variant)
            made[model_name] = made[variant]
        return made[model_name]


def select_items(spec: TaskSpec, loaded: Mapping[str, DatasetDict], limit: int | None, seed: int) -> list[SubtaskData]:
    """Return the items of a task that are used under a limit, by config."""
    from datasets import DatasetDict

    from vrbench.data import tables

    subtasks = []
    for config, positions in sampling.select(loaded, spec, limit, seed).items():
        rows: dict[str, Dataset] = dict(loaded[config])
        rows[spec.data.split] = tables.select(rows[spec.data.split], positions)
        subtasks.append(SubtaskData(config, tuple(positions), DatasetDict(rows)))
    return subtasks


@dataclass(frozen=True)
class BuiltSubtask:
    """One config of a task with its requests.

    Attributes:
        config: name of the config.
        task: the harness's task object.
        documents: of each item, what it is within the task and its row.
        instances: of each item, the harness's requests.
    """

    config: str
    task: Any
    documents: Sequence[tuple[ItemKey, Any]]
    instances: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class BuiltTask:
    """A task with its requests."""

    spec: TaskSpec
    subtasks: Sequence[BuiltSubtask]

    def items(self) -> Iterator[tuple[Any, ItemKey, Sequence[Any]]]:
        """Yield the harness's task object, the identity and the harness's requests of each item, in order."""
        for subtask in self.subtasks:
            for (key, _), instances in zip(subtask.documents, subtask.instances, strict=True):
                yield subtask.task, key, instances

    def instances(self) -> list[tuple[Any, Any]]:
        """Return the harness's requests of all items in order, each with the harness's task object."""
        return [(task, instance) for task, _, instances in self.items() for instance in instances]


class RequestCache:
    """Built tasks with their requests, which checkpoints with the same prompts share; the oldest are dropped.

    What is kept holds no model.

    Attributes:
        budget: tokens of requests kept at most; a prompt with images counts with its characters.
    """

    def __init__(self, budget: int = CACHED_TOKENS) -> None:
        self.budget = budget
        self._kept: OrderedDict[tuple[Any, ...], tuple[BuiltTask, list[list[Request]], int]] = OrderedDict()

    def build_requests(
        self, spec: TaskSpec, subtasks: Sequence[SubtaskData], vlm: BaseVLM
    ) -> tuple[HarnessAdapter, BuiltTask, list[list[Request]]]:
        """Return what the function `build_requests` does; a model whose prompts are not known shares none."""
        if not vlm.prompts_digest:
            return build_requests(spec, subtasks, vlm)
        key = (spec.id, vlm.prompts_digest, type(vlm).__name__, vlm.family, vlm.context_length, vlm.eos_token_id)
        if key in self._kept:
            built, requests, _ = self._kept[key]
            return adapter_of(spec, vlm), built, requests
        adapter, built, requests = build_requests(spec, subtasks, vlm)
        self._kept[key] = built, requests, _tokens(requests)
        held = sum(tokens for _, _, tokens in self._kept.values())
        while held > self.budget:
            held -= self._kept.popitem(last=False)[1][2]
        return adapter, built, requests


def _tokens(requests: Sequence[Sequence[Request]]) -> int:
    """Return the tokens of some requests; a context that several have in common counts once."""
    contexts, total = set(), 0
    for request in (request for of_instance in requests for request in of_instance):
        if isinstance(request, LogLikelihoodRequest):
            total += len(request.continuation) + len(request.context) * (id(request.context) not in contexts)
            contexts.add(id(request.context))
        else:
            total += len(request.tokens) or len(request.prompt)
    return total


def build_requests(
    spec: TaskSpec, subtasks: Sequence[SubtaskData], vlm: BaseVLM
) -> tuple[HarnessAdapter, BuiltTask, list[list[Request]]]:
    """Return a task with its harness's instances, and the requests to a model of each instance."""
    adapter = adapter_of(spec, vlm)
    with pause_garbage_collection():
        built = build_task(spec, subtasks, vlm.prompt_format.lmms_model_name)
        return adapter, built, adapter.requests(built.instances())


def build_task(spec: TaskSpec, subtasks: Sequence[SubtaskData], model_name: str = "") -> BuiltTask:
    """Build a task's requests; no model is asked.

    Args:
        subtasks: the items that are used, at least one.
        model_name: as in `SubtaskData.harness_task`; it determines prompts, and no score of an answer.
    """
    with silence_output():
        return BuiltTask(spec, [_build_subtask(spec, subtask, model_name) for subtask in subtasks])


def _build_subtask(spec: TaskSpec, subtask: SubtaskData, model_name: str) -> BuiltSubtask:
    task = subtask.harness_task(spec, model_name)
    task.set_fewshot_seed(FEWSHOT_SEED)  # it may have been built before, and examples are drawn
    task.build_all_requests()
    built, task._instances = task.instances, None  # prompts are held by what is returned, not by the task
    documents = [
        (identify(spec, doc, subtask.config, position), doc)
        for position, doc in zip(subtask.positions, documents_of(task), strict=True)
    ]
    instances: list[list[Any]] = [[] for _ in documents]
    for instance in built:
        instances[instance.doc_id].append(instance)
    return BuiltSubtask(subtask.config, task, documents, [sorted(of, key=lambda one: one.idx) for of in instances])


def documents_of(task: Any) -> Any:
    """Return the rows of a harness's task that are scored, without their images where the harness has them so."""
    return getattr(task, "eval_docs_no_media", None) or task.eval_docs


def harness_config(spec: TaskSpec, config: str) -> dict[str, Any]:
    """Return one config of a task as one of the harness's YAML files would state it."""
    adapter, scorer = adapter_of(spec), scorer_named(spec.scorer)
    files = spec.harness_files()
    if files:
        content = adapter.read_config(files[config])
    elif scorer.template:
        content = adapter.read_config(scorer.template)
    else:
        content = copy.deepcopy(dict(scorer.config))
    if scorer.overrides is not None:
        content |= scorer.overrides(adapter.read_config)
    if spec.ocr_tokens is not None:
        _set_ocr_tokens(spec, content)
    if spec.data.join is not None:
        content["process_docs"] = None  # it would download from the hub what is joined already
    if spec.prompt is not None:
        content |= {"doc_to_text": spec.prompt, "doc_to_target": spec.target, "description": spec.description}
        content |= {"target_delimiter": spec.delimiter}
    if spec.choices is not None:
        content["doc_to_choice"] = spec.choices if isinstance(spec.choices, str) else list(spec.choices)
    if spec.prompt is not None and spec.harness == "lmms-eval" and "doc_to_visual" not in content:
        content["doc_to_visual"] = _ImagesOf(spec.data.images)
    if spec.generation is not None:
        until = list(spec.generation.until)
        content["generation_kwargs"] = {"max_new_tokens": spec.generation.max_new_tokens, "until": until}
        if spec.harness == "lmms-eval":
            content["generation_kwargs"][OWN_SETTINGS] = True
    name = spec.id if len(spec.data.configs) == 1 else f"{spec.id}_{config}"
    splits = {"test_split": spec.data.split, "fewshot_split": spec.data.fewshot_split or None}
    return {**content, **splits, "task": name, "dataset_path": spec.data.name, "dataset_name": None}


def _set_ocr_tokens(spec: TaskSpec, content: Mapping[str, Any]) -> None:
    """Put OCR tokens into the prompt or leave them out, as the task says, for every model class."""
    by_class = content.get("lmms_eval_specific_kwargs") or {}
    if "ocr" not in by_class.get("default", {}):
        raise VrbenchError(f"task {spec.id!r}: ocr_tokens is given, but its prompt knows no OCR tokens; leave it out")
    for settings in by_class.values():
        settings["ocr"] = spec.ocr_tokens


class _ImagesOf:
    """The images of a document, for a task with its own prompt."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def __call__(self, doc: Mapping[str, Any]) -> list[Any]:
        found = [doc[name] for name in self._columns if doc.get(name) is not None]
        flat = [image for value in found for image in (value if isinstance(value, list) else [value])]
        return [image.convert("RGB") for image in flat]
