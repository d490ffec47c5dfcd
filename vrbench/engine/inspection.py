"""What is wrong with a task's items, told by file and row before weights are loaded.

The harness itself is asked for prompt, options and right answer of the items, so that nothing here knows a data set.
Pictures are opened, and decoded only where their end does not show that they are whole.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrbench import keys
from vrbench.data import Located
from vrbench.engine import harness
from vrbench.engine.harness import Part
from vrbench.errors import VrbenchError
from vrbench.registry import TaskSpec

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 5
"""Rows that are named of each fault of a file, and faults that are named of each file."""

TRIED = 20
"""Items that may come first in a task before it is said that the harness cannot read them."""

JPEG_END = b"\xff\xd9"
TRAILER = 64
"""Bytes at the end of a JPEG file in which its end mark is looked for; some cameras write a little behind it."""


def faults(spec: TaskSpec, parts: Sequence[Part], located: Located) -> Iterator[str]:
    """Every fault of the items that are used and of the examples in their prompts, one sentence a file and fault.

    Rows are counted from 0. What this package draws itself is not looked at.
    """
    if located.kind == "generated":
        return
    for part in parts:
        for split, rows in part.rows.items():
            scored = split == spec.data.split
            place = located.place(spec, part.config, split)
            broken = _told(_picture_faults(rows), part.positions if scored else range(len(rows)))
            yield from (f"task {spec.id!r}: {place}, {fault}" for fault in broken)
            if scored and not broken:
                yield from (f"task {spec.id!r}: {place}, {fault}" for fault in _item_faults(spec, part))


def _told(found: Iterable[tuple[int, str]], positions: Sequence[int]) -> list[str]:
    """Faults of rows by their text: "rows 3, 8 and 2 more: no answer"."""
    rows: dict[str, list[int]] = {}
    for number, text in found:
        rows.setdefault(text, []).append(positions[number] if number < len(positions) else number)
    told = []
    if len(rows) > SHOWN:
        rest = [number for text in list(rows)[SHOWN:] for number in rows.pop(text)]
        rows["these have faults too"] = sorted(set(rest))
    for text, numbers in rows.items():
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        shown = ", ".join(map(str, numbers[:SHOWN]))
        told.append(f"row{'s' * (len(numbers) > 1)} {shown}{more}: {text}")
    return told


def _picture_faults(rows: Dataset) -> Iterator[tuple[int, str]]:
    from datasets import Image

    columns = [name for name, kind in rows.features.items() if isinstance(getattr(kind, "feature", kind), Image)]
    if not columns:
        return
    stored = rows.select_columns(columns).with_format("arrow")
    number = 0
    for batch in stored.iter(batch_size=32):
        for row in batch.to_pylist():
            for name, value in row.items():
                for picture in value if isinstance(value, list) else [value]:
                    reason = "" if picture is None else _broken(picture.get("bytes"))
                    if reason:
                        yield number, f"the picture in column {name} is broken: {reason}"
            number += 1


def _broken(content: bytes | None) -> str:
    """Why a picture cannot be decoded; empty if it can."""
    from PIL import Image, ImageFile

    if not content:
        return "it has no bytes"
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # lmms-eval makes it lenient
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.format == "PNG":
                picture.verify()  # the checksums of all its chunks
            elif picture.format != "JPEG" or JPEG_END not in content[-TRAILER:]:
                picture.load()
    except Exception as error:  # Pillow's decoders raise many kinds
        return re.sub(r" <_io\.BytesIO object at \w+>", "", _line(error))
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return ""


def _item_faults(spec: TaskSpec, part: Part) -> list[str]:
    """Faults of the scored items: what the harness cannot read, and answers that are none."""
    with harness.quiet():
        task, ordered, reason = _readable(spec, part)
        if task is None:
            columns = ", ".join(part.rows[spec.data.split].column_names)
            return [f"row {part.positions[0]}: the harness cannot read it ({reason}); the columns are {columns}"]
        if spec.scorer == "perplexity":
            return []
        documents = harness.documents_of(task)
        found = [(number, fault) for number, row in enumerate(documents) if (fault := _answer_fault(spec, task, row))]
    if len(documents) != len(ordered):  # the harness's process_docs left some out; rows are counted behind it
        ordered = range(len(documents))
    return _told(sorted(found, key=lambda fault: ordered[fault[0]]), ordered)


def _readable(spec: TaskSpec, part: Part) -> tuple[Any, Sequence[int], str]:
    """The harness's task over the items, their places, and why there is none, if there is none.

    The harnesses try the first item when a task is made, and a fault of that one alone is to be told as such. So
    another item is put first if they cannot read it, up to a few.
    """
    rows, reason = part.rows[spec.data.split], ""
    for first in range(min(TRIED, len(rows))):
        order = [first, *(number for number in range(len(rows)) if number != first)]
        turned = Part(part.config, [part.positions[number] for number in order], copy.copy(part.rows))
        turned.rows[spec.data.split] = rows.select(order) if first else rows
        try:
            task = harness.task_of(spec, turned)
            task.doc_to_text(harness.documents_of(task)[0])
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
        if named and all(name in row and _is_empty(row[name]) for name in named):
            return f"it has no answer (empty: {', '.join(sorted(named))})"
        target = task.doc_to_target(row)
        if _is_empty(target):
            return "it has no answer"
        if task.OUTPUT_TYPE == "multiple_choice":
            if task.multiple_input:
                target = task.doc_to_text(row)
            return _outside(target, task.doc_to_choice(row))
        return GOLD.get(spec.scorer, _any)(target, row)
    except Exception as error:  # as above
        return f"no answer can be made of it ({_line(error)})"


def _columns(target: Any) -> set[str]:
    """Columns that a template for the right answer names; none of a function."""
    if not isinstance(target, str):
        return set()
    if "{{" not in target:
        return {target}
    try:
        return keys.variables(target)
    except VrbenchError:  # it uses a filter that only the harness knows
        return set()


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, list) and not value)


def _outside(target: Any, options: Sequence[Any]) -> str:
    """Whether a right answer, or one of several, is no option: by number from 0, or by its text."""
    for gold in target if isinstance(target, list) else [target]:
        known = 0 <= gold < len(options) if isinstance(gold, int) else gold in options
        if not known:
            return f"the right answer, {gold!r}, is none of the {len(options)} options"
    return ""


def _yes_or_no(target: Any, row: Mapping[str, Any]) -> str:
    known = str(target).strip().lower() in ("yes", "no")
    return "" if known else f"the right answer, {target!r}, is neither yes nor no"


def _letter_column(target: Any, row: Mapping[str, Any]) -> str:
    """MMBench: each option in a column that its letter names."""
    here = [letter for letter in "ABCDEFGH" if str(row.get(letter) or "").strip() not in ("", "nan")]
    return "" if target in here else f"the right answer, {target!r}, is none of the options {', '.join(here)}"


def _letter_choice(target: Any, row: Mapping[str, Any]) -> str:
    """SEED-Bench: options in the columns choice_a to choice_d."""
    here = [letter for letter in "ABCD" if not _is_empty(row.get(f"choice_{letter.lower()}"))]
    return "" if str(target).strip().upper() in here else f"the right answer, {target!r}, is none of {', '.join(here)}"


def _any(target: Any, row: Mapping[str, Any]) -> str:
    """Any answer will do, unless the row has a list of options and the answer is a number or a letter of them."""
    options: list[Any] = next((row[name] for name in ("options", "choices") if isinstance(row.get(name), list)), [])
    if not options:
        return ""
    if isinstance(target, int):
        return _outside(target, options)
    if isinstance(target, str) and len(target.strip()) == 1 and "A" <= target.strip() <= "Z":
        known = ord(target.strip()) - ord("A") < len(options) or target in options
        return "" if known else f"the right answer, {target!r}, is none of the {len(options)} options"
    return ""


GOLD: dict[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "mme": _yes_or_no,
    "mmbench": _letter_column,
    "seed": _letter_choice,
}
"""Scorer -> what a right answer of its data may be; the others take `_any`."""


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
