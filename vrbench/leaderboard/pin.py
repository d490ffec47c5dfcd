"""Filling a board's versions, numbers and digests from the task files and from runs, so that none is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import read_text, write_atomically
from vrbench.core.run_storage import load_run
from vrbench.core.schemas import Run
from vrbench.evaluation.run_plan import definition_digest
from vrbench.leaderboard.board import BOARD_FILE, Board, load_board, prompts_digest
from vrbench.tasks import registry
from vrbench.tasks.registry import TaskSpec

Place = tuple[str, ...]
"""Keys that lead to an entry of board.yaml."""


@dataclass(frozen=True)
class Change:
    """One entry of board.yaml that was given another value; `old` is empty when it had none."""

    place: str
    old: str
    new: str


def pin(
    folder: str | Path,
    runs: Sequence[str | Path] = (),
    family: str | None = None,
    baseline: str | None = None,
    replace: bool = False,
    specs: Mapping[str, TaskSpec] | None = None,
) -> list[Change]:
    """Fill board.yaml: versions, numbers and definitions from the task files, data and prompts from runs.

    Comments above the first line stay; others are lost, since the file is written anew.

    Args:
        folder: the board's.
        runs: folders of runs of whole tasks; those of one family, since prompts differ between families.
        family: key of their family; may be left out on a board that has one.
        baseline: "org/name" that the first run's checkpoint has, or will have, on the board: the family's baseline.
        replace: whether what was pinned may change; submissions made before are then refused.
        specs: task id -> its definition; none for those of this package.

    Returns:
        What changed.

    Raises:
        VrbenchError: every fault at once: unknown tasks, runs that are not of whole tasks or of other definitions, or
            something pinned that would change.
    """
    board = load_board(folder)
    known = registry.load() if specs is None else specs
    faults = [f"board {board.id}: there is no task file for {task}" for task in board.tasks if task not in known]
    loaded = _loaded(runs, faults)
    key = _key(board, family, bool(runs or baseline), faults)
    if baseline is not None and not runs:
        faults.append("a baseline needs its run: give --run too")
    faults += [fault for run in loaded for fault in _run_faults(board, run, known)]
    raise_errors(faults)
    wanted = _from_tasks(board, known)
    for run in loaded:
        wanted |= _from_run(board, run, str(key))
    if baseline is not None:
        wanted[("families", str(key), "baseline")] = f"{baseline}@{loaded[0].record.checkpoint.digest[:16]}"
    return _write(Path(folder), board, wanted, replace)


def _loaded(runs: Sequence[str | Path], faults: list[str]) -> list[Run]:
    found: list[Run] = []
    for path in runs:
        try:
            found.append(load_run(path))
        except VrbenchError as error:
            faults += error_messages(error)
    return found


def _key(board: Board, family: str | None, needed: bool, faults: list[str]) -> str | None:
    if family is not None and family not in board.families:
        faults.append(f"family {family!r} is not on board {board.id}; there are {', '.join(board.families)}")
    elif family is None and needed and len(board.families) > 1:
        faults.append(f"board {board.id} has several families; name one with --family: {', '.join(board.families)}")
    return family or next(iter(board.families))


def _run_faults(board: Board, run: Run, known: Mapping[str, TaskSpec]) -> list[str]:
    """Why a run may not say what a board holds."""
    faults = []
    label = run.record.checkpoint.id
    if run.record.settings.limit is not None:
        faults.append(f"the run of {label} has limit {run.record.settings.limit}; whole tasks are pinned")
    for result in run.record.results:
        if result.task not in board.tasks or result.task not in known:
            continue
        if result.status != "ok" or not result.complete:
            faults.append(f"the run of {label} has not the whole of {result.task}")
        elif result.version != known[result.task].version:
            current = known[result.task].version
            faults.append(f"the run of {label} has {result.task} at version {result.version}; it is at {current} now")
        elif result.definition_digest not in ("", definition_digest(known[result.task])):
            faults.append(
                f"the run of {label} has another definition of {result.task} than the task file; run it again"
            )
    return faults


def _from_tasks(board: Board, known: Mapping[str, TaskSpec]) -> dict[Place, Any]:
    wanted: dict[Place, Any] = {}
    for task in board.tasks:
        spec = known[task]
        wanted["tasks", task, "version"] = spec.version
        wanted["tasks", task, "n"] = spec.n
        wanted["tasks", task, "definition_digest"] = definition_digest(spec)
    return wanted


def _from_run(board: Board, run: Run, key: str) -> dict[Place, Any]:
    wanted: dict[Place, Any] = {}
    for result in run.record.results:
        if result.task in board.tasks:
            wanted["tasks", result.task, "data_digest"] = result.data_digest
            wanted["families", key, "prompts", result.task] = prompts_digest(run.samples[result.task])
    return wanted


def _write(folder: Path, board: Board, wanted: Mapping[Place, Any], replace: bool) -> list[Change]:
    """Write what is wanted, unless it changes what is pinned and may not."""
    raw = board.model_dump(mode="json")
    changes = []
    for place, value in wanted.items():
        inner = raw
        for part in place[:-1]:
            inner = inner.setdefault(part, {})
        old = inner.get(place[-1])
        if old != value:
            changes.append(Change(".".join(place), "" if old is None else str(old), str(value)))
            inner[place[-1]] = value
    moved = [change for change in changes if change.old]
    if moved and not replace:
        raise_errors(
            f"{c.place} is pinned to {c.old}, and would become {c.new}; give --replace to move it" for c in moved
        )
    Board.model_validate(raw)
    file = folder / BOARD_FILE
    lines = read_text(file).splitlines(keepends=True)
    head = "".join(lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)])
    body = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=110)
    write_atomically(file, head + body)
    return changes
