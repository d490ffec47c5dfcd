"""Previews of a task's items: the harness's prompt, options, images and the right answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.families import PromptFormat, family_of
from vrbench.checkpoints.model_config import read_model_config
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.data import loading
from vrbench.data.locate import locate
from vrbench.evaluation import item_validation
from vrbench.evaluation.built_task import SubtaskData, build_task, select_items
from vrbench.evaluation.harness_adapter import silence_output
from vrbench.evaluation.requests import OWN_SETTINGS, stop_criteria
from vrbench.evaluation.run_plan import PlannedTask
from vrbench.models.context_length import stated_context
from vrbench.tasks.scoring import ItemKey
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ItemPreview:
    """One item as it is sent to a model.

    Attributes:
        id: its id within the task.
        group: subtask, question type or subject; empty where there is none.
        prompt: the text with its few-shot examples, without a chat template; empty where the log-likelihood of a whole
            text is asked.
        options: those whose log-likelihoods are compared, or the whole text; none where an answer is generated.
        images: before they are resized.
        generation: how an answer is generated; empty where none is.
        target: the right answer; one of the options where there are some.
        source: data set, config, split and row.
    """

    id: str
    group: str
    prompt: str
    options: tuple[str, ...]
    images: tuple[Image, ...]
    generation: str = ""
    target: str = ""
    source: str = ""


def preview_items(task: PlannedTask) -> Iterator[ItemPreview]:
    """Yield the items of a task, in its order, without target and source; images are decoded one item at a time."""
    with silence_output():  # not around what is yielded, which would silence the caller
        built = build_task(task.spec, task.subtasks)
    for item in built.items():
        with silence_output():
            preview = _preview(task.spec, *item)
            preview = replace(preview, images=tuple(image.convert("RGB") for image in preview.images))
        yield preview


def example_item(spec: TaskSpec, data_root: str | Path | None = None, model: Checkpoint | None = None) -> ItemPreview:
    """Return the item that a limit of 1 chooses, from the first config.

    Args:
        spec: the task.
        data_root: folder with the hub's data sets.
        model: a checkpoint, for whose family text and generation settings are; without one they are the task's.

    Raises:
        VrbenchError: the data are missing, cannot be read, or the item cannot be shown.
    """
    first = spec.data.model_copy(update={"config": spec.data.config[:1]})
    one = spec.model_copy(update={"data": first})
    location = locate(one, data_root)
    (subtask,) = select_items(one, loading.load(one, location), limit=1, seed=0)
    try:
        return _example(one, subtask, model)
    except Exception as error:  # whatever the harness raises over rows that are not its own
        os_errors.reraise_os_error(error)
        raise_errors(item_validation.validate_items(one, [subtask], location))
        raise VrbenchError(f"the harness cannot ask it: {type(error).__name__}: {error}") from error


def _example(spec: TaskSpec, subtask: SubtaskData, model: Checkpoint | None) -> ItemPreview:
    prompt_format = family_of(model).prompt_format if model is not None and spec.harness == "lmms-eval" else None
    built = build_task(spec, [subtask], prompt_format.lmms_model_name if prompt_format else "")
    task, key, instances = next(built.items())
    found = _preview(spec, task, key, instances)
    if prompt_format is not None and model is not None:
        from vrbench.evaluation.lmms_eval_adapter import prompt_text

        _, settings, _, doc_id, _, split = instances[0].args
        prompt = prompt_text(prompt_format, task, task.dataset[split][doc_id], found.prompt)
        found = replace(found, prompt=prompt, generation=_generation(settings, prompt_format, model))
    row = built.subtasks[0].documents[0][1]
    return replace(
        found,
        target="" if spec.scorer == "perplexity" else _target(task, row, found.options),
        source=f"{spec.data.name}, config {subtask.config}, split {spec.data.split}, row {subtask.positions[0]}",
    )


def _preview(spec: TaskSpec, task: Any, key: ItemKey, instances: Sequence[Any]) -> ItemPreview:
    """Return the preview of one item, from the harness's requests."""
    kind, args = instances[0].request_type, instances[0].args
    images = ()
    if spec.harness == "lmms-eval":
        _, _, doc_to_visual, doc_id, _, split = args
        images = tuple(doc_to_visual(task.dataset[split][doc_id]) or ())
    if kind == "loglikelihood":
        return ItemPreview(key.id, key.group, args[0], tuple(one.args[1] for one in instances), images)
    if kind == "loglikelihood_rolling":
        return ItemPreview(key.id, key.group, "", (args[0],), images)
    settings = ", ".join(f"{name} {value!r}" for name, value in sorted(args[1].items()) if name != OWN_SETTINGS)
    return ItemPreview(key.id, key.group, args[0], (), images, settings or "the harness's own settings")


def _generation(settings: Mapping[str, Any], prompt_format: PromptFormat, model: Checkpoint) -> str:
    """Describe how a family generates an answer."""
    context = stated_context(read_model_config(model.root.path)[2]) if model.root.has("config.json") else None
    stop = stop_criteria(
        settings,
        min(prompt_format.max_new_tokens, context // 2) if context else prompt_format.max_new_tokens,
        prompt_format.stop_rule,
    )
    stops = ", ".join(map(repr, stop.until)) or "none"
    return f"greedy, at most {stop.max_new_tokens:,} tokens, stop texts: {stops}"


def _target(task: Any, row: Any, options: tuple[str, ...]) -> str:
    target = task.doc_to_target(row)
    is_number = isinstance(target, int) and 0 <= target < len(options) and not task.multiple_input
    return repr(options[target]) if is_number else str(target)
