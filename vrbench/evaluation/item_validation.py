"""Errors in a task's items, reported with file and row before any weights are loaded.

The harness itself is asked for prompt, options and right answer of each item, so that nothing here knows a data set.
Images are opened, and decoded only where their end does not show that they are complete.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.data.image_columns import ALLOWED, columns_of, content_of, stored_images
from vrbench.data.images import inspect_image
from vrbench.data.locate import DataLocation
from vrbench.data.sampling import group_by_error
from vrbench.evaluation.built_task import SubtaskData, documents_of
from vrbench.evaluation.definition_validation import validate_definition
from vrbench.evaluation.harness_adapter import preserve_rng, silence_output
from vrbench.tasks import item_keys
from vrbench.tasks.scoring import OPTION_COLUMNS, check_option, is_empty
from vrbench.tasks.spec import TaskSpec
from vrbench.tasks.task_code import scorer_named

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]

MAX_FIRST_ITEMS = 20
"""Items that are tried as a task's first one before the harness is said to be unable to read them."""


def validate_items(spec: TaskSpec, subtasks: Sequence[SubtaskData], location: DataLocation) -> Iterator[str]:
    """Yield every error in the items that are used and in their few-shot examples, one sentence per file and error.

    Rows are counted from 0; where a row holds several items in lists, items are counted. Data that this package
    generates are not checked. Where the items have no error, the task's definition is validated with them.
    """
    has_errors = False
    for subtask in subtasks if location.kind != "generated" else ():
        for split, rows in subtask.rows.items():
            is_scored = split == spec.data.split
            part = subtask if is_scored else _examples_as_items(spec, subtask)
            errors = [*_column_errors(spec, rows), *_group_by_row(_image_errors(rows), part.positions, spec)]
            errors = errors or _item_errors(spec, part, is_scored)
            place = location.describe(spec, subtask.config, split)
            yield from (f"task {spec.id!r}: {place}, {error}" for error in errors)
            has_errors = has_errors or bool(errors)
    if not has_errors:
        yield from validate_definition(spec, subtasks[0])


def _examples_as_items(spec: TaskSpec, subtask: SubtaskData) -> SubtaskData:
    """Return the few-shot examples in the place of scored items: the harness makes prompts of them in the same way."""
    rows = copy.copy(subtask.rows)
    rows[spec.data.split] = rows[spec.data.fewshot_split]
    return SubtaskData(subtask.config, range(len(rows[spec.data.split])), rows)


def _group_by_row(errors: Iterable[tuple[int, str]], positions: Sequence[int], spec: TaskSpec) -> list[str]:
    """Group errors by the rows' positions in the whole split; a row of the file may hold several items."""
    noun = "item" if spec.data.unnest else "row"
    return group_by_error(((positions[n] if n < len(positions) else n, text) for n, text in errors), noun)


def _column_errors(spec: TaskSpec, rows: Dataset) -> Iterator[str]:
    """Yield an error for each image column that holds numbers, which are left as they are when a table is read."""
    if spec.harness == "lmms-eval":
        for name in spec.data.images:
            if name in rows.features and name not in columns_of(rows):
                yield f"column {name} holds {rows.features.arrow_schema.field(name).type} and no images; {ALLOWED}"


def _image_errors(rows: Dataset) -> Iterator[tuple[int, str]]:
    for number, name, stored in stored_images(rows):
        if reason := inspect_image(content_of(stored))[0]:
            yield number, f"the image in column {name} cannot be used: {reason}"


def _item_errors(spec: TaskSpec, subtask: SubtaskData, is_scored: bool) -> list[str]:
    """Return errors for items that cannot be read, shown or scored, lack a right answer, or share an id.

    Args:
        is_scored: whether the items are scored; else they are examples, whose ids do not matter.
    """
    with silence_output():
        task, positions, reason = _readable_task(spec, subtask)
        if task is None:
            columns = ", ".join(subtask.rows[spec.data.split].column_names)
            message = f"the harness cannot read it ({reason}); the columns are {columns}"
            return _group_by_row([(0, message)], positions, spec)
        documents = documents_of(task)
        if len(documents) != len(positions):  # the harness's process_docs dropped some; the others are counted
            positions = range(len(documents))
        errors = list(_duplicate_id_errors(spec, subtask.config, documents)) if is_scored else []
        if spec.scorer == "perplexity":
            return _group_by_row(errors, positions, spec)
        images = _placeholders(task) if spec.harness == "lmms-eval" else [{} for _ in documents]
        check = _ItemCheck(spec, task)
        found = [(n, e) for n, (row, held) in enumerate(zip(documents, images, strict=True)) if (e := check(row, held))]
    check_units = scorer_named(spec.scorer).check_units
    errors += found or (check_units(documents) if check_units else [])
    return _group_by_row(sorted(errors, key=lambda error: positions[error[0]]), positions, spec)


def _readable_task(spec: TaskSpec, subtask: SubtaskData) -> tuple[Any, Sequence[int], str]:
    """Return the harness's task over the items and their positions; without a task, the reason.

    The harnesses try the first item when a task is made, and an error in that one alone is reported as such. So another
    item is put first if they cannot read it, up to a few.
    """
    rows, reason = subtask.rows[spec.data.split], ""
    for first in range(min(MAX_FIRST_ITEMS, len(rows))):
        candidate = subtask
        if first:
            order = [first, *(number for number in range(len(rows)) if number != first)]
            positions = [subtask.positions[number] for number in order]
            candidate = SubtaskData(subtask.config, positions, copy.copy(subtask.rows))
            candidate.rows[spec.data.split] = rows.select(order)
        try:
            task = candidate.harness_task(spec)
            task.doc_to_text(documents_of(task)[0])
            return task, candidate.positions, ""
        except Exception as error:  # whatever a template or a function of the harness raises over rows not made for it
            reason = reason or _one_line(error)
    return None, subtask.positions, reason


def _duplicate_id_errors(spec: TaskSpec, config: str, documents: Iterable[Row]) -> Iterator[tuple[int, str]]:
    """Yield an error for items that share an id: two runs could not be compared item by item."""
    if spec.id_column is None:  # the row's number is the id
        return
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(documents):
        with contextlib.suppress(VrbenchError, KeyError):  # reported with the prompt
            numbers.setdefault(item_keys.identify(spec, row, config, number).id, []).append(number)
    for name, shared in numbers.items():
        error = f"they share the id {name!r} (id_column: {spec.id_column}); give each its own, or leave id_column out"
        yield from ((number, error) for number in shared if len(shared) > 1)


class _ItemCheck:
    """Finds the first error of an item."""

    def __init__(self, spec: TaskSpec, task: Any) -> None:
        self._spec, self._task = spec, task
        self._read: set[Any] = set()

    def __call__(self, row: Row, images: Row) -> str:
        """Return the first error, or nothing.

        Args:
            images: column -> placeholders for its images.
        """
        cannot_score = "the harness cannot score an answer to it"
        return (
            _missing_question(row)
            or _attempt("no answer can be made of it", lambda: self._target_error(row))
            or _attempt("the harness cannot read it", lambda: self._read_prompt(row))
            or (self._image_error(row, images) if images else "")
            or (_attempt(cannot_score, lambda: self._score(row)) if self._spec.harness == "lmms-eval" else "")
        )

    def _target_error(self, row: Row) -> str:
        task = self._task
        if task.config.doc_to_target is None:
            return ""
        columns = _target_columns(task.config.doc_to_target)
        if columns and all(name in row and is_empty(row[name]) for name in columns):
            return f"it has no answer (empty: {', '.join(sorted(columns))})"
        target = task.doc_to_target(row)
        if is_empty(target):
            return "it has no answer"
        if task.OUTPUT_TYPE == "multiple_choice":
            return check_option(task.doc_to_text(row) if task.multiple_input else target, task.doc_to_choice(row))
        return scorer_named(self._spec.scorer).check_target(target, row)

    def _read_prompt(self, row: Row) -> str:
        item_keys.identify(self._spec, row, "", 0)
        shape = _row_structure(row)
        if self._spec.harness == "lmms-eval" or shape not in self._read:  # a template reads rows of one shape alike
            self._task.doc_to_text(row)
            self._read.add(shape)
        return ""

    def _image_error(self, row: Row, images: Row) -> str:
        if all(is_empty(value) for value in images.values()):
            return "it has no image"
        try:
            return "" if self._task.doc_to_visual({**row, **images}) else "it has no image"
        except Exception as error:  # whatever a function of the harness raises
            lists = [name for name, value in images.items() if isinstance(value, list)]
            if lists and isinstance(error, AttributeError):
                return (
                    f"its harness task takes no list of images, which column {lists[0]} holds ({_one_line(error)}); "
                    "give one image a row, or the task a prompt of its own, which shows all"
                )
            return f"an image that belongs to it is missing ({_one_line(error)})"

    def _score(self, row: Row) -> str:
        """Score an empty answer."""
        with preserve_rng():
            self._task.process_results(copy.deepcopy(row), [""])
        return ""


def _attempt(failure: str, action: Callable[[], str]) -> str:
    """Return the error that an action finds, or that it fails with any exception of a template or the harness."""
    try:
        return action()
    except Exception as error:
        return f"{failure} ({_one_line(error)})"


def _missing_question(row: Row) -> str:
    if "question" in row and is_empty(row["question"]):
        return "it has no question"
    empty = (name for name in OPTION_COLUMNS if isinstance(row.get(name), list) and None in row[name])
    return next((f"one of its {name} is empty" for name in empty), "")


def _row_structure(value: Any) -> Any:
    """Return what determines whether a template can read an item: its values present, and lengths of lists."""
    if isinstance(value, Mapping):
        return tuple(map(_row_structure, value.values()))
    return tuple(map(_row_structure, value)) if isinstance(value, list) else value is None


def _target_columns(target: Any) -> set[str]:
    """Return columns that a template for the right answer names; none of a function."""
    if not isinstance(target, str):
        return set()
    if "{{" not in target:
        return {target}
    try:
        return item_keys.variables(target)
    except VrbenchError:  # it uses a filter that only the harness knows
        return set()


def _placeholders(task: Any) -> list[dict[str, Any]]:
    """Return each item's image columns with one pixel for each image; no image is decoded."""
    from PIL import Image

    rows = task.dataset[task.config.test_split]
    columns, pixel = columns_of(rows), Image.new("RGB", (1, 1))
    if not columns:
        return [{} for _ in range(len(rows))]
    found = []
    for batch in rows.select_columns(columns).with_format("arrow").iter(batch_size=32):
        values = [[one for chunk in batch[name].chunks for one in _blank_pixels(chunk, pixel)] for name in columns]
        found += [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
    return found


def _blank_pixels(column: Any, pixel: Any) -> list[Any]:
    """Return a pixel for each image of an Arrow array, or for each in its lists; None where there is no image."""
    if hasattr(column, "flatten") and hasattr(column, "offsets"):
        return [_blank_pixels(value.values, pixel) if value.is_valid else None for value in column]
    return [pixel if is_there else None for is_there in column.is_valid().to_pylist()]


def _one_line(error: Exception) -> str:
    os_errors.reraise_os_error(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
