"""Locating a task's items: generated, in a local mirror of the hub, in a local file, or on the hub.

Locating is cheap: `datasets` is not imported, and no row is read. With a data root, or with HF_HUB_OFFLINE=1, nothing
touches the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vrbench import pocket
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.data import hub, local_mirror
from vrbench.tasks import item_keys
from vrbench.tasks.spec import DataSource, TaskSpec

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class DataLocation:
    """Where a task's items are.

    Attributes:
        kind: "generated", "file", "root" (a data root), "cache" (the hub's cache, offline) or "hub" (online).
        origin: one line for the record: data set and where it comes from.
        files: (config, split) -> file, for kinds "file" and "root".
        root: the data root, for kind "root".
    """

    kind: str
    origin: str
    files: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    root: Path | None = None

    def describe(self, spec: TaskSpec, config: str, split: str) -> str:
        """Return how messages name a split: its file, or its name in the hub's set."""
        return str(self.files.get((config, split), f"{spec.data.name} (config {config}, split {split})"))


class MissingDataError(VrbenchError):
    """The data of one task are not on this machine; data that are there and broken are another error.

    Attributes:
        task: its id.
        data_set: name of the set, or the local file.
        cause: what it "is not", the same text for all tasks with the same cause.
        remedy: what to do about it, likewise.
    """

    def __init__(self, task: str, data_set: str, cause: str, searched: str, remedy: str) -> None:
        self.task, self.data_set, self.cause, self.remedy = task, data_set, cause, remedy
        super().__init__(f"task {task!r}: data set {data_set} is not {cause} ({searched}); {remedy}")


@dataclass(frozen=True)
class LocatedData:
    """Where the data of several tasks are; no row was read.

    Attributes:
        located: task id -> location, of tasks whose data are there or can be downloaded.
        missing: one for each task whose data are not there.
        errors: what is wrong with data that are there.
    """

    located: Mapping[str, DataLocation]
    missing: tuple[MissingDataError, ...]
    errors: tuple[str, ...]

    def skipped(self) -> dict[str, str]:
        """Return task -> why it can be left out."""
        return {error.task: f"data set {error.data_set} is not {error.cause}" for error in self.missing}


def locate_all(specs: Iterable[TaskSpec], data_root: str | Path | None) -> LocatedData:
    """Locate the data of tasks, and read the footers of their files."""
    located: dict[str, DataLocation] = {}
    missing: list[MissingDataError] = []
    errors: list[str] = []
    for spec in specs:
        try:
            location = locate(spec, data_root)
            errors += validate_files(spec, location)
            located[spec.id] = location
        except MissingDataError as error:
            missing.append(error)
        except VrbenchError as error:
            errors += error_messages(error)
    return LocatedData(located, tuple(missing), tuple(errors))


def missing_messages(missing: Iterable[MissingDataError], advice: str = "") -> list[str]:
    """Return one sentence for each cause, with the tasks that it concerns.

    Args:
        advice: what else can be done about it; put behind the remedy.
    """
    causes: dict[tuple[str, str], list[MissingDataError]] = {}
    for error in missing:
        causes.setdefault((error.cause, error.remedy), []).append(error)
    messages = []
    for (cause, remedy), errors in causes.items():
        if len(errors) == 1:
            messages.append(f"{errors[0]}{advice}")
            continue
        sets = ", ".join(f"{error.task} ({error.data_set})" for error in errors)
        messages.append(f"the data sets of {len(errors)} tasks are not {cause}: {sets}; {remedy}{advice}")
    return messages


def skipped_note(skipped: Mapping[str, str]) -> str:
    """Return one sentence on tasks that were left out for lack of data.

    Args:
        skipped: as `LocatedData.skipped` gives it.
    """
    reasons: dict[str, list[str]] = {}
    for task, reason in skipped.items():
        reasons.setdefault(reason.partition(" is not ")[2] or reason, []).append(task)
    listed = "; ".join(f"{', '.join(tasks)} (not {reason})" for reason, tasks in reasons.items())
    return f"left out by --skip-missing, since their data are not there: {listed}"


def locate(spec: TaskSpec, data_root: str | Path | None = None) -> DataLocation:
    """Find out where a task's items are, without loading any.

    Raises:
        MissingDataError: which set, where it was searched for, and how to get it.
        VrbenchError: the data root is not a folder, or a local file is named that cannot be one.
    """
    source = spec.data
    if source.kind == "generated":
        raise_errors(f"task {spec.id!r}: {error}" for error in _validate_generator(source))
        return DataLocation("generated", f"{source.name} {source.split}, generated by vrbench")
    if source.kind == "file":
        return _locate_file(spec)
    if data_root is not None:
        return _locate_in_root(spec, Path(data_root))
    if not hub.is_offline():
        return DataLocation("hub", f"{source.name} {source.split}, from the hub")
    if not is_cached(source):
        cause = "whole in the hub's cache, and HF_HUB_OFFLINE forbids downloading"
        remedy = "give --data-root DIR, or run once online with HF_HUB_OFFLINE=0"
        raise MissingDataError(spec.id, source.name, cause, f"searched {hub.cache_folder(source.name)}", remedy)
    return DataLocation("cache", f"{source.name} {source.split}, from the hub's cache")


def is_cached(source: DataSource) -> bool:
    """Return whether `datasets` has prepared all configs of a set here, of the pinned commit if one is pinned."""
    commit = source.revision if COMMIT.fullmatch(source.revision) else "*"
    folder = hub.cache_folder(source.name)
    return all(any(folder.glob(f"{config}/*/{commit}")) for config in source.config or ("*",))


def require_folder(data_root: str | Path | None) -> None:
    """Raise a `VrbenchError` where the data root is given and is not a folder."""
    if data_root is not None and not Path(data_root).is_dir():
        raise VrbenchError(f"data root {str(data_root)!r} is not a folder")


def _validate_generator(source: DataSource) -> Iterator[str]:
    if source.name not in pocket.GENERATORS:
        yield f"generated data {source.name!r} are unknown; there are {', '.join(pocket.GENERATORS)}"
    for split in source.splits:
        if split not in pocket.SPLITS:
            yield f"split {split!r} is unknown; generated data have {' and '.join(pocket.SPLITS)}"


def _locate_file(spec: TaskSpec) -> DataLocation:
    file = Path(spec.data.name)
    if file.suffix not in (".parquet", ".jsonl"):
        raise VrbenchError(f"task {spec.id!r}: {file} is neither .parquet nor .jsonl")
    if not file.is_file():
        remedy = "data.name is relative to the task file"
        raise MissingDataError(spec.id, str(file), "there", f"there is no file {file}", remedy)
    if spec.data.fewshot_split:
        raise VrbenchError(f"task {spec.id!r}: a local file has one split; leave fewshot and fewshot_split out")
    return DataLocation("file", f"{file.name}, a local file", {("default", spec.data.split): file})


def _locate_in_root(spec: TaskSpec, root: Path) -> DataLocation:
    name = spec.data.name
    require_folder(root)
    files = {(config, split): root / local_mirror.key(name, config, split) for config, split in spec.data.parts}
    missing = [str(file.relative_to(root)) for file in files.values() if not file.is_file()]
    if missing:
        searched = f"missing: {', '.join(missing)}" if (root / name).is_dir() else f"{root / name} is not a folder"
        remedy = f"put each split at {root}/SET/CONFIG/SPLIT.parquet, or leave --data-root out to use the hub"
        raise MissingDataError(spec.id, name, f"whole under the data root {root}", searched, remedy)
    return DataLocation("root", f"{name} {spec.data.split}, from the data root", files, root)


def validate_files(spec: TaskSpec, location: DataLocation) -> Iterator[str]:
    """Return what is wrong with a task's parquet files by their footers, one sentence each; no row is read.

    Truncated files, files without rows, with fewer examples than the prompt needs, without a column that the task
    names, and files of another revision than the one that the task pins.
    """
    if location.root is not None:
        others = local_mirror.other_revisions(spec.data, local_mirror.read(location.root))
        if others:
            yield (
                f"task {spec.id!r} is for revision {spec.data.revision} of {spec.data.name}, but in the data root "
                f"{', '.join(others)}; download it again with `vrbench data download {spec.id} --to {location.root}`"
            )
    for (config, split), file in location.files.items():
        if file.suffix != ".parquet":
            continue
        try:
            footer = local_mirror.read_footer(file)
        except VrbenchError as error:
            yield f"task {spec.id!r}: {error}"
            continue
        join = spec.data.join
        if join is None:
            needed = [*spec.data.unnest, *needed_columns(spec)]
        else:  # the other columns may be in either config; they are checked when the two are joined
            needed = [join.key if config == join.config else join.column, *spec.data.unnest]
        names = footer.schema.to_arrow_schema().names
        yield from validate_split(spec, str(file), split, footer.num_rows, names, needed)


def validate_split(
    spec: TaskSpec, place: str, split: str, rows: int, names: Sequence[str], needed: Iterable[str]
) -> Iterator[str]:
    """Return what is wrong with the number of rows and with the columns of a split."""
    if not rows:
        yield f"task {spec.id!r}: {place} has 0 rows"
    elif split == spec.data.fewshot_split and rows < spec.fewshot:
        yield f"task {spec.id!r}: {place} has {rows} rows, but the prompt needs {spec.fewshot} examples"

    if missing := [name for name in dict.fromkeys(needed) if name not in names]:
        yield f"task {spec.id!r}: {place} has no column {', '.join(missing)}; it has {', '.join(names)}"


def needed_columns(spec: TaskSpec) -> list[str]:
    """Return the columns that a task needs, as the data should call them."""
    renamed = spec.data.columns
    keys = [spec.id_column, spec.cluster, spec.group, spec.unit, spec.target, spec.choices]
    templates = [text for text in (spec.prompt, spec.description) if text]
    try:
        needed = item_keys.columns(key for key in keys if isinstance(key, str))
        needed = needed.union(*map(item_keys.variables, templates))
    except VrbenchError as error:
        raise VrbenchError(f"task {spec.id!r}: {error}") from error
    return [*renamed.values(), *sorted(needed - set(renamed) - {"config"})]
