"""A task as its harness knows it: what one of the harness's own YAML files would say, and the object made of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import VrbenchError
from vrbench.evaluation.settings import OWN_SETTINGS
from vrbench.tasks.registry import TaskSpec
from vrbench.tasks.scorers import SCORERS

if TYPE_CHECKING:
    from vrbench.evaluation.task_scores import SubtaskData


def task_of(spec: TaskSpec, part: SubtaskData, model_name: str = "") -> Any:
    """The harness's task object over one config's items.

    Args:
        model_name: what lmms-eval calls the model class, for what its task says for that class alone (MMMU's prompt
            for qwen3_vl); none where no model is asked.
    """
    adapter = adapter_of(spec)
    kind = adapter.LmEvalTask if spec.harness == "lm-eval" else adapter.LmmsEvalTask
    return kind(harness_config(spec, part.config), part.rows, spec.fewshot, model_name)


def harness_config(spec: TaskSpec, config: str) -> dict[str, Any]:
    """What the harness is told of one config of a task, as one of its YAML files would say it."""
    adapter, scorer = adapter_of(spec), SCORERS[spec.scorer]
    files = spec.harness_files()
    if files:
        told = adapter.read_config(files[config])
    elif scorer.template:
        told = adapter.read_config(scorer.template)
    else:
        told = copy.deepcopy(dict(scorer.config or {}))
    if scorer.instead is not None:
        told |= scorer.instead()
    if spec.ocr_tokens is not None:
        _say_ocr(spec, told)
    if spec.data.join is not None:
        told["process_docs"] = None  # it would fetch from the hub what is joined already
    if spec.prompt is not None:
        told |= {"doc_to_text": spec.prompt, "doc_to_target": spec.target, "description": spec.description}
        told |= {"target_delimiter": spec.delimiter}
    if spec.choices is not None:
        told["doc_to_choice"] = spec.choices if isinstance(spec.choices, str) else list(spec.choices)
    if spec.prompt is not None and spec.harness == "lmms-eval" and "doc_to_visual" not in told:
        told["doc_to_visual"] = _Pictures(spec.data.images)
    if spec.generation is not None:
        until = list(spec.generation.until)
        told["generation_kwargs"] = {"max_new_tokens": spec.generation.max_new_tokens, "until": until}
        if spec.harness == "lmms-eval":
            told["generation_kwargs"][OWN_SETTINGS] = True
    name = spec.id if len(spec.data.configs) == 1 else f"{spec.id}_{config}"
    splits = {"test_split": spec.data.split, "fewshot_split": spec.data.fewshot_split or None}
    return {**told, **splits, "task": name, "dataset_path": spec.data.name, "dataset_name": None}


def _say_ocr(spec: TaskSpec, told: Mapping[str, Any]) -> None:
    """Put OCR tokens into the prompt or leave them out, as the task says, for every model class."""
    by_class = told.get("lmms_eval_specific_kwargs") or {}
    if "ocr" not in by_class.get("default", {}):
        raise VrbenchError(f"task {spec.id!r}: ocr_tokens is given, but its prompt knows no OCR tokens; leave it out")
    for settings in by_class.values():
        settings["ocr"] = spec.ocr_tokens


class _Pictures:
    """The pictures of a document, for a task with its own prompt."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def __call__(self, doc: Mapping[str, Any]) -> list[Any]:
        found = [doc[name] for name in self._columns if doc.get(name) is not None]
        flat = [p for value in found for p in (value if isinstance(value, list) else [value])]
        return [picture.convert("RGB") for picture in flat]


def adapter_of(spec: TaskSpec) -> Any:
    """The adapter module of the task's harness, imported only now, since lmms-eval takes seconds."""
    if spec.harness == "lm-eval":
        from vrbench.evaluation import lm_eval_adapter

        return lm_eval_adapter
    from vrbench.evaluation import lmms_eval_adapter

    return lmms_eval_adapter
