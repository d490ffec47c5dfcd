"""The answer store keeps what was written, for several processes, and refuses what is damaged."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from vrbench.core.errors import VrbenchError
from vrbench.evaluation.answer_store import AnswerStore, older_store_file, store_file

CHECKPOINT = "c" * 64
OLD, NEW = {"vrbench": "1", "device": "a"}, {"vrbench": "2", "device": "a"}
WRITER = """
import sys
from pathlib import Path
from vrbench.evaluation.answer_store import AnswerStore
store = AnswerStore(Path(sys.argv[1]), "c" * 64)
for batch in range(int(sys.argv[3])):
    store.put({f"{sys.argv[2]} {batch} {i}": [batch, i] for i in range(5)}, {"by": sys.argv[2]})
    print(batch, flush=True)
"""


def filled(path: Path, n: int = 400) -> Path:
    with AnswerStore(path, CHECKPOINT) as store:
        store.put({f"key {i}": [float(i) / 7, True] if i % 2 else f"answer {i}" * 20 for i in range(n)}, OLD)
    return path


def write(path: Path, name: str, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.sqlite")
    with AnswerStore(path, CHECKPOINT) as store:
        found = store.get(["key 1", "key 2", "none", "key 1"])
        assert found == {"key 1": [1 / 7, True], "key 2": "answer 2" * 20}
        assert len(store) == 400
        assert len(store.get(f"key {i}" for i in range(2000))) == 400
    assert [p.name for p in tmp_path.iterdir()] == ["a.sqlite"]


def test_the_first_answer_stays(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "a.sqlite", CHECKPOINT) as store:
        store.put({"key": "first"}, OLD)
        store.put({"key": "second"}, NEW)
        assert store.get(["key"]) == {"key": "first"}
        assert [environment for environment, _ in store.origins(["key"])] == [OLD]


def test_every_answer_knows_when_and_with_what_it_was_computed(tmp_path: Path) -> None:
    before = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with AnswerStore(tmp_path / "a.sqlite", CHECKPOINT) as store:
        store.put({f"old {i}": i for i in range(600)}, OLD)
        store.put({"new 1": 1, "new 2": 2}, NEW)
    with AnswerStore(tmp_path / "a.sqlite", CHECKPOINT) as store:
        origins = store.origins([*(f"old {i}" for i in range(600)), "new 1", "none", "new 1"])
    after = datetime.now(timezone.utc).isoformat(timespec="seconds")
    assert sorted((len(times), environment) for environment, times in origins) == [(1, NEW), (600, OLD)]
    assert all(before <= times[0] <= times[-1] <= after for _, times in origins)


def test_the_file_of_an_older_layout_has_another_name(tmp_path: Path) -> None:
    assert older_store_file(tmp_path, CHECKPOINT) is None
    old = tmp_path / f"{CHECKPOINT}.sqlite"
    old.write_bytes(b"as it was")
    with AnswerStore(store_file(tmp_path, CHECKPOINT), CHECKPOINT) as store:
        store.put({"key": 1}, NEW)
    assert older_store_file(tmp_path, CHECKPOINT) == old and old.read_bytes() == b"as it was"


def test_every_write_is_synchronous(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "a.sqlite", CHECKPOINT) as store:
        full = 2
        assert store._database.execute("PRAGMA synchronous").fetchone()[0] == full
        assert store._database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_what_was_written_before_a_kill_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    writer = write(path, "w", 100_000)
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 20:
        pass
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    with AnswerStore(path, CHECKPOINT) as store:
        assert len(store) >= 21 * 5
        assert len(store) % 5 == 0  # batches are whole or not there
        assert store.get(["w 20 4"]) == {"w 20 4": [20, 4]}


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    writers = [write(path, name, 40) for name in ("one", "two")]
    assert [writer.communicate()[0].count("\n") for writer in writers] == [40, 40]
    with AnswerStore(path, CHECKPOINT) as store:
        assert len(store) == 2 * 40 * 5


@pytest.mark.parametrize("size", [0, 50, 5000, -1000])
def test_a_truncated_store_is_refused(tmp_path: Path, size: int) -> None:
    path = filled(tmp_path / "a.sqlite")
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(VrbenchError, match=r"a\.sqlite is damaged .*delete it"):
        AnswerStore(path, CHECKPOINT)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no database " * 100)
    with pytest.raises(VrbenchError, match="is damaged"):
        AnswerStore(path, CHECKPOINT)


@pytest.mark.parametrize("change", ["value = '[0.5, true]'", "time = '2020-01-01T00:00:00+00:00'"])
def test_a_changed_answer_or_origin_is_refused(change: str, tmp_path: Path) -> None:
    path = filled(tmp_path / "a.sqlite")
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE answers SET {change} WHERE key = 'key 1'")
    database.close()
    with AnswerStore(path, CHECKPOINT) as store, pytest.raises(VrbenchError, match="does not match its digest"):
        store.get(["key 1"])


def test_another_checkpoints_answers_are_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.sqlite")
    with pytest.raises(VrbenchError, match=r"holds answers of checkpoint cccc.*needed is dddd"):
        AnswerStore(path, "d" * 64)
