"""Evaluation by several processes: each answers a share of the requests, and rank 0 scores and writes the record.

The processes are started by `torchrun` or `accelerate launch`, which tell each its rank, on one machine or on several
with a shared `--out`. They exchange answers through files alone: no collective operation can hang, a killed process
costs what it had not written, and what it leaves undone is answered by rank 0. Nobody writes the SQLite store
meanwhile, since its locks are unreliable on network file systems: each process appends to a file of its own, which rank
0 moves into the store at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.core.io import canonical_json
from vrbench.evaluation.answer_store import AnswerStore

BLOCKS = 4
"""Blocks of neighbouring requests that each rank gets: neighbours share beginnings and images."""

BEAT_SECONDS = 5.0
ALIVE_SECONDS = 60.0
"""A process whose sign of life is older than this is not waited for."""

START_SECONDS = 120.0
"""How long a process may take from the start of rank 0 to its first sign of life."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local: number of this process on its machine, which is that of its GPU.
        started: when the run began; what is written later counts as computed by it.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    started: str = field(default="", compare=False)

    @classmethod
    def of_environment(cls) -> Ranks:
        """Return what `torchrun` or `accelerate launch` say of this process; one process without them."""
        rank, size, local = (int(os.environ.get(name) or start) for name, start in
                             (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))  # fmt: skip
        return cls(rank, size, local, _now())

    def device(self, device: str) -> str:
        """Return the device of this process."""
        return f"cuda:{self.local}" if self.size > 1 and device == "cuda" else device

    def owns(self, number: int, count: int) -> bool:
        """Whether this process answers the request of a number, out of so many."""
        return number * BLOCKS * self.size // count % self.size == self.rank


ALONE = Ranks()


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
        self._file, self._checkpoint, self._ranks = path, checkpoint, ranks
        self._store = AnswerStore(path, checkpoint, immutable=True) if path.exists() else None
        self._started = time.monotonic()
        self._own = _RankFile(self._path(ranks.rank))
        self._files = {ranks.rank: self._own}
        self._seen: set[int] = set()
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._show_life, daemon=True)

    def __enter__(self) -> RankedStore:
        self._life(self._ranks.rank).parent.mkdir(parents=True, exist_ok=True)
        self._life(self._ranks.rank).touch()
        self._beat.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop showing signs of life; rank 0 moves all answers into the store if nothing failed."""
        self._ended.set()
        self._beat.join()
        self._life(self._ranks.rank).unlink(missing_ok=True)
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
        wanted = list(keys)
        written = self._written()
        stored = self._store.get(wanted) if self._store else {}
        return {**stored, **{key: written[key].value for key in wanted if key in written}}

    def put(self, answers: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Append responses to the file of this process; when this returns they outlive a crash of the machine."""
        self._own.append(answers, environment)

    def origins(self, keys: Iterable[str]) -> list[tuple[dict[str, Any], list[str]]]:
        """Return what computed the stored responses and when, as `AnswerStore.origins` does."""
        written, left = self._written(), []
        times: dict[str, list[str]] = {}
        for key in keys:
            if key in written:
                times.setdefault(written[key].environment, []).append(written[key].time)
            else:
                left.append(key)
        for environment, of in self._store.origins(left) if self._store else ():
            times.setdefault(canonical_json(environment), []).extend(of)
        origins = [(json.loads(content), sorted(of)) for content, of in times.items()]
        return sorted(origins, key=lambda origin: (origin[1][0], origin[1][-1]))

    def of_this_run(self, keys: Iterable[str]) -> set[str]:
        """Return those keys whose responses were written since the run began, by any process."""
        written = self._written()
        return {key for key in keys if key in written and written[key].time >= self._ranks.started}

    def others_work(self) -> bool:
        """Whether another process shows signs of life, or may still be starting."""
        is_starting = time.monotonic() - self._started < START_SECONDS
        for rank in range(self._ranks.size):
            if rank == self._ranks.rank:
                continue
            age = self._age(rank)
            if age is not None:
                self._seen.add(rank)
            if (age is not None and age < ALIVE_SECONDS) or (is_starting and rank not in self._seen):
                return True
        return False

    def _written(self) -> dict[str, _Written]:
        """Return all answers in the files of all ranks, also of those of an interrupted run of more."""
        found: dict[str, _Written] = {}
        for path in sorted(self._file.parent.glob(f"{self._file.stem}.rank*.jsonl")):
            rank = int(path.stem.rpartition(".rank")[2])
            file = self._files.setdefault(rank, _RankFile(path))
            found.update(file.read())
        return found

    def _merge(self) -> None:
        batches: dict[tuple[str, str], dict[str, Any]] = {}
        for key, written in self._written().items():
            batches.setdefault((written.environment, written.time), {})[key] = written.value
        with AnswerStore(self._file, self._checkpoint) as store:
            for (environment, when), answers in batches.items():
                store.put(answers, json.loads(environment), when)
        for rank, file in self._files.items():
            file.close()
            self._path(rank).unlink(missing_ok=True)

    def _show_life(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                self._life(self._ranks.rank).touch()

    def _age(self, rank: int) -> float | None:
        """Return the seconds since a process's sign of life by the file server's clock; None where there is none."""
        try:
            return self._life(self._ranks.rank).stat().st_mtime - self._life(rank).stat().st_mtime
        except FileNotFoundError:
            return None

    def _path(self, rank: int) -> Path:
        return self._file.with_name(f"{self._file.stem}.rank{rank}.jsonl")

    def _life(self, rank: int) -> Path:
        return self._path(rank).with_suffix(".alive")


@dataclass(frozen=True)
class _Written:
    """An answer in the file of a process, with what computed it as canonical JSON, and when."""

    value: Any
    environment: str
    time: str


class _RankFile:
    """The answers of one process: a line of JSON for each batch, and in front of it its digest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: Any = None
        self._offset = 0
        self._found: dict[str, _Written] = {}

    def append(self, answers: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write a batch."""
        line = canonical_json({"answers": dict(answers), "environment": dict(environment), "time": _now()})
        if self._stream is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("ab")
            if self._stream.tell():
                self._stream.write(b"\n")  # behind what an interruption left of a line
        self._stream.write(f"{_digest(line)} {line}\n".encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def read(self) -> dict[str, _Written]:
        """Return all answers of the file; what is not yet written whole is left for the next time."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._found.update(_parsed(line.decode(errors="replace")))
        return self._found

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _parsed(line: str) -> Iterator[tuple[str, _Written]]:
    """Yield the answers of a line; none where an interruption or a fault has damaged it, so that they are computed."""
    digest, _, content = line.rstrip("\n").partition(" ")
    if digest != _digest(content):
        return
    batch = json.loads(content)
    environment = canonical_json(batch["environment"])
    for key, value in batch["answers"].items():
        yield key, _Written(value, environment, batch["time"])


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def gpu_count(gpus: int | str | None) -> int:
    """Return how many processes `--gpus` asks for: "all" for each visible GPU.

    Raises:
        VrbenchError: it is no number of GPUs that there are.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus == "all":
        return max(1, count)
    if not isinstance(gpus, int) or not 1 <= gpus <= max(1, count):
        raise VrbenchError(f"gpus is {gpus!r}; it is 'all' or a number from 1 to {max(1, count)}, the GPUs seen here")
    return gpus


def torchrun_command(processes: int, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs `vrbench` with some arguments in so many processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, "-m", "vrbench", *arguments]
