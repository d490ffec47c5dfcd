"""Loads a task's items as `datasets` splits, from where `locate` found them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench import pocket
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.data import hub, local_mirror
from vrbench.data.locate import COMMIT, DataLocation, needed_columns, validate_split
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def load(spec: TaskSpec, location: DataLocation) -> dict[str, DatasetDict]:
    """Load a task's items: config -> split -> rows. Images decode to PIL images when a row is read.

    The config is "default" for a set that has none; the splits are those that the task names.

    Raises:
        VrbenchError: items cannot be read, are none, or lack a column that the task needs: the errors of all files
            together.
    """
    from datasets import DatasetDict

    loaded: dict[str, DatasetDict] = {}
    errors: list[str] = []
    for config in spec.data.configs:
        parts = {}
        for split in spec.data.splits:
            try:
                parts[split] = _load_checked(spec, location, config, split)
            except hub.UnreachableError:
                raise
            except VrbenchError as error:
                errors += error_messages(error)
        loaded[config] = DatasetDict(parts)
    raise_errors(errors)
    return loaded


def revision(spec: TaskSpec, location: DataLocation, loaded: Mapping[str, Mapping[str, Dataset]]) -> str:
    """Return the commits of the hub's set that loaded items are of; "" where they are not recorded.

    `datasets` names the folder of what it prepares after the commit, and offline it takes the newest that it has,
    whatever commit it is asked for; so the commit is read from what was loaded.
    """
    if location.root is not None:
        files = local_mirror.recorded_files(spec.data, local_mirror.read(location.root))
        return ", ".join(dict.fromkeys(file.revision for file in files.values()))
    commits = [commit for parts in loaded.values() for rows in parts.values() for commit in _commits(rows)]
    return ", ".join(dict.fromkeys(commits))


def _commits(rows: Dataset) -> Iterator[str]:
    for file in rows.cache_files:
        folder = Path(file["filename"]).parent.name
        if COMMIT.fullmatch(folder):
            yield folder


def _load_checked(spec: TaskSpec, location: DataLocation, config: str, split: str) -> Dataset:
    """Load a split, one item per row, with the columns named as the task names them."""
    from vrbench.data import tables

    place, source = location.describe(spec, config, split), spec.data
    rows = _split(spec, location, config, split)
    others = _split(spec, location, source.join.config, split) if source.join else None
    try:
        if source.join is not None and others is not None:
            rows = tables.join_columns(rows, others, source.join.column, source.join.key)
        if source.unnest:
            rows = tables.unnest(rows, source.unnest, source.images)
    except VrbenchError as error:
        raise VrbenchError(f"task {spec.id!r}: {place}, {error}") from error
    raise_errors(validate_split(spec, place, split, len(rows), rows.column_names, needed_columns(spec)))
    renamed = {stored: name for name, stored in source.columns.items()}
    return rows.rename_columns(renamed) if renamed else rows


def _split(spec: TaskSpec, location: DataLocation, config: str, split: str) -> Dataset:
    from vrbench.data import tables

    if location.kind == "generated":
        return _generated(spec.data.name, split)
    renamed = spec.data.columns  # image columns as the data call them
    images = list(dict.fromkeys([*spec.data.images, *(renamed[n] for n in spec.data.images if n in renamed)]))
    if location.files:
        return tables.from_file(location.files[config, split], images)
    rows = _from_hub(spec, location, config, split)
    return tables.from_hub(rows, images, location.describe(spec, config, split))


@lru_cache(maxsize=16)
def _generated(name: str, split: str) -> Dataset:
    from vrbench.data import tables

    return tables.from_rows(pocket.generate(name, split))


@lru_cache(maxsize=64)
def _commit(name: str, revision: str) -> str:
    return hub.commit(name, revision)  # once a run: the commit that is loaded is the one that the record names


def _from_hub(spec: TaskSpec, location: DataLocation, config: str, split: str) -> Dataset:
    from datasets import load_dataset

    name, wanted = spec.data.name, spec.data.revision
    sha = _commit(name, wanted) if location.kind == "hub" else wanted
    try:
        rows = load_dataset(name, None if config == "default" else config, split=split, revision=sha or None)
    except Exception as error:  # `datasets` raises many kinds
        os_errors.reraise_os_error(error)
        raise VrbenchError(
            f"task {spec.id!r}: data set {name} (config {config}, split {split}) cannot be loaded from the hub: "
            f"{error}; give --data-root DIR with {name}/{config}/{split}.parquet in it"
        ) from error
    other = next((commit for commit in _commits(rows) if COMMIT.fullmatch(sha) and commit != sha), "")
    if other:
        raise VrbenchError(
            f"task {spec.id!r}: revision {sha} of data set {name} was requested, but the hub's cache gave {other}; "
            f"run once online, or make a data root with `vrbench data download`"
        )
    return rows
