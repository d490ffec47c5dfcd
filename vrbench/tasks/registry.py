"""Reading task files, shipped or the user's own, as `TaskSpec`; selection by names such as "visual,pocket_*,mme"."""

from __future__ import annotations

import difflib
import fnmatch
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import parse_file
from vrbench.tasks import task_code
from vrbench.tasks.spec import TaskSpec

_log = logging.getLogger(__name__)


def tasks_dir() -> Path:
    """Return the folder of the task files: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_tasks"
    return shipped if shipped.is_dir() else package.parent / "tasks"


def load(include_path: str | Path | None = None) -> dict[str, TaskSpec]:
    """Read all task files, the user's own included, ordered by suite and id.

    Args:
        include_path: folder with the user's task files, searched in depth.

    Raises:
        VrbenchError: all errors of all files together, each with its file.
    """
    specs, broken = read_all(include_path)
    raise_errors(broken.values())
    return specs


@dataclass(frozen=True)
class RequestedTasks:
    """The tasks that some names could select.

    Attributes:
        specs: all valid tasks by id.
        errors: those of the broken files that a name means, or could mean.
        names: those that valid tasks answer, or that nothing answers.
    """

    specs: dict[str, TaskSpec]
    errors: tuple[str, ...]
    names: tuple[str, ...]


def load_for(
    names: str | Sequence[str], include_path: str | Path | None, trust_task_code: bool = False
) -> RequestedTasks:
    """Read all task files for some names; broken files that none of them could mean are warned of, a line each.

    A name means a broken file if it matches its stem, its id or one of its suites. Where suites cannot be read, a name
    that is neither the id of a valid task nor of a broken file could.

    Args:
        trust_task_code: whether scorers in Python beside task files may run.

    Raises:
        VrbenchError: the include path is not a folder, or has no task file.
    """
    specs, broken = read_all(include_path, trust_task_code)
    wanted = _split(names)
    labels = {file: _id_and_suites(file) for file in broken}
    meant = {
        name: [f for f in broken if any(fnmatch.fnmatchcase(label, name) for label in (f.stem, *(labels[f] or ())))]
        for name in wanted
    }
    reported = {file for files in meant.values() for file in files}
    if any(not meant[name] and name not in specs for name in wanted):
        reported |= {file for file in broken if labels[file] is None}
    for file, error in broken.items():
        if file not in reported:
            _log.warning("vrbench: left out, since it was not requested: %s", "; ".join(error.splitlines()))
    left = tuple(name for name in wanted if not meant[name] or matching(name, specs))
    return RequestedTasks(specs, tuple(broken[file] for file in broken if file in reported), left)


def read_all(
    include_path: str | Path | None = None, trust_task_code: bool = False
) -> tuple[dict[str, TaskSpec], dict[Path, str]]:
    """Read all task files as `load` does; returns the valid tasks, and the errors of each broken file."""
    files = sorted(tasks_dir().glob("*/*.yaml"))
    if include_path is not None:
        files += _user_task_files(Path(include_path))
    specs: dict[str, TaskSpec] = {}
    origin: dict[str, Path] = {}
    broken: dict[Path, str] = {}
    for file in files:
        try:
            spec = _read_shipped(file) if file.is_relative_to(tasks_dir()) else read(file, trust_task_code)
        except VrbenchError as error:
            broken[file] = str(error)
            continue
        if spec.id in origin:
            taken = origin[spec.id]
            broken[file] = f"{file}: task id {spec.id!r} is taken by {taken}; choose another file name and id"
            continue
        specs[spec.id], origin[spec.id] = spec, file
    return specs, broken


@cache
def _read_shipped(file: Path) -> TaskSpec:
    return read(file)


def read(file: Path, trust_task_code: bool = False) -> TaskSpec:
    """Read one task file; a local data file, and a scorer of the user's own, are named relative to it.

    Raises:
        VrbenchError: not YAML, a key twice, an unknown or missing key, an id that is not the file's stem, or a scorer
            in Python that may not run or cannot be loaded.
    """
    raw = parse_file(file, f"{file}: it", "YAML")
    if not isinstance(raw, dict):
        raise VrbenchError(f"{file}: a task file is a mapping of keys, such as 'id: {file.stem}'")
    data, scorer = raw.get("data"), raw.get("scorer")
    if isinstance(data, dict) and data.get("kind") == "file" and isinstance(data.get("name"), str):
        raw = {**raw, "data": {**data, "name": str((file.parent / data["name"]).resolve())}}
    is_own = not file.resolve().is_relative_to(tasks_dir())
    try:
        if is_own and isinstance(scorer, str) and ".py" in scorer:
            raw = {**raw, "scorer": task_code.load_scorer(scorer, file.parent, trust_task_code)}
        spec = TaskSpec.model_validate(raw)
    except ValidationError as error:
        raise VrbenchError(f"{file}: {'; '.join(_message(detail) for detail in error.errors())}") from error
    except VrbenchError as error:
        raise VrbenchError(f"{file}: {error}") from error
    if spec.id != file.stem:
        raise VrbenchError(f"{file}: id is {spec.id!r}, but the file's stem is {file.stem!r}; make them equal")
    if is_own:
        from vrbench.tasks import untrusted

        raise_errors(f"{file}: {error}" for error in untrusted.validate_spec(spec))
    return spec


def select(names: str | Sequence[str], specs: Mapping[str, TaskSpec]) -> list[TaskSpec]:
    """Return the tasks that ids, suites and globs select, comma-separated; each once, in the order first named.

    Raises:
        VrbenchError: nothing was named, or names that match nothing: all of them, with the nearest that there are.
    """
    wanted = _split(names)
    suites = sorted({suite for spec in specs.values() for suite in spec.suites})
    if not wanted:
        raise VrbenchError(f"no task was named; name ids or suites, such as {', '.join(suites)}")
    chosen: dict[str, TaskSpec] = {}
    unknown = []
    for name in wanted:
        found = matching(name, specs)
        chosen.update((spec.id, spec) for spec in found)
        if not found:
            near = difflib.get_close_matches(name, [*specs, *suites], n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join([*specs, *suites])}"
            unknown.append(f"task {name!r} is unknown; {hint}")
    raise_errors(unknown)
    return list(chosen.values())


def select_runnable(names: str | Sequence[str], specs: Mapping[str, TaskSpec]) -> tuple[list[TaskSpec], list[TaskSpec]]:
    """Return what `select` does in two lists: tasks that can be run, and those that need a judge model.

    Raises:
        VrbenchError: as `select`; or a task that needs a judge was named by its id, or nothing is left.
    """
    named = [specs[name] for name in _split(names) if name in specs]
    errors = [f"task {spec.id!r} needs a judge model and is not run: {spec.judge}" for spec in named if spec.judge]
    chosen: list[TaskSpec] = []
    try:
        chosen = select(names, specs)
    except VrbenchError as error:
        errors += error_messages(error)
    raise_errors(errors)
    judged = [spec for spec in chosen if spec.judge]
    if len(judged) == len(chosen):
        ids, text = ", ".join(spec.id for spec in judged), names if isinstance(names, str) else ",".join(names)
        raise VrbenchError(f"{text!r} names only tasks that need a judge model, which are not run: {ids}")
    return [spec for spec in chosen if not spec.judge], judged


def matching(name: str, specs: Mapping[str, TaskSpec]) -> list[TaskSpec]:
    """Return the tasks that one id, suite or glob selects."""
    return [s for s in specs.values() if any(fnmatch.fnmatchcase(label, name) for label in (s.id, *s.suites))]


def _split(names: str | Sequence[str]) -> list[str]:
    text = names if isinstance(names, str) else ",".join(names)
    return [name.strip() for name in text.split(",") if name.strip()]


def _user_task_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise VrbenchError(f"--include-path {str(folder)!r} is not a folder")
    files = sorted(folder.rglob("*.yaml"))
    if not files:
        raise VrbenchError(f"--include-path {str(folder)!r} has no .yaml file")
    return files


def _id_and_suites(file: Path) -> tuple[str, ...] | None:
    """Return the id and suites that a broken file states; none where it cannot be read that far."""
    try:
        raw = parse_file(file, form="YAML")
    except VrbenchError:
        return None
    suites = raw.get("suites") if isinstance(raw, dict) else None
    return (str(raw.get("id")), *map(str, suites)) if isinstance(suites, list) else None


def _message(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = f" (given {detail['input']!r})" if detail["type"] == "literal_error" else ""
    return f"{place}: {message}{given}" if place else message
