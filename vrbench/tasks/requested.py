"""Own task files of which some are broken: those that were asked for are faults, the others are warned of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from vrbench.core.io import load_yaml, read_text
from vrbench.tasks import registry
from vrbench.tasks.registry import TaskSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestedTasks:
    """What there is for some names of tasks.

    Attributes:
        specs: all sound tasks by id, as `registry.load` gives them.
        faults: of the broken files that a name means, or could mean.
        names: those that sound tasks answer, or that nothing answers.
    """

    specs: dict[str, TaskSpec]
    faults: tuple[str, ...]
    names: tuple[str, ...]


def load_for(names: str | Sequence[str], include_path: str | Path | None) -> RequestedTasks:
    """Read all task files for some names; broken files that none of them could mean are warned of, a line each.

    A name means a broken file if it matches its stem, its id or one of its suites. Where suites cannot be read, a name
    that is neither the id of a sound task nor of a broken file could.

    Raises:
        VrbenchError: the include path is not a folder, or has no task file.
    """
    specs, broken = registry.read_all(include_path)
    text = names if isinstance(names, str) else ",".join(names)
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    meant = {name: [file for file in broken if _means(name, file)] for name in wanted}
    told = {file for files in meant.values() for file in files}
    if any(not meant[name] and name not in specs for name in wanted):
        told |= {file for file in broken if _called(file) is None}
    for file, fault in broken.items():
        if file not in told:
            _log.warning("vrbench: left out, as no task that was asked for: %s", "; ".join(fault.splitlines()))
    left = tuple(name for name in wanted if not meant[name] or registry.matching(name, specs))
    return RequestedTasks(specs, tuple(broken[file] for file in broken if file in told), left)


def _means(name: str, file: Path) -> bool:
    return any(fnmatchcase(called, name) for called in (file.stem, *(_called(file) or ())))


def _called(file: Path) -> tuple[str, ...] | None:
    """The id and suites that a broken file states; none where it cannot be read that far."""
    try:
        raw = load_yaml(read_text(file))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    suites = raw.get("suites") if isinstance(raw, dict) else None
    return (str(raw.get("id")), *map(str, suites)) if isinstance(suites, list) else None
