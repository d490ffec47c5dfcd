"""The answer store: every answer of one checkpoint, durable as soon as its batch is written.

One SQLite file a checkpoint digest. Killed at any moment, it holds every batch that was written before; several
processes may use it at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from vrbench.errors import VrbenchError

LAYOUT = "1"
WAIT_SECONDS = 60.0
AT_ONCE = 500
"""Keys in one SELECT; SQLite takes at most 999 parameters in its oldest builds."""


class AnswerStore:
    """Answers by request key, on disk.

    Use as a context manager, or `close` it.
    """

    def __init__(self, path: Path, checkpoint: str) -> None:
        """Open the store, or make it.

        Args:
            path: the SQLite file.
            checkpoint: digest of the checkpoint whose answers it holds.

        Raises:
            VrbenchError: the file is damaged, of another layout, or holds another checkpoint's answers.
        """
        self.path = path
        if not path.exists():
            _make(path, checkpoint)
        try:
            self._check_header()
            self._database = _connect(path)
            fault = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
            about = dict(self._database.execute("SELECT name, value FROM about"))
        except sqlite3.OperationalError as error:  # locked for long, not writable: nothing is wrong with the answers
            raise VrbenchError(f"answer store {path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error
        if fault != "ok":
            raise self._damaged(fault)
        if about != {"layout": LAYOUT, "checkpoint": checkpoint}:
            raise VrbenchError(
                f"answer store {path} holds answers of checkpoint {about.get('checkpoint', '?')[:16]} in layout "
                f"{about.get('layout', '?')}; needed is {checkpoint[:16]} in layout {LAYOUT}; move it away"
            )

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """The answers that are there.

        Raises:
            VrbenchError: the file is damaged.
        """
        wanted, found = list(dict.fromkeys(keys)), {}
        for start in range(0, len(wanted), AT_ONCE):
            part = wanted[start : start + AT_ONCE]
            marks = ",".join("?" * len(part))
            try:
                rows = self._database.execute(f"SELECT key, value, digest FROM answers WHERE key IN ({marks})", part)
                for key, value, digest in rows:
                    if digest != _digest(key, value):
                        raise self._damaged(f"answer {key[:16]} does not fit its digest")
                    found[key] = json.loads(value)
            except sqlite3.DatabaseError as error:
                raise self._damaged(str(error)) from error
        return found

    def put(self, answers: Mapping[str, Any]) -> None:
        """Write answers in one transaction; when this returns they outlive a crash of the machine.

        An answer that another process has written meanwhile stays as it is.
        """
        rows = [(key, value, _digest(key, value)) for key, value in ((k, json.dumps(v)) for k, v in answers.items())]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_header(self) -> None:
        """SQLite takes an empty file for a new database; here it is one whose answers are lost."""
        with self.path.open("rb") as stream:
            header = stream.read(100)
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
            raise sqlite3.DatabaseError("file is empty, truncated or no database")

    def _damaged(self, how: str) -> VrbenchError:
        line = " ".join(how.split())
        return VrbenchError(
            f"answer store {self.path} is damaged ({line}); restore it, or delete it with its -wal and -shm files and "
            f"its answers are computed anew"
        )


def _make(path: Path, checkpoint: str) -> None:
    """Make a store whole or not at all, so that a file of that name is never half made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        database = _connect(temporary)
        with database:
            database.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
            database.execute(
                "CREATE TABLE answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID"
            )
            about = [("layout", LAYOUT), ("checkpoint", checkpoint)]
            database.executemany("INSERT INTO about VALUES (?, ?)", about)
        database.close()
        os.chmod(temporary, 0o644)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # another process was quicker; its file is as good
    finally:
        temporary.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=WAIT_SECONDS)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    return database


def _digest(key: str, value: str) -> str:
    return hashlib.sha256(f"{key} {value}".encode()).hexdigest()[:16]
