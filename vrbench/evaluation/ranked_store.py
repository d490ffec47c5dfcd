"""The answers of one checkpoint while several processes compute them, in files that need no locks.

Each process appends to a file of its own, and reads those of the others. No collective operation can hang; a killed
process costs what it had not written, and what it leaves undone is answered by rank 0. Nobody writes the SQLite store
meanwhile, since its locks are unreliable on network file systems: rank 0 moves all answers into it at the end.

A process shows that it runs by a heartbeat, the modification time of a file. It is 0 when the process has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.core.io import canonical_json
from vrbench.core.provenance import now
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.ranks import Ranks
from vrbench.evaluation.requests import Unanswered

HEARTBEAT_SECONDS = 5.0
TIMEOUT_SECONDS = 60.0
"""A process whose heartbeat is older than this is not waited for."""

START_SECONDS = 120.0
"""How long a process may take to its first heartbeat, from the time at which rank 0 opens the store."""


def begin_run(stores: Iterable[Path], ranks: Ranks) -> None:
    """Remove the heartbeats of earlier runs; rank 0 calls it before it opens a store.

    Args:
        stores: SQLite files of the checkpoints.

    Raises:
        VrbenchError: the processes of another run are at work on one of the stores.
    """
    began = datetime.fromisoformat(ranks.started or now()).timestamp()
    for store in stores:
        if _is_beating(_heartbeat(store, 0)):
            raise VrbenchError(
                f"the processes of another run compute answers for {store}; wait until it has ended, or choose another "
                f"--out"
            )
        for file in _files_of_ranks(store, "heartbeat"):
            if file.stat().st_ctime < began:
                file.unlink(missing_ok=True)


def has_rank_files(store: Path) -> bool:
    """Return whether an interrupted run of several processes has left answers beside a store."""
    return bool(_files_of_ranks(store, "jsonl"))


class RankedStore:
    """The answers of one checkpoint while several processes compute them; use it as a context manager.

    It has the methods of `AnswerStore` that the engine uses.
    """

    def __init__(self, path: Path, checkpoint: str, ranks: Ranks) -> None:
        """Open the store and the file of this process.

        Args:
            path: the SQLite file, which is read as it is now.
            checkpoint: digest of the checkpoint whose answers it holds.

        Raises:
            VrbenchError: the store is damaged.
        """
        self._path, self._checkpoint, self._ranks = path, checkpoint, ranks
        self._store = AnswerStore(path, checkpoint, immutable=True) if path.exists() else None
        self._opened, self._began = time.monotonic(), ranks.started or now()
        self._own = _RankFile(_rank_file(path, ranks.rank))
        self._files = {self._own.path: self._own}
        self._written: dict[str, _Written] = {}
        self._unanswered: dict[str, Unanswered] = {}
        self._failed: set[str] = set()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> RankedStore:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _heartbeat(self._path, self._ranks.rank).touch()
        self._beating.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the heartbeat; rank 0 moves all answers into the store if nothing failed."""
        self._ended.set()
        self._beating.join()
        with contextlib.suppress(OSError):
            os.utime(_heartbeat(self._path, self._ranks.rank), (0, 0))
        self._own.close()
        if self._store is not None:
            self._store.close()
        if self._ranks.rank == 0 and error[0] is None:
            self._merge()

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the responses that are stored, by this or another process.

        Raises:
            VrbenchError: the store or a file is damaged.
        """
        self._read()
        wanted = list(keys)
        stored = self._store.get(wanted) if self._store else {}
        return {**stored, **{key: self._written[key].value for key in wanted if key in self._written}}

    def from_ranks(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return what all processes have written, with `Unanswered` for what one of them could not answer."""
        self._read()
        written = {key: self._written[key].value for key in keys if key in self._written}
        return {**{key: self._unanswered[key] for key in keys if key in self._unanswered}, **written}

    def failed(self, keys: Iterable[str]) -> list[str]:
        """Return those keys whose responses another process failed to compute."""
        self._read()
        return [key for key in keys if key in self._failed]

    def put(self, answers: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Append responses to the file of this process; when this returns they outlive a crash of the machine."""
        self._own.append({"answers": dict(answers), "environment": dict(environment)})

    def put_unanswered(self, reasons: Mapping[str, Unanswered]) -> None:
        """Tell the other processes which requests cannot be answered; that is forgotten when the run has ended."""
        if reasons:
            self._own.append({"unanswered": {key: unanswered.reason for key, unanswered in reasons.items()}})

    def put_failed(self, keys: Iterable[str]) -> None:
        """Tell the other processes which of its requests this one will not answer, because of an error."""
        self._own.append({"failed": sorted(keys)})

    def origins(self, keys: Iterable[str]) -> list[tuple[dict[str, Any], list[str]]]:
        """Return what computed the stored responses and when, as `AnswerStore.origins` does."""
        self._read()
        times: dict[str, list[str]] = {}
        left = []
        for key in keys:
            if key in self._written:
                times.setdefault(self._written[key].environment, []).append(self._written[key].time)
            else:
                left.append(key)
        for environment, of in self._store.origins(left) if self._store else ():
            times.setdefault(canonical_json(environment), []).extend(of)
        origins = [(json.loads(content), sorted(of)) for content, of in times.items()]
        return sorted(origins, key=lambda origin: (origin[1][0], origin[1][-1]))

    def of_this_run(self, keys: Iterable[str]) -> set[str]:
        """Return those keys whose responses were written since the run began, by any process."""
        self._read()
        return {key for key in keys if key in self._written and self._written[key].time >= self._began}

    def others_are_running(self) -> bool:
        """Whether another process has a heartbeat, or may still be starting."""
        is_starting = time.monotonic() - self._opened < START_SECONDS
        own, size = self._ranks.rank, self._ranks.size
        clock = _modified(_heartbeat(self._path, own)) or time.time()  # the file server's, which also dates the others
        beats = [_modified(_heartbeat(self._path, rank)) for rank in range(size) if rank != own]
        return any(is_starting if beat is None else beat and clock - beat < TIMEOUT_SECONDS for beat in beats)

    def _read(self) -> None:
        """Read what was written since the last time to the files of all ranks, also those of an earlier run."""
        for path in _files_of_ranks(self._path, "jsonl"):
            for batch in self._files.setdefault(path, _RankFile(path)).read():
                environment = canonical_json(batch.get("environment"))
                for key, value in batch.get("answers", {}).items():
                    self._written[key] = _Written(value, environment, batch["time"])
                if batch["time"] >= self._began:  # other versions of the libraries may answer
                    self._failed.update(batch.get("failed", ()))
                    reasons = batch.get("unanswered", {}).items()
                    self._unanswered.update((key, Unanswered(reason)) for key, reason in reasons)

    def _merge(self) -> None:
        """Move all answers into the store, and remove the files of all ranks."""
        self._read()
        batches: dict[tuple[str, str], dict[str, Any]] = {}
        for key, written in self._written.items():
            batches.setdefault((written.environment, written.time), {})[key] = written.value
        with AnswerStore(self._path, self._checkpoint) as store:
            for (environment, when), answers in batches.items():
                store.put(answers, json.loads(environment), when)
        for path in (*self._files, *_files_of_ranks(self._path, "heartbeat")):
            path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                _heartbeat(self._path, self._ranks.rank).touch()


@dataclass(frozen=True)
class _Written:
    """An answer in the file of a process, with what computed it as canonical JSON, and when."""

    value: Any
    environment: str
    time: str


class _RankFile:
    """What one process tells the others: a line of JSON for each batch, and in front of it its digest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: Any = None
        self._offset = 0

    def append(self, batch: Mapping[str, Any]) -> None:
        """Write a batch, with the time."""
        line = canonical_json({**batch, "time": now()})
        if self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("ab")
            if self._stream.tell():
                self._stream.write(b"\n")  # behind what an interruption left of a line
        self._stream.write(f"{_digest(line)} {line}\n".encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the batches that were written since the last time.

        A line that is not yet whole is left for the next time; one that an interruption or a fault has damaged is
        skipped, so that its answers are computed again.
        """
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                digest, _, content = line.decode(errors="replace").rstrip("\n").partition(" ")
                if digest == _digest(content):
                    yield json.loads(content)

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _rank_file(store: Path, rank: int) -> Path:
    return store.with_name(f"{store.stem}.rank{rank}.jsonl")


def _heartbeat(store: Path, rank: int) -> Path:
    return store.with_name(f"{store.stem}.rank{rank}.heartbeat")


def _files_of_ranks(store: Path, ending: str) -> list[Path]:
    return sorted(store.parent.glob(f"{store.stem}.rank*.{ending}"))


def _modified(file: Path) -> float | None:
    """Return when a file was modified, in seconds; None if it does not exist."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return None


def _is_beating(heartbeat: Path) -> bool:
    """Return whether a process is alive; where a kill may have left a recent heartbeat, wait for the next one."""
    last = _modified(heartbeat)
    if not last or time.time() - last > TIMEOUT_SECONDS:
        return False
    time.sleep(2 * HEARTBEAT_SECONDS)
    return _modified(heartbeat) not in (None, 0, last)


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
