"""Errors in a task's definition that would otherwise show only when it is answered or scored.

The harness's own task is made over its first item and a made-up answer is scored, so that a scorer, a filter or
generation settings that do not fit are reported before any weights are loaded, and not after hours of answering.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.evaluation.built_task import SubtaskData, documents_of, harness_config
from vrbench.evaluation.harness_adapter import preserve_rng, silence_output
from vrbench.evaluation.requests import stop_criteria
from vrbench.tasks.document_scorer import copy_values
from vrbench.tasks.item_keys import identify
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.scoring import ScoredDocument
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named


def validate_definition(spec: TaskSpec, subtask: SubtaskData) -> Iterator[str]:
    """Yield errors of a task's definition against its harness's task, one sentence each.

    Args:
        subtask: items that the harness can read; see `item_validation.validate_items`.
    """
    with silence_output(), preserve_rng():
        try:
            task = subtask.harness_task(spec)
            row = documents_of(task)[0]
        except Exception as error:  # whatever the harness raises over a definition not made for it
            errors = [f"the harness cannot make it ({type(error).__name__}: {error})"]
        else:
            errors = [*filter_errors(spec, task), *generation_errors(task), *_scorer_errors(spec, subtask, task, row)]
    yield from (f"task {spec.id!r}: {error}" for error in errors)


def validate_answer_length(spec: TaskSpec, contexts: Mapping[str, int]) -> Iterator[str]:
    """Yield the checkpoints whose context the longest answer alone fills, so that no prompt fits.

    Args:
        contexts: checkpoint's id -> tokens of its context.
    """
    longest = max_answer_tokens(spec)
    for name, context in contexts.items():
        if longest is not None and longest >= context:
            yield (
                f"task {spec.id!r}: {longest:,} tokens for an answer leave no room for a prompt in the context of "
                f"{context:,} of {name}; leave the task out, or give it another generation.max_new_tokens"
            )


def max_answer_tokens(spec: TaskSpec) -> int | None:
    """Return the tokens of the longest answer to a text; None where none is generated, or images are shown."""
    if spec.harness != "lm-eval":
        return None
    config = harness_config(spec, spec.data.configs[0])
    if config.get("output_type", "generate_until") != "generate_until":
        return None
    from vrbench.evaluation.lm_eval_adapter import DEFAULT_MAX_NEW_TOKENS

    return stop_criteria(config.get("generation_kwargs") or {}, DEFAULT_MAX_NEW_TOKENS).max_new_tokens


def filter_errors(spec: TaskSpec, task: Any) -> Iterator[str]:
    """Yield an error if the task names a filter that its harness's task does not have."""
    names = [ensemble.name for ensemble in task._filters]
    if spec.filter and spec.filter not in names:
        yield f"there is no filter {spec.filter!r}; there are {', '.join(map(repr, names))}"


def generation_errors(task: Any) -> Iterator[str]:
    """Yield an error if a harness's task requests answers that are not greedy."""
    if task.OUTPUT_TYPE == "generate_until":
        try:
            stop_criteria(task.config.generation_kwargs or {}, 1)
        except VrbenchError as error:
            yield str(error)


def _scorer_errors(spec: TaskSpec, subtask: SubtaskData, task: Any, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error if the scorer does not find its input in the harness's metrics of a made-up answer."""
    key = identify(spec, row, subtask.config, subtask.positions[0])
    try:
        responses = _made_up_responses(task, row)
        metrics = task.process_results(copy_values(row), responses)
    except Exception as error:  # whatever a function of the harness raises over a definition not made for it
        yield f"the harness cannot score an answer ({type(error).__name__}: {error})"
        return
    document = ScoredDocument(task, row, responses, metrics, key)
    if not _can_score(spec.scorer, document):
        able = ", ".join(name for name in SCORERS if _can_score(name, document)) or "none of vrbench's"
        yield (
            f"scorer {spec.scorer!r} does not go with {spec.harness_task or 'its prompt'}, for which the harness gives "
            f"{', '.join(map(str, metrics)) or 'no metric'}; scorers that read them: {able}"
        )


def _made_up_responses(task: Any, row: Mapping[str, Any]) -> list[Any]:
    """Return responses of the kind that a task asks for."""
    if task.OUTPUT_TYPE == "multiple_choice":
        return [(-1.0, False)] * len(task.doc_to_choice(row))
    return [{"generate_until": "", "loglikelihood_rolling": -1.0, "loglikelihood": (-1.0, False)}[task.OUTPUT_TYPE]]


def _can_score(scorer: str, document: ScoredDocument) -> bool:
    try:
        scorer_named(scorer).score(document)
    except VrbenchError:  # it has read everything, and found an error in the item
        return True
    except Exception:  # a metric or a column that it needs is missing
        return False
    return True
