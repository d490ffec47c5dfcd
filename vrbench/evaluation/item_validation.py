"""What is wrong with a task's items, told by file and row before weights are loaded.

The harness itself is asked for prompt, options and right answer of the items, so that nothing here knows a data set.
Pictures are opened, and decoded only where their end does not show that they are whole.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.data.image_columns import ALLOWED, columns_of, content_of, stored_images
from vrbench.data.images import inspect_image
from vrbench.data.locate import DataLocation
from vrbench.data.sampling import by_error
from vrbench.evaluation import definition_validation
from vrbench.evaluation.built_task import SubtaskData, documents_of
from vrbench.evaluation.harness_adapter import preserve_rng, quiet
from vrbench.tasks import item_keys
from vrbench.tasks.item_keys import identify
from vrbench.tasks.scoring import OPTION_COLUMNS, is_empty, outside
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named

if TYPE_CHECKING:
    from datasets import Dataset

TRIED = 20
"""Items that may come first in a task before it is said that the harness cannot read them."""


def validate_items(spec: TaskSpec, parts: Sequence[SubtaskData], located: DataLocation) -> Iterator[str]:
    """Every fault of the items that are used and of the examples in their prompts, one sentence a file and fault.

    Rows are counted from 0; where a row holds several items in lists, items are counted. What this package draws itself
    is not looked at.
    """
    if located.kind == "generated":
        yield from definition_validation.validate_definition(spec, parts[0])
        return
    is_sound = True
    for part in parts:
        for split, rows in part.rows.items():
            scored = split == spec.data.split
            place = located.describe(spec, part.config, split)
            broken = [*_column_faults(spec, rows)]
            broken += _told(_picture_faults(rows), part.positions if scored else range(len(rows)), spec)
            broken = broken or _item_faults(spec, part if scored else _examples(spec, part), scored)
            yield from (f"task {spec.id!r}: {place}, {fault}" for fault in broken)
            is_sound = is_sound and not broken
    if is_sound:
        yield from definition_validation.validate_definition(spec, parts[0])


def _examples(spec: TaskSpec, part: SubtaskData) -> SubtaskData:
    """The examples as if they were what is scored: the harness makes prompts of them in the same way."""
    rows = copy.copy(part.rows)
    rows[spec.data.split] = rows[spec.data.fewshot_split]
    return SubtaskData(part.config, range(len(rows[spec.data.split])), rows)


def _told(found: Iterable[tuple[int, str]], positions: Sequence[int], spec: TaskSpec) -> list[str]:
    """`by_error` with the places of the rows in the whole split."""
    return by_error(((positions[n] if n < len(positions) else n, text) for n, text in found), _noun(spec))


def _noun(spec: TaskSpec) -> str:
    """What is counted: rows, or items where a row of the file has several."""
    return "item" if spec.data.unnest else "row"


def _column_faults(spec: TaskSpec, rows: Dataset) -> Iterator[str]:
    """Image columns of a task with images that hold numbers, which are left as they are when a table is read."""
    if spec.harness == "lmms-eval":
        for name in spec.data.images:
            if name in rows.features and name not in columns_of(rows):
                yield f"column {name} holds {rows.features.arrow_schema.field(name).type} and no images; {ALLOWED}"


def _picture_faults(rows: Dataset) -> Iterator[tuple[int, str]]:
    for number, name, stored in stored_images(rows):
        if reason := inspect_image(content_of(stored))[0]:
            yield number, f"the image in column {name} cannot be used: {reason}"


def _item_faults(spec: TaskSpec, part: SubtaskData, scored: bool) -> list[str]:
    """Faults of the items: what the harness cannot read, show or score, answers that are none, and ids of several.

    Args:
        scored: whether they are scored; else they are examples, whose ids are of no account.
    """
    with quiet():
        task, ordered, reason = _readable(spec, part)
        if task is None:
            columns = ", ".join(part.rows[spec.data.split].column_names)
            return _told([(0, f"the harness cannot read it ({reason}); the columns are {columns}")], ordered, spec)
        documents = documents_of(task)
        if len(documents) != len(ordered):  # the harness's process_docs left some out; rows are counted behind it
            ordered = range(len(documents))
        twice = list(_shared_ids(spec, part.config, documents)) if scored else []
        if spec.scorer == "perplexity":
            return _told(twice, ordered, spec)
        shown = _stand_ins(task) if spec.harness == "lmms-eval" else [None] * len(documents)
        read: set[Any] = set()
        told = [_fault(spec, task, row, held, read) for row, held in zip(documents, shown, strict=True)]
        found = [(number, fault) for number, fault in enumerate(told) if fault]
    if not found:
        check_units = scorer_named(spec.scorer).check_units
        found = list(check_units(documents)) if check_units else []
    return _told(sorted([*found, *twice], key=lambda fault: ordered[fault[0]]), ordered, spec)


def _shared_ids(spec: TaskSpec, config: str, documents: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """Items whose id another item has too: two runs could not be compared item by item."""
    if spec.id_column is None:  # the row's number is the id
        return
    ids: dict[str, list[int]] = {}
    for number, row in enumerate(documents):
        with contextlib.suppress(VrbenchError, KeyError):  # told by `_prompt_fault`
            ids.setdefault(identify(spec, row, config, number).id, []).append(number)
    for name, numbers in ids.items():
        if len(numbers) > 1:
            text = (
                f"they share the id {name!r} (id_column: {spec.id_column}); give each its own, or leave id_column out"
            )
            yield from ((number, text) for number in numbers)


def _fault(spec: TaskSpec, task: Any, row: Mapping[str, Any], held: Mapping[str, Any] | None, read: set[Any]) -> str:
    """The first fault of an item; empty if it has none.

    Args:
        held: stand-ins for its pictures, none where it is of a task that knows no pictures.
        read: shapes of the items whose prompt could be made; this one's is added.
    """
    return (
        _empty_fault(row)
        or _answer_fault(spec, task, row)
        or _prompt_fault(spec, task, row, read)
        or (_picture_fault(task, row, held) if held else "")
        or (_scoring_fault(task, row) if spec.harness == "lmms-eval" else "")
    )


def _empty_fault(row: Mapping[str, Any]) -> str:
    if "question" in row and is_empty(row["question"]):
        return "it has no question"
    for name in OPTION_COLUMNS:
        if isinstance(row.get(name), list) and None in row[name]:
            return f"one of its {name} is empty"
    return ""


def _prompt_fault(spec: TaskSpec, task: Any, row: Mapping[str, Any], read: set[Any]) -> str:
    shape = _shape(row)
    try:
        identify(spec, row, "", 0)
        if spec.harness == "lmms-eval" or shape not in read:  # lm-eval compiles its template anew for each row
            task.doc_to_text(row)
            read.add(shape)
    except Exception as error:  # whatever a template or a function of the harness raises over rows that are not its
        return f"the harness cannot read it ({_line(error)})"
    return ""


def _shape(value: Any) -> Any:
    """What of an item decides whether a template can read it: which values are there, and how long its lists are."""
    if isinstance(value, Mapping):
        return tuple(map(_shape, value.values()))
    return tuple(map(_shape, value)) if isinstance(value, list) else value is None


def _picture_fault(task: Any, row: Mapping[str, Any], held: Mapping[str, Any]) -> str:
    if all(is_empty(value) for value in held.values()):
        return "it has no picture"
    try:
        return "" if task.doc_to_visual({**row, **held}) else "it has no picture"
    except Exception as error:  # as above
        lists = [name for name, value in held.items() if isinstance(value, list)]
        if lists and isinstance(error, AttributeError):
            return (
                f"its harness task takes no list of images, which column {lists[0]} holds ({_line(error)}); give one "
                "image a row, or the task a prompt of its own, which shows all"
            )
        return f"a picture that belongs to it is not there ({_line(error)})"


def _scoring_fault(task: Any, row: Mapping[str, Any]) -> str:
    """Whether the harness can score an answer to an item at all; tried with an empty one."""
    try:
        with preserve_rng():
            task.process_results(copy.deepcopy(row), [""])
    except Exception as error:  # as above
        return f"the harness cannot score an answer to it ({_line(error)})"
    return ""


def _stand_ins(task: Any) -> list[dict[str, Any]]:
    """For each item its picture columns with one pixel for each picture that is there; no picture is decoded."""
    from PIL import Image

    rows = task.dataset[task.config.test_split]
    columns = columns_of(rows)
    if not columns:
        return [{} for _ in range(len(rows))]
    pixel = Image.new("RGB", (1, 1))
    found = []
    for batch in rows.select_columns(columns).with_format("arrow").iter(batch_size=32):
        values = [[one for chunk in batch[name].chunks for one in _held(chunk, pixel)] for name in columns]
        found += [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
    return found


def _held(column: Any, pixel: Any) -> list[Any]:
    """A pixel for each picture of an Arrow array, or for each in its lists; none where there is no picture."""
    if hasattr(column, "flatten") and hasattr(column, "offsets"):
        return [_held(value.values, pixel) if value.is_valid else None for value in column]
    return [pixel if there else None for there in column.is_valid().to_pylist()]


def _readable(spec: TaskSpec, part: SubtaskData) -> tuple[Any, Sequence[int], str]:
    """The harness's task over the items, their places, and why there is none, if there is none.

    The harnesses try the first item when a task is made, and a fault of that one alone is to be told as such. So
    another item is put first if they cannot read it, up to a few.
    """
    rows, reason = part.rows[spec.data.split], ""
    for first in range(min(TRIED, len(rows))):
        order = [first, *(number for number in range(len(rows)) if number != first)]
        turned = SubtaskData(part.config, [part.positions[number] for number in order], copy.copy(part.rows))
        turned.rows[spec.data.split] = rows.select(order) if first else rows
        try:
            task = turned.harness_task(spec)
            task.doc_to_text(documents_of(task)[0])
            return task, turned.positions, ""
        except Exception as error:  # whatever a template or a function of the harness raises over rows that are not its
            reason = reason or _line(error)
    return None, part.positions, reason


def _answer_fault(spec: TaskSpec, task: Any, row: Mapping[str, Any]) -> str:
    """What is wrong with an item's right answer; empty if nothing is."""
    if task.config.doc_to_target is None:
        return ""
    try:
        named = _columns(task.config.doc_to_target)
        if named and all(name in row and is_empty(row[name]) for name in named):
            return f"it has no answer (empty: {', '.join(sorted(named))})"
        target = task.doc_to_target(row)
        if is_empty(target):
            return "it has no answer"
        if task.OUTPUT_TYPE == "multiple_choice":
            if task.multiple_input:
                target = task.doc_to_text(row)
            return outside(target, task.doc_to_choice(row))
        return scorer_named(spec.scorer).check_target(target, row)
    except Exception as error:  # as above
        return f"no answer can be made of it ({_line(error)})"


def _columns(target: Any) -> set[str]:
    """Columns that a template for the right answer names; none of a function."""
    if not isinstance(target, str):
        return set()
    if "{{" not in target:
        return {target}
    try:
        return item_keys.variables(target)
    except VrbenchError:  # it uses a filter that only the harness knows
        return set()


def _line(error: Exception) -> str:
    os_errors.reraise_os_error(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
