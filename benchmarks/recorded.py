"""What the pocket checkpoints said to the made-up documents: recorded through vrbench's engine, kept in one small file.

The file has one JSON object a line, one for each task and checkpoint, sorted by both. Documents and answers are ours,
so it holds nobody's benchmark.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from benchmarks import documents
from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.core.errors import VrbenchError
from vrbench.core.io import write_atomically
from vrbench.data import loading
from vrbench.data.locate import locate
from vrbench.evaluation.built_task import select_items
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks.item_keys import identify
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from vrbench.evaluation.engine import InferenceEngine

FILE = Path(__file__).parent / "recorded.jsonl"
DOCUMENTS = 40
"""Documents a task, at least; a pair or all rotations of a question are whole."""
LONGEST = 128
"""Tokens of an answer at most, where a task allows more: an untuned model goes on to the end, in circles."""
CHECKPOINTS = "pocket/base,pocket/full,pocket/region,pocket/top,pocket/region-pruned-2"


class Recording(BaseModel):
    """One checkpoint's answers to one task's made-up documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(description="Task id.")
    checkpoint: str = Field(description="Checkpoint id, such as 'pocket/region'.")
    digest: str = Field(description="sha256 of the checkpoint, as its record has it.")
    answers: dict[str, str] = Field(description="Document id -> answer, as the engine gave it, before any filter.")

    def to(self, ids: Sequence[str]) -> list[str]:
        """The answers in the order of some documents.

        Raises:
            VrbenchError: a document has no answer, or an answer no document.
        """
        if set(ids) != set(self.answers):
            other = sorted(set(ids) ^ set(self.answers))
            raise VrbenchError(
                f"{self.checkpoint} was recorded on other documents of {self.task} than there are now ({other[0]!r} "
                f"and {len(other) - 1} more differ); record again with --record"
            )
        return [self.answers[document] for document in ids]


class Listener:
    """Passes requests on to the engine, for answers of `LONGEST` tokens at most, and keeps what it said."""

    def __init__(self, answerer: InferenceEngine) -> None:
        self.vlm = answerer.vlm
        self.said: list[str] = []
        self._answerer = answerer

    def answer(self, requests: Sequence[Any], title: str = "") -> list[Any]:
        """The engine's answers, in the order of the requests."""
        short = [replace(asked, max_new_tokens=min(asked.max_new_tokens, LONGEST)) for asked in requests]
        answers = self._answerer.answer(short, title)
        self.said += answers
        return answers


def read(file: Path = FILE) -> list[Recording]:
    """All recordings.

    Raises:
        VrbenchError: there is no such file.
    """
    if not file.is_file():
        raise VrbenchError(f"there are no recorded answers at {file}; make them with --record")
    return [Recording.model_validate_json(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(recordings: Iterable[Recording], file: Path = FILE) -> None:
    """Put recordings in place of those of the same task and checkpoint; the others stay."""
    kept = {(one.task, one.checkpoint): one for one in (read(file) if file.is_file() else [])}
    kept |= {(one.task, one.checkpoint): one for one in recordings}
    lines = [json.dumps(kept[key].model_dump(), ensure_ascii=False) for key in sorted(kept)]
    write_atomically(file, "\n".join(lines) + "\n")


def ids(spec: TaskSpec, part: Any) -> list[str]:
    """Ids of a part's items, in their order; images are not read."""
    rows = part.rows[spec.data.split]
    plain = rows.remove_columns([name for name in spec.data.images if name in rows.column_names])
    numbered = zip(part.positions, plain, strict=True)
    return [identify(spec, row, part.config, position).id for position, row in numbered]


def record(spec: TaskSpec, of: Checkpoint, answerer: InferenceEngine, root: Path) -> Recording:
    """Ask one checkpoint all documents of one task, with the task's own prompt and settings.

    Args:
        root: empty folder for the documents.
    """

    documents.write(spec, root, DOCUMENTS)
    (part,) = select_items(spec, loading.load(spec, locate(spec, root)), None, 0)
    listener: Any = Listener(answerer)
    evaluate_task(spec, [part], listener)
    answers = dict(zip(ids(spec, part), listener.said, strict=True))
    return Recording(task=spec.id, checkpoint=of.id, digest=of.digest, answers=answers)


def record_all(checkpoints: Sequence[str], specs: Sequence[TaskSpec], file: Path = FILE) -> None:
    """Ask checkpoints all documents of some tasks on the CPU, in float32; written as each task is done."""
    from vrbench.evaluation.answer_store import AnswerStore
    from vrbench.evaluation.engine import InferenceEngine
    from vrbench.models.load import load_vlm

    for of in [resolve_checkpoint(name) for name in checkpoints]:
        vlm = load_vlm(of, "cpu", "float32")
        for spec in specs:
            with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "a.sqlite", of.digest) as store:
                recording = record(spec, of, InferenceEngine(vlm, store), Path(folder) / "documents")
            write([recording], file)
