"""Names in a task's definition that are looked up only when it is answered or scored, tried before weights are loaded.

The harness's own task is made over its first item and a made-up answer is scored, so that a scorer, a filter or
generation settings that do not go with it are told at once and not after hours of answering.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.evaluation.built_task import SubtaskData, documents_of, harness_config
from vrbench.evaluation.harness_adapter import preserve_rng, quiet
from vrbench.tasks.document_scorer import copied
from vrbench.tasks.item_keys import identify
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.scoring import ScoredDocument
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named


def validate_definition(spec: TaskSpec, part: SubtaskData) -> Iterator[str]:
    """What of a task's definition does not go with its harness's task, one sentence each.

    Args:
        part: items that the harness can read; see `inspection.faults`.
    """
    with quiet(), preserve_rng():
        try:
            task = part.harness_task(spec)
            document = documents_of(task)[0]
        except Exception as error:  # whatever the harness raises over a definition that is not its
            found = [f"the harness cannot make it ({type(error).__name__}: {error})"]
        else:
            found = [*_filter_faults(spec, task), *_generation_faults(task)]
            found += _scorer_faults(spec, part, task, document)
    yield from (f"task {spec.id!r}: {fault}" for fault in found)


def validate_answer_length(spec: TaskSpec, contexts: Mapping[str, int]) -> Iterator[str]:
    """Whether a task's longest answer alone fills a context, so that none of its questions can be asked.

    Args:
        contexts: checkpoint's id -> tokens of its context.
    """
    longest = longest_answer(spec)
    for name, context in contexts.items():
        if longest is not None and longest >= context:
            yield (
                f"task {spec.id!r}: {longest:,} tokens for an answer leave no room for a prompt in the context of "
                f"{context:,} of {name}; leave the task out, or give it another generation.max_new_tokens"
            )


def longest_answer(spec: TaskSpec) -> int | None:
    """Tokens of the longest answer to a text that a task allows; none where none is generated, or images are shown.

    What the harness's own file says counts; its model class's default stands in where it says nothing.
    """
    from vrbench.evaluation.requests import stop_criteria

    if spec.harness != "lm-eval":
        return None
    told = harness_config(spec, spec.data.configs[0])
    if told.get("output_type", "generate_until") != "generate_until":
        return None
    from vrbench.evaluation.lm_eval_adapter import LONGEST_ANSWER

    return stop_criteria(told.get("generation_kwargs") or {}, LONGEST_ANSWER).max_new_tokens


def _filter_faults(spec: TaskSpec, task: Any) -> Iterator[str]:
    names = [ensemble.name for ensemble in task._filters]
    if spec.filter and spec.filter not in names:
        yield f"there is no filter {spec.filter!r}; there are {', '.join(map(repr, names))}"


def _generation_faults(task: Any) -> Iterator[str]:
    from vrbench.evaluation.requests import stop_criteria

    if task.OUTPUT_TYPE != "generate_until":
        return
    try:
        stop_criteria(task.config.generation_kwargs or {}, 1)
    except VrbenchError as error:
        yield str(error)


def _scorer_faults(spec: TaskSpec, part: SubtaskData, task: Any, row: Mapping[str, Any]) -> Iterator[str]:
    """Whether the scorer finds what it reads in what the harness gives for an answer."""
    identity = identify(spec, row, part.config, part.positions[0])
    try:
        responses = _made_up(task, row)
        metrics = task.process_results(copied(row), responses)
    except Exception as error:  # whatever a function of the harness raises over a definition that is not its
        yield f"the harness cannot score an answer ({type(error).__name__}: {error})"
        return
    document = ScoredDocument(task, row, responses, metrics, identity)
    if _reads(spec.scorer, document):
        return
    able = ", ".join(name for name in SCORERS if _reads(name, document)) or "none of vrbench's"
    yield (
        f"scorer {spec.scorer!r} does not go with {spec.harness_task or 'its prompt'}, for which the harness gives "
        f"{', '.join(map(str, metrics)) or 'no metric'}; scorers that read them: {able}"
    )


def _made_up(task: Any, row: Mapping[str, Any]) -> list[Any]:
    """Answers of the kind that a task asks for."""
    if task.OUTPUT_TYPE == "multiple_choice":
        return [(-1.0, False)] * len(task.doc_to_choice(row))
    one: dict[str, Any] = {"generate_until": "", "loglikelihood_rolling": -1.0, "loglikelihood": (-1.0, False)}
    return [one[task.OUTPUT_TYPE]]


def _reads(scorer: str, document: ScoredDocument) -> bool:
    try:
        scorer_named(scorer).score(document)
    except VrbenchError:  # it has read all, and found something wrong with the item
        return True
    except Exception:  # a metric or a column that it needs is not there
        return False
    return True
