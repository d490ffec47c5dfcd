"""Filling a board's versions, numbers and digests from the task files and from runs, so that none is typed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vrbench.core.errors import collect_errors, raise_errors
from vrbench.core.io import read_text, write_atomically
from vrbench.core.run_storage import load_run
from vrbench.core.schemas import Run
from vrbench.evaluation.inputs_digest import definition_digest
from vrbench.leaderboard.board import BOARD_FILE, Board, load_board, prompts_digest
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

Keys = tuple[str, ...]
"""Keys that lead to an entry of board.yaml."""


@dataclass(frozen=True)
class PinnedChange:
    """One entry of board.yaml that got another value; `old` is empty if it had none."""

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
) -> list[PinnedChange]:
    """Fill board.yaml: versions, numbers and definitions from the task files, data and prompts from runs.

    Comments above the first line are kept; others are lost, since the file is rewritten.

    Args:
        folder: the board's.
        runs: folders of runs of whole tasks, all of one family, since prompts differ between families.
        family: key of their family; may be omitted on a board that has one.
        baseline: "org/name" that the first run's checkpoint has, or will have, on the board: the family's baseline.
        replace: whether what was pinned may change; submissions made before are then refused.
        specs: task id -> its definition; None for those of this package.

    Returns:
        What changed.

    Raises:
        VrbenchError: all errors at once: unknown tasks, runs that are not of whole tasks or of other definitions, or
            something pinned that would change.
    """
    board = load_board(folder)
    known = registry.load() if specs is None else specs
    errors = [f"board {board.id}: there is no task file for {task}" for task in board.tasks if task not in known]
    loaded: list[Run] = []
    for path in runs:
        with collect_errors(errors):
            loaded.append(load_run(path))
    families = ", ".join(board.families)
    if family is not None and family not in board.families:
        errors.append(f"family {family!r} is not on board {board.id}; there are {families}")
    elif family is None and (runs or baseline) and len(board.families) > 1:
        errors.append(f"board {board.id} has several families; name one with --family: {families}")
    if baseline is not None and not runs:
        errors.append("a baseline needs its run: give --run too")
    errors += [error for run in loaded for error in _validate_run(board, run, known)]
    raise_errors(errors)
    key = family or next(iter(board.families))
    wanted: dict[Keys, Any] = {}
    for task in board.tasks:
        spec = known[task]
        pinned = {"version": spec.version, "n": spec.n, "definition_digest": definition_digest(spec)}
        wanted |= {("tasks", task, field): value for field, value in pinned.items()}
    for run in loaded:
        for result in run.record.results:
            if result.task in board.tasks:
                wanted["tasks", result.task, "data_digest"] = result.data_digest
                wanted["families", key, "prompts", result.task] = prompts_digest(run.samples[result.task])
    if baseline is not None:
        wanted["families", key, "baseline"] = f"{baseline}@{loaded[0].record.checkpoint.digest[:16]}"
    return _write(Path(folder), board, wanted, replace)


def _validate_run(board: Board, run: Run, known: Mapping[str, TaskSpec]) -> Iterator[str]:
    """Yield why a run's digests cannot be pinned."""
    label = f"the run of {run.record.checkpoint.id}"
    if run.record.settings.limit is not None:
        yield f"{label} has limit {run.record.settings.limit}; whole tasks are pinned"
    for result in run.record.results:
        task = result.task
        if task not in board.tasks or task not in known:
            continue
        if result.status != "ok" or not result.complete:
            yield f"{label} does not have all items of {task}"
        elif result.version != known[task].version:
            yield f"{label} has {task} at version {result.version}; its version is {known[task].version} now"
        elif result.definition_digest not in ("", definition_digest(known[task])):
            yield f"{label} has another definition of {task} than the task file; run it again"


def _write(folder: Path, board: Board, wanted: Mapping[Keys, Any], replace: bool) -> list[PinnedChange]:
    """Write the wanted values, unless they change what is pinned and may not."""
    raw = board.model_dump(mode="json")
    changes = []
    for keys, value in wanted.items():
        inner = raw
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        old = inner.get(keys[-1])
        if old != value:
            changes.append(PinnedChange(".".join(keys), "" if old is None else str(old), str(value)))
            inner[keys[-1]] = value
    moved = [change for change in changes if change.old]
    if moved and not replace:
        raise_errors(f"{c.place} is pinned to {c.old}, and would become {c.new}; give --replace for it" for c in moved)
    Board.model_validate(raw)
    file = folder / BOARD_FILE
    lines = read_text(file).splitlines(keepends=True)
    head = "".join(lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)])
    body = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=110)
    write_atomically(file, head + body)
    return changes
