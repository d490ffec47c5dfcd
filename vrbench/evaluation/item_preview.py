"""A task's items as a reader can look at them: what is asked, and the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.evaluation.example import texts_of
from vrbench.evaluation.run_plan import PlannedTask
from vrbench.evaluation.task_scores import BuiltTask, build_task, quiet

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels


@dataclass(frozen=True)
class ItemPreview:
    """One item.

    Attributes:
        id: its id within the task.
        group: subtask, question type or subject; empty where there is none.
        prompt: the text with its examples, without a chat template; empty where a whole text's likelihood is asked.
        options: those whose likelihood is compared, or the whole text whose likelihood is asked; none where an answer
            is generated.
        pictures: as the model is shown them, before they are resized.
    """

    id: str
    group: str
    prompt: str
    options: tuple[str, ...]
    pictures: tuple[Pixels, ...]


def preview_items(job: PlannedTask) -> Iterator[ItemPreview]:
    """The items of a task, in its order; their pictures are decoded one item at a time."""
    with quiet():  # not around what is yielded, which would silence the caller
        prepared = build_task(job.spec, job.parts)
    for number, task in enumerate(prepared.tasks):
        for row in range(len(prepared.documents[number])):
            yield _item(prepared, number, task, row)


def _item(prepared: BuiltTask, number: int, task: Any, row: int) -> ItemPreview:
    identity, _ = prepared.documents[number][row]
    asked = prepared.requests[number][row]
    with quiet():
        prompt, options, _ = texts_of(list(asked))
        pictures = _pictures(task, asked) if prepared.spec.harness == "lmms-eval" else ()
    return ItemPreview(identity.id, identity.group, prompt, options, pictures)


def _pictures(task: Any, asked: Sequence[Any]) -> tuple[Pixels, ...]:
    _, _, doc_to_visual, doc_id, _, split = asked[0].args
    return tuple(picture.convert("RGB") for picture in doc_to_visual(task.dataset[split][doc_id]) or ())
