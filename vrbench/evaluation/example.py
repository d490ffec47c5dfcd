"""One item of a task as its harness puts it to a model, for a reader who wants to see what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.checkpoints.families import PromptFormat, family_of
from vrbench.checkpoints.model_config import read_config
from vrbench.checkpoints.resolve import Checkpoint
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.data import loading
from vrbench.evaluation import item_validation, task_scores
from vrbench.evaluation.settings import OWN_SETTINGS
from vrbench.evaluation.settings import stop_criteria as limit_of
from vrbench.models.context_length import stated_context
from vrbench.tasks.registry import TaskSpec


@dataclass(frozen=True)
class ItemExample:
    """An item as it is asked.

    Attributes:
        prompt: the text with its examples, without a chat template; empty where a whole text's likelihood is asked.
        answers: the options whose likelihood is compared, or the whole text whose likelihood is asked; none where an
            answer is generated.
        target: the right answer; one of the options where there are some.
        generation: how an answer is generated, as the harness is told; empty where none is.
        pictures: width and height of each picture, in pixels.
        place: set, config, split and row.
    """

    prompt: str
    answers: tuple[str, ...]
    target: str
    generation: str
    pictures: tuple[tuple[int, int], ...]
    place: str


def example(spec: TaskSpec, data_root: str | Path | None = None, model: Checkpoint | None = None) -> ItemExample:
    """The item that a limit of 1 chooses, from the first config.

    Args:
        spec: the task.
        data_root: folder with the hub's data sets.
        model: a checkpoint, in whose family's way text and generation settings are; without one they are the task's.

    Raises:
        VrbenchError: the data are not there, cannot be read, or the item cannot be shown: what is wrong with it.
    """
    first = spec.data.model_copy(update={"config": spec.data.config[:1]})
    one = spec.model_copy(update={"data": first})
    (part,) = task_scores.select_items(one, loading.load(one, data_root), limit=1, seed=0)
    try:
        return _made(one, part, model)
    except Exception as error:  # whatever the harness raises over rows that are not its
        os_errors.reraise_os_error(error)
        raise_errors(item_validation.validate_items(one, [part], loading.locate(one, data_root)))
        raise VrbenchError(f"the harness cannot ask it: {type(error).__name__}: {error}") from error


def _made(spec: TaskSpec, part: task_scores.SubtaskData, model: Checkpoint | None) -> ItemExample:
    prompt_format = family_of(model).prompt_format if model is not None and spec.harness == "lmms-eval" else None
    with task_scores.quiet():
        task = task_scores.task_of(spec, part, prompt_format.lmms_model_name if prompt_format else "")
        task.build_all_requests(limit=1, rank=0, world_size=1)
    asked = sorted(task.instances, key=lambda instance: (instance.doc_id, instance.idx))
    asked = [instance for instance in asked if instance.doc_id == asked[0].doc_id]
    row = task_scores.documents_of(task)[asked[0].doc_id]
    prompt, answers, generation = texts_of(asked)
    if prompt_format is not None and model is not None:
        from vrbench.evaluation.lmms_eval_adapter import prompt_text

        _, settings, _, doc_id, _, split = asked[0].args
        prompt = prompt_text(prompt_format, task, task.dataset[split][doc_id], prompt)  # `row` has no images
        generation = _limit(settings, prompt_format, model)
    source = spec.data
    return ItemExample(
        prompt=prompt,
        answers=answers,
        target="" if spec.scorer == "perplexity" else _target(task, row, answers),
        generation=generation,
        pictures=_sizes(task, asked[0]) if spec.harness == "lmms-eval" else (),
        place=f"{source.name}, config {part.config}, split {source.split}, row {part.positions[0]}",
    )


def texts_of(asked: list[Any]) -> tuple[str, tuple[str, ...], str]:
    """Prompt, options and generation settings of the requests of one item."""
    kind, args = asked[0].request_type, asked[0].args
    if kind == "loglikelihood":
        return args[0], tuple(instance.args[1] for instance in asked), ""
    if kind == "loglikelihood_rolling":
        return "", (args[0],), ""
    settings = ", ".join(f"{name} {value!r}" for name, value in sorted(args[1].items()) if name != OWN_SETTINGS)
    return args[0], (), settings or "the harness's own settings"


def _limit(settings: Mapping[str, Any], prompt_format: PromptFormat, model: Checkpoint) -> str:
    """How an answer ends in a family's way."""
    context = stated_context(read_config(model.root.path)[2]) if model.root.has("config.json") else None
    limit = limit_of(
        settings,
        min(prompt_format.max_new_tokens, context // 2) if context else prompt_format.max_new_tokens,
        prompt_format.stop_rule,
    )
    stops = ", ".join(map(repr, limit.until)) or "none"
    return f"greedy, at most {limit.max_new_tokens:,} tokens, stop texts: {stops}"


def _target(task: Any, row: Any, answers: tuple[str, ...]) -> str:
    gold = task.doc_to_target(row)
    named_by_number = isinstance(gold, int) and 0 <= gold < len(answers) and not task.multiple_input
    return repr(answers[gold]) if named_by_number else str(gold)


def _sizes(task: Any, request: Any) -> tuple[tuple[int, int], ...]:
    _, _, doc_to_visual, doc_id, _, split = request.args
    return tuple(picture.size for picture in doc_to_visual(task.dataset[split][doc_id]) or ())
