"""The answer store: every response of one checkpoint, durable as soon as its batch is written.

One SQLite file per checkpoint digest. Interrupted at any moment, it holds every batch written before; several processes
may use it at once. Each response is stored with the time and the versions that computed it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.io import canonical_json
from vrbench.core.provenance import now

LAYOUT = "2"
WAIT_SECONDS = 60.0
KEYS_PER_SELECT = 500
"""SQLite takes at most 999 parameters in its oldest builds."""

_TABLES = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE environments (id INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE)",
    "CREATE TABLE answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, time TEXT NOT NULL, "
    "environment INTEGER NOT NULL REFERENCES environments, digest TEXT NOT NULL) WITHOUT ROWID",
)


def store_file(folder: Path, checkpoint: str) -> Path:
    """Return the file of a checkpoint's responses in a folder.

    The layout version is in its name, so that versions of vrbench with other layouts use other files.
    """
    return folder / f"{checkpoint}.{LAYOUT}.sqlite"


def older_store_file(folder: Path, checkpoint: str) -> Path | None:
    """Return the file in which vrbench 0.2.0 kept a checkpoint's responses, if there is one.

    It does not say which libraries and which code computed them, so they are not reused.
    """
    path = folder / f"{checkpoint}.sqlite"
    return path if path.exists() else None


class AnswerStore:
    """Responses by request key, on disk. Use it as a context manager, or `close` it."""

    def __init__(self, path: Path, checkpoint: str, immutable: bool = False) -> None:
        """Open the store, or create it.

        Args:
            path: the SQLite file.
            checkpoint: digest of the checkpoint whose responses it holds.
            immutable: only read it, without locks; nobody may write it meanwhile.

        Raises:
            VrbenchError: the file is damaged, of another layout, or holds another checkpoint's responses.
        """
        self.path = path
        with self._access():
            if not path.exists():
                _create(path, checkpoint)
            self._check_header()
            self._database = _connect(path, immutable)
            damage = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
            about = dict(self._database.execute("SELECT name, value FROM about"))
        if damage != "ok":
            raise self._damaged(damage)
        if about != {"layout": LAYOUT, "checkpoint": checkpoint}:
            raise VrbenchError(
                f"answer store {path} holds answers of checkpoint {about.get('checkpoint', '?')[:16]} in layout "
                f"{about.get('layout', '?')}; needed is {checkpoint[:16]} in layout {LAYOUT}; move it away"
            )

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the responses that are stored.

        Raises:
            VrbenchError: the file is damaged.
        """
        found = {}
        columns = "SELECT key, value, time, environment, digest FROM answers WHERE key IN"
        for key, value, *origin, digest in self._select(columns, keys):
            if digest != _digest(key, value, *origin):
                raise self._damaged(f"answer {key[:16]} does not match its digest")
            found[key] = json.loads(value)
        return found

    def put(self, answers: Mapping[str, Any], environment: Mapping[str, Any], time: str = "") -> None:
        """Write responses in one transaction; when this returns they outlive a crash of the machine.

        A response that another process has written meanwhile stays as it is.

        Args:
            answers: by key.
            environment: what computed them, as JSON.
            time: when, if it was not just now.
        """
        when, content = time or now(), canonical_json(environment)
        written = [(key, json.dumps(value)) for key, value in answers.items()]
        with self._access(), self._database:
            self._database.execute("INSERT OR IGNORE INTO environments (content) VALUES (?)", (content,))
            (number,) = self._database.execute("SELECT id FROM environments WHERE content = ?", (content,)).fetchone()
            rows = [(key, value, when, number, _digest(key, value, when, number)) for key, value in written]
            self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", rows)

    def origins(self, keys: Iterable[str]) -> list[tuple[dict[str, Any], list[str]]]:
        """Return what computed the stored responses, as given to `put`, and the sorted times; the earliest first.

        Raises:
            VrbenchError: the file is damaged.
        """
        times: dict[str, list[str]] = {}
        columns = "SELECT content, time FROM answers JOIN environments ON id = environment WHERE key IN"
        for content, time in self._select(columns, keys):
            times.setdefault(content, []).append(time)
        origins = [(json.loads(content), sorted(of)) for content, of in times.items()]
        return sorted(origins, key=lambda origin: (origin[1][0], origin[1][-1]))

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _select(self, statement: str, keys: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a statement that ends in `key IN`, for as many keys at a time as go into one SELECT."""
        wanted = sorted(set(keys))  # neighbours are on one page of the file
        for start in range(0, len(wanted), KEYS_PER_SELECT):
            part = wanted[start : start + KEYS_PER_SELECT]
            with self._access():
                rows = self._database.execute(f"{statement} ({','.join('?' * len(part))})", part).fetchall()
            yield from rows

    def _check_header(self) -> None:
        """Refuse an empty file, which SQLite takes for a new database; here it is one whose responses are lost."""
        with self.path.open("rb") as stream:
            header = stream.read(100)
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
            raise sqlite3.DatabaseError("file is empty, truncated or no database")

    @contextlib.contextmanager
    def _access(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, not writable, disk full: the responses are intact
            reason = os_errors.describe_os_error(error) or f"{error}; end what else uses it, or choose another --out"
            raise VrbenchError(f"answer store {self.path} cannot be used: {reason}") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, how: str) -> VrbenchError:
        line = " ".join(how.split())
        return VrbenchError(
            f"answer store {self.path} is damaged ({line}); restore it, or delete it with its -wal and -shm files and "
            f"its answers are computed again"
        )


def _create(path: Path, checkpoint: str) -> None:
    """Create a store atomically, so that no half-written file ever has that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        database = _connect(temporary)
        with database:
            for table in _TABLES:
                database.execute(table)
            about = [("layout", LAYOUT), ("checkpoint", checkpoint)]
            database.executemany("INSERT INTO about VALUES (?, ?)", about)
        database.close()
        os.chmod(temporary, 0o644)
        with contextlib.suppress(FileExistsError):  # another process was quicker; its file is as good
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _connect(path: Path, immutable: bool = False) -> sqlite3.Connection:
    if immutable:
        return sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
    database = sqlite3.connect(path, timeout=WAIT_SECONDS)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    return database


def _digest(key: str, value: str, time: str, environment: int) -> str:
    return hashlib.sha256(f"{key} {value} {time} {environment}".encode()).hexdigest()[:16]
