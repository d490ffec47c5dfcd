"""A copy of the made-up board with its baseline only, two runs as `vrbench run` makes them, and how to falsify them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.leaderboard.made import BOARD, Made
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.run_storage import load_run, samples_to_jsonl, save_run
from vrbench.core.schemas import RunRecord
from vrbench.leaderboard.packing import PackedFolder
from vrbench.leaderboard.publish import SubmissionMetadata, pack

ABOUT = SubmissionMetadata("my-lab/region", BOARD)


@dataclasses.dataclass(frozen=True)
class Desk:
    """A copy of the made-up board with its baseline only, and two runs as `vrbench run` writes them."""

    root: Path
    full: Path
    region: Path

    def pack(self, **said: Any) -> PackedFolder:
        return pack(self.region, self.full, dataclasses.replace(ABOUT, **said), self.root)

    def refused(self, **said: Any) -> list[str]:
        """What is told; nothing may have been written."""
        before = tree(self.root)
        with pytest.raises(VrbenchError) as caught:
            self.pack(**said)
        assert tree(self.root) == before
        return error_messages(caught.value)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def make_desk(made_board: Made, tmp_path: Path) -> Desk:
    """A desk in a folder."""
    root = tmp_path / "boards"
    baseline, region = made_board.submissions[:2]
    place = root / baseline.relative_to(made_board.root)
    shutil.copytree(baseline, place)
    shutil.copyfile(made_board.board / "board.yaml", root / BOARD / "board.yaml")
    folders = []
    for name, source in (("full", baseline), ("region", region)):
        run = load_run(source)
        save_run(tmp_path / "runs" / name, run.record, run.samples)
        folders.append(tmp_path / "runs" / name)
    return Desk(root, *folders)


def rewrite(folder: Path, change: Callable[[RunRecord], RunRecord]) -> None:
    """Write a run anew with another record; its samples stay."""
    run = load_run(folder)
    save_run(folder, change(run.record), run.samples)


def set_settings(folder: Path, **values: Any) -> None:
    rewrite(folder, lambda record: record.model_copy(update={"settings": record.settings.model_copy(update=values)}))


def set_results(folder: Path, task: str, **values: Any) -> None:
    rewrite(
        folder,
        lambda record: record.model_copy(
            update={"results": tuple(r.model_copy(update=values) if r.task == task else r for r in record.results)}
        ),
    )


def set_checkpoint(folder: Path, **values: Any) -> None:
    rewrite(
        folder, lambda record: record.model_copy(update={"checkpoint": record.checkpoint.model_copy(update=values)})
    )


def set_samples(folder: Path, task: str, **values: Any) -> None:
    """Change the first sample of a task, and the digest with it."""
    run = load_run(folder)
    rows = (run.samples[task][0].model_copy(update=values), *run.samples[task][1:])
    digest = hashlib.sha256(samples_to_jsonl(rows).encode()).hexdigest()
    save_run(folder, run.record, {**run.samples, task: rows})
    raw = json.loads((folder / "run.json").read_text())
    next(result for result in raw["results"] if result["task"] == task)["samples_digest"] = digest
    (folder / "run.json").write_text(json.dumps(raw))


def set_board(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = root / BOARD / "board.yaml"
    raw = yaml.safe_load(file.read_text())
    change(raw)
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
