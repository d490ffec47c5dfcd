"""Limits for task files that do not ship with vrbench: templates run no code, and YAML files are the harness's own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from vrbench.core import jinja_sandbox
from vrbench.core.errors import VrbenchError
from vrbench.tasks.spec import TaskSpec

TEMPLATES = ("prompt", "choices", "target", "description", "id_column", "cluster", "group", "unit")
"""Fields of a task that are jinja templates, or may be."""


def validate_spec(spec: TaskSpec) -> Iterator[str]:
    """Return what a task file may not contain: Python in a template, or a file that is not the harness's own."""
    for field in TEMPLATES:
        text = getattr(spec, field)
        if isinstance(text, str) and "{" in text and (error := jinja_sandbox.validate_template(text)):
            yield f"{field}: {error}"
    for name in spec.harness_files().values():
        try:
            config = load_with_includes(harness_file(spec.harness, name), _Unresolved)
        except VrbenchError as invalid:
            yield str(invalid)
            continue
        if config.get("unsafe_code"):
            yield f"harness_task {name!r} runs the code that a model writes, which is not supported"


def harness_file(harness: str, name: str) -> Path:
    """Return a file of the installed harness, by its path under the harness's tasks folder.

    The harnesses run the functions that their YAML files name, so no other file will do.

    Raises:
        VrbenchError: the name leads out of the folder, or there is no such file.
    """
    folder = _harness_tasks(harness)
    given = PurePosixPath(name.replace("\\", "/"))
    try:
        file = (folder / name).resolve()
        inside = not given.is_absolute() and ".." not in given.parts and file.is_relative_to(folder)
        there = inside and file.suffix == ".yaml" and file.is_file()
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL, links in a circle
        inside = there = False
    if not inside:
        raise VrbenchError(f"harness_task {name!r} is not a file in {harness}'s tasks folder, to which it is relative")
    if not there:
        raise VrbenchError(f"harness_task {name!r}: {harness} has no such .yaml file in {folder}")
    return file


def load_with_includes(file: Path, loader: type[Any]) -> dict[str, Any]:
    """Load a harness's YAML file with the files that it includes, by paths relative to the file that names them."""
    with file.open("rb") as stream:
        config: dict[str, Any] = yaml.load(stream, Loader=loader)
    names = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in reversed([names] if isinstance(names, str) else names):
        merged |= load_with_includes(file.parent / name, loader)
    return merged | config


class _Unresolved(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time, for speed
    """A safe loader for which a function, and any other tag, is null."""


_Unresolved.add_multi_constructor("!", lambda loader, suffix, node: None)


@lru_cache(maxsize=2)
def _harness_tasks(harness: str) -> Path:
    found = find_spec(harness.replace("-", "_"))
    if found is None or found.origin is None:
        raise VrbenchError(f"{harness} is not installed; it comes with vrbench, so install vrbench again")
    return (Path(found.origin).parent / "tasks").resolve()
