"""Rows of a data set as they are stored: their digest, and which of them a limit selects."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import VrbenchError
from vrbench.core.io import canonical_json
from vrbench.tasks import item_keys
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 64
"""Rows that become Python values at a time."""

MAX_LISTED = 5
"""Rows that are named for each error of a file, and errors that are named for each file."""


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the sha256 of items in order, all columns; of images their stored bytes, else their pixels.

    Give it a `Dataset` rather than a list of its rows: its images are then not decoded.
    """
    total = hashlib.sha256()
    for row in iterate_undecoded(rows):
        total.update(canonical_json(_to_json(row)).encode() + b"\n")
    return total.hexdigest()


def select(
    loaded: Mapping[str, Mapping[str, Dataset]], spec: TaskSpec, limit: int | None = None, seed: int = 0
) -> dict[str, list[int]]:
    """Select the items used under a limit: config -> ascending positions in the scored split.

    Units (an MME pair, an MMBench question in all rotations) are taken whole, one from each stratum in turn, in an
    order that the seed decides, until the next unit would exceed the limit. A stratum is a group of a config, so that
    subtasks, subjects and configs get the same number of units as far as they have so many. A smaller limit's items are
    among a larger one's, and there are never more than `limit`, except when the first unit alone is larger.

    Args:
        limit: items of the whole task, all configs together; None for all.

    Returns:
        Only configs with selected items.

    Raises:
        VrbenchError: the limit is below 1; or the group or unit of a row cannot be computed.
    """
    if limit is None:
        return {config: list(range(len(parts[spec.data.split]))) for config, parts in loaded.items()}
    if limit < 1:
        raise VrbenchError(f"limit is {limit}; it must be at least 1")
    taken: list[tuple[str, int]] = []
    for unit in _round_robin(_stratify(loaded, spec), random.Random(f"{seed} {spec.id}")):
        if taken and len(taken) + len(unit) > limit:
            break
        taken += unit
    chosen: dict[str, list[int]] = {config: [] for config in loaded}
    for config, position in taken:
        chosen[config].append(position)
    return {config: sorted(positions) for config, positions in chosen.items() if positions}


def _stratify(loaded: Mapping[str, Mapping[str, Dataset]], spec: TaskSpec) -> list[list[list[tuple[str, int]]]]:
    """Return stratum -> unit -> (config, position) of its items.

    A unit is the items of one group with one value of `spec.unit`, which metrics keep together; it belongs to the
    stratum of its first item.
    """
    if spec.group is None and spec.unit is None:
        parts_of = {config: len(parts[spec.data.split]) for config, parts in loaded.items()}
        return [[[(config, position)] for position in range(n)] for config, n in parts_of.items() if n]
    columns = sorted(item_keys.columns(key for key in (spec.group, spec.unit) if key is not None))
    strata: dict[tuple[str, str], list[list[tuple[str, int]]]] = {}
    units: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for config, parts in loaded.items():
        rows = parts[spec.data.split]
        here = [name for name in columns if name in rows.column_names]
        values = iterate_undecoded(rows, here) if here else ({} for _ in range(len(rows)))
        for position, value in enumerate(values):
            row = {"config": config, **value}
            try:
                group = config if spec.group is None else item_keys.evaluate(spec.group, row)
                unit = f"{config}/{position}" if spec.unit is None else item_keys.evaluate(spec.unit, row)
            except VrbenchError as error:
                place = f"{spec.data.name} (config {config}, split {spec.data.split})"
                raise VrbenchError(f"task {spec.id!r}: {place}, row {position}: {error}") from error
            if (group, unit) not in units:
                units[group, unit] = []
                strata.setdefault((config, group), []).append(units[group, unit])
            units[group, unit].append((config, position))
    return list(strata.values())


def _round_robin(strata: list[list[list[tuple[str, int]]]], draw: random.Random) -> Iterator[list[tuple[str, int]]]:
    for units in strata:
        draw.shuffle(units)
    draw.shuffle(strata)
    for turn in range(max((len(units) for units in strata), default=0)):
        yield from (units[turn] for units in strata if turn < len(units))


def group_by_error(found: Iterable[tuple[int, str]], noun: str = "row") -> list[str]:
    """Return rows and what is wrong with each as one text for each error: "rows 3, 8 and 2 more: no answer"."""
    rows: dict[str, list[int]] = {}
    for number, text in found:
        rows.setdefault(text, []).append(number)
    if len(rows) > MAX_LISTED:
        rest = [number for text in list(rows)[MAX_LISTED:] for number in rows.pop(text)]
        rows["these have errors too"] = sorted(set(rest))
    messages = []
    for text, numbers in rows.items():
        more = f" and {len(numbers) - MAX_LISTED} more" if len(numbers) > MAX_LISTED else ""
        messages.append(f"{noun}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:MAX_LISTED]))}{more}: {text}")
    return messages


def iterate_undecoded(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield rows with their images as stored bytes, from a `Dataset` or a list.

    Args:
        columns: those that are wanted, of a `Dataset`; None for all.
    """
    if not hasattr(rows, "with_format"):
        yield from map(dict, rows)
        return
    data: Any = rows
    if data._indices is None:
        table = data.data.table if columns is None else data.data.table.select(columns)
        batches = table.to_batches(max_chunksize=BATCH)
    else:
        batches = (data if columns is None else data.select_columns(columns)).with_format("arrow").iter(BATCH)
    for batch in batches:
        yield from batch.to_pylist()


def _to_json(value: Any) -> Any:
    """Return a value as canonical JSON can hold it: bytes and images as their sha256, other types as text."""
    if isinstance(value, Mapping):
        if set(value) == {"bytes", "path"} and value["bytes"] is not None:
            return _to_json(value["bytes"])  # where a mirror keeps the file is not part of the image
        return {str(name): _to_json(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(part) for part in value]
    if isinstance(value, bytes):
        return f"sha256 {hashlib.sha256(value).hexdigest()}"
    if hasattr(value, "tobytes") and hasattr(value, "convert"):
        return f"{value.mode} {value.size} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
