"""Runs as folders of a board: their files, a part of them, and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import gzip_text, write_atomically
from vrbench.core.run_storage import samples_to_jsonl
from vrbench.core.schemas import Run
from vrbench.evaluation.inputs_digest import inputs_digest, task_inputs
from vrbench.leaderboard.requirements import tasks_without_responses
from vrbench.leaderboard.untrusted_input.files import RUN_FILE, read_bytes
from vrbench.tasks import registry

PACKING_PREFIX = ".packing-"
"""Prefix of the name of an unfinished folder, which is next to `submissions`."""


@dataclass(frozen=True)
class PackedFolder:
    """The folder of a submission, and whether it was written now or existed already."""

    path: Path
    is_new: bool


def run_files(run: Run, errors: list[str]) -> dict[str, bytes]:
    """Return run.json and the compressed samples of a run, by name; errors are added to a list."""
    files = {RUN_FILE: (run.record.model_dump_json(indent=1) + "\n").encode()}
    old = tasks_without_responses(run.record, run.samples)
    for result in run.record.results:
        if result.status == "ok":
            text = samples_to_jsonl(run.samples.get(result.task, ()))
            files[f"samples/{result.task}.jsonl.gz"] = gzip_text(text)
            if hashlib.sha256(text.encode()).hexdigest() != result.samples_digest and result.task not in old:
                errors.append(f"{result.task}: its samples were written by another vrbench; run it again with this one")
    return files


def part_of(run: Run, tasks: Collection[str]) -> Run:
    """Return a run's results on some tasks, with the settings and the digest that a run of these alone has.

    No answer depends on which other tasks are run. Seconds and command stay those of the whole run.

    Raises:
        VrbenchError: the run's own digest is not that of its tasks as they are defined here, so that none can be made.
    """
    record = run.record
    kept = tuple(result for result in record.results if result.task in tasks)
    if {result.task for result in kept} != set(tasks) or len(kept) == len(record.results):
        return run  # whole, or lacking some, which is an error of the whole run
    known = registry.load(record.settings.include_path or None)
    advice = f"run it with --tasks {','.join(tasks)}"
    unknown = [result.task for result in record.results if result.task not in known]
    if unknown:
        raise VrbenchError(f"there is no task file here for {', '.join(unknown)}; {advice}")
    deciding = {r.task: task_inputs(known[r.task], r.data_digest, r.harness, r.code) for r in record.results}
    if record.inputs_digest != inputs_digest(record.checkpoint.digest, deciding, record.settings):
        raise VrbenchError(
            f"the run has {', '.join(r.task for r in record.results)}, of which the board uses only some, but its "
            f"inputs_digest is not that of these tasks as they are defined here; {advice}"
        )
    names = tuple(sorted(result.task for result in kept))
    update = {
        "results": kept,
        "status": "error" if any(result.status == "error" for result in kept) else "ok",
        "settings": record.settings.model_copy(update={"tasks": names}),
        "inputs_digest": inputs_digest(record.checkpoint.digest, {n: deciding[n] for n in names}, record.settings),
    }
    samples = {task: rows for task, rows in run.samples.items() if task in tasks}
    return Run(record=record.model_copy(update=update), samples=samples, path=run.path)


def write_folder(
    target: Path, files: Mapping[str, bytes], check: Callable[[Path], object], dry_run: bool = False
) -> PackedFolder:
    """Write a folder that appears with all its files or not at all; one that is there already is left as it is.

    Args:
        target: `<boards>/<board>/<kind>/<org>__<name>/<revision>`.
        files: path within the folder -> content.
        check: reads the unfinished folder, whose path ends like the target's, and raises if it may not be written.
        dry_run: whether to check it and to write nothing on the board.
    """
    board = target.parents[2]
    with tempfile.TemporaryDirectory(prefix=PACKING_PREFIX, dir=None if dry_run else board) as temporary:
        half = Path(temporary) / target.relative_to(board.parent)
        for name, content in files.items():
            write_atomically(half / name, content)
        os.chmod(half, 0o755)
        try:
            check(half)
        except VrbenchError as error:
            raise_errors(message.replace(temporary, str(board.parent)) for message in error_messages(error))
        is_new = not target.is_dir()
        if is_new and not dry_run:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(half, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    target.parent.rmdir()  # which fails unless it is empty
                raise
    return PackedFolder(target, is_new)


def changed_files(files: Mapping[str, bytes], there: Mapping[str, Path]) -> list[str]:
    """Return the names of the files of a folder that are missing, added, or have another content."""
    names = sorted(files.keys() | there.keys())
    return [name for name in names if name not in there or files.get(name) != read_bytes(there[name], 2**30)]
