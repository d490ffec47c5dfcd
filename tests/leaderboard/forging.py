"""One submission of a made-up board taken, changed, and written again with digests that agree, as a forger would."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.leaderboard.made import BOARD, Made
from vrbench.core.io import write_atomically
from vrbench.core.run_storage import load_run, samples_to_jsonl, save_run
from vrbench.core.schemas import Run, Sample, TaskResult
from vrbench.leaderboard.schema import Submission


class Forged:
    """A copy of a submission that can be changed; `folder` is where it lies."""

    def __init__(self, made: Made, number: int, root: Path) -> None:
        """Copy it.

        Args:
            number: which of the board's submissions.
            root: folder of the copy's boards.
        """
        source = made.submissions[number]
        self.folder = root / source.relative_to(made.root)
        shutil.copytree(source, self.folder)
        shutil.copyfile(made.board / "board.yaml", root / BOARD / "board.yaml")

    @property
    def run(self) -> Run:
        """As it lies there."""
        return load_run(self.folder)

    def record(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change run.json as a JSON value; the submission names it by its new digest."""
        file = self.folder / "run.json"
        value = json.loads(file.read_text(encoding="utf-8"))
        change(value)
        file.write_text(json.dumps(value, indent=1), encoding="utf-8")
        self._name_the_run()

    def result(self, task: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change one task's result in run.json."""
        self.record(lambda value: change(next(r for r in value["results"] if r["task"] == task)))

    def submission(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change submission.json as a JSON value."""
        file = self.folder / "submission.json"
        value = json.loads(file.read_text(encoding="utf-8"))
        change(value)
        file.write_text(json.dumps(value, indent=1), encoding="utf-8")

    def samples(self, task: str, change: Callable[[list[Sample]], list[Sample]]) -> None:
        """Change a task's samples, with a samples_digest that agrees."""
        run = self.run
        rows = tuple(change(list(run.samples[task])))
        digest = hashlib.sha256(samples_to_jsonl(rows).encode()).hexdigest()
        results = tuple(
            result.model_copy(update={"samples_digest": digest}) if result.task == task else result
            for result in run.record.results
        )
        record = run.record.model_copy(update={"results": results})
        save_run(self.folder, record, {**run.samples, task: rows}, compressed=True)
        self._name_the_run()

    def sample(self, task: str, place: int, **fields: Any) -> None:
        """Change one sample of a task."""

        def change(rows: list[Sample]) -> list[Sample]:
            rows[place] = rows[place].model_copy(update=fields)
            return rows

        self.samples(task, change)

    def found(self, task: str, test: Callable[[Sample], bool]) -> int:
        """Place of the first sample that passes a test."""
        return next(i for i, sample in enumerate(self.run.samples[task]) if test(sample))

    def stored(self, task: str) -> TaskResult:
        """The result of a task as it lies there."""
        return self.run.result(task)

    def _name_the_run(self) -> None:
        digest = hashlib.sha256((self.folder / "run.json").read_bytes()).hexdigest()
        file = self.folder / "submission.json"
        told = Submission.model_validate_json(file.read_text(encoding="utf-8"))
        text = told.model_copy(update={"run_digest": digest}).model_dump_json(indent=1)
        write_atomically(file, text + "\n")
