"""Several processes exchange answers through files: each reads what the others wrote, and knows which of them runs."""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from vrbench.core.errors import VrbenchError
from vrbench.core.provenance import now
from vrbench.evaluation import ranked_store
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.ranked_store import RankedStore, begin_run, has_rank_files
from vrbench.evaluation.ranks import Ranks
from vrbench.evaluation.requests import Unanswered

MADE_BY = {"vrbench": "1", "packages": {}, "device": "CPU"}


def open_store(folder: Path, rank: int, size: int = 2, started: str = "") -> RankedStore:
    return RankedStore(folder / "c.2.sqlite", "c", Ranks(rank, size, rank, size, started))


def test_each_process_reads_what_the_others_wrote_and_rank_0_moves_it_into_the_store(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "c.2.sqlite", "c") as store:
        store.put({"old": "before"}, MADE_BY, "2026-01-01T00:00:00+00:00")
    with open_store(tmp_path, 0) as first:
        with open_store(tmp_path, 1) as second:
            second.put({"b": [-1.5, True]}, MADE_BY)
            first.put({"a": "yes"}, MADE_BY)
            expected = {"old": "before", "a": "yes", "b": [-1.5, True]}
            assert first.get([*expected, "none"]) == second.get([*expected, "none"]) == expected
            assert first.from_ranks([*expected, "none"]) == {"a": "yes", "b": [-1.5, True]}
            second.put({"c": "more"}, {**MADE_BY, "device": "GPU"})
        assert first.get(["c"]) == {"c": "more"}
        (one, cpu), (other, gpu) = first.origins(["old", "a", "c"])
        assert (one["device"], len(cpu), other["device"], len(gpu)) == ("CPU", 2, "GPU", 1)
        assert has_rank_files(tmp_path / "c.2.sqlite")
    with AnswerStore(tmp_path / "c.2.sqlite", "c") as store:
        assert store.get([*expected, "c"]) == {**expected, "c": "more"}
        assert len(store) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["c.2.sqlite"]


def test_what_cannot_be_answered_is_told_in_the_run_and_never_stored(tmp_path: Path) -> None:
    with open_store(tmp_path, 0) as first, open_store(tmp_path, 1) as second:
        second.put({"a": "yes"}, MADE_BY)
        second.put_unanswered({"b": Unanswered("too long")})
        second.put_failed(["c"])
        found = first.from_ranks("abc")
        assert found == {"a": "yes", "b": ""} and found["b"].reason == "too long"
        assert first.get("abc") == {"a": "yes"}
        assert first.failed("abc") == ["c"]
        with open_store(tmp_path, 2, 3, started="2999-01-01T00:00:00+00:00") as later:
            assert later.from_ranks("abc") == {"a": "yes"} and not later.failed("abc")
    with AnswerStore(tmp_path / "c.2.sqlite", "c") as store:
        assert store.get("abc") == {"a": "yes"}


def test_a_torn_or_damaged_line_is_computed_again(tmp_path: Path) -> None:
    with open_store(tmp_path, 1) as store:
        store.put({"a": "1"}, MADE_BY)
        store.put({"b": "2"}, MADE_BY)
        store.put({"c": "3"}, MADE_BY)
    file = tmp_path / "c.2.rank1.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1].replace(b'"2"', b'"5"') + lines[2][:-20])
    with open_store(tmp_path, 1) as store:
        assert store.get("abc") == {"a": "1"}
        store.put({"d": "4"}, MADE_BY)
        assert store.get("abcd") == {"a": "1", "d": "4"}


def test_a_failed_run_leaves_the_files_for_the_next(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_store(tmp_path, 0) as store:
        store.put({"a": "1"}, MADE_BY)
        raise ZeroDivisionError
    assert not (tmp_path / "c.2.sqlite").exists()
    with open_store(tmp_path, 0, size=3) as store:
        assert store.get("a") == {"a": "1"}
    with AnswerStore(tmp_path / "c.2.sqlite", "c") as kept:
        assert kept.get("a") == {"a": "1"}


def test_a_process_is_waited_for_while_it_starts_or_has_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path, 0) as store:
        assert store.others_are_running()  # it may still be starting
        monkeypatch.setattr(ranked_store, "START_SECONDS", 0)
        assert not store.others_are_running()
        with open_store(tmp_path, 1):
            assert store.others_are_running()
            os.utime(tmp_path / "c.2.rank1.heartbeat", (time.time() - 100, time.time() - 100))
            assert not store.others_are_running()  # killed
        monkeypatch.setattr(ranked_store, "START_SECONDS", 100)
        assert not store.others_are_running()  # ended, and not one that has not started


def test_heartbeats_of_earlier_runs_are_removed(tmp_path: Path) -> None:
    store = tmp_path / "c.2.sqlite"
    for rank in (0, 1):
        with pytest.raises(KeyboardInterrupt), open_store(tmp_path, rank):
            raise KeyboardInterrupt
    ended = sorted(tmp_path.iterdir())
    assert [file.stat().st_mtime for file in ended] == [0, 0]
    begin_run([store], Ranks(started="2026-01-01T00:00:00+00:00"))
    assert sorted(tmp_path.iterdir()) == ended  # this run's processes, which have ended before rank 0 began
    begin_run([store], Ranks(started=datetime.fromtimestamp(time.time() + 1, timezone.utc).isoformat()))
    assert not list(tmp_path.iterdir())


def test_two_runs_do_not_use_a_store_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranked_store, "HEARTBEAT_SECONDS", 0.05)
    store = tmp_path / "c.2.sqlite"
    with (
        open_store(tmp_path, 0),
        pytest.raises(VrbenchError, match=r"another run compute answers for .*choose another --out"),
    ):
        begin_run([store], Ranks(started=now()))
    (tmp_path / "c.2.rank0.heartbeat").touch()  # as a kill leaves it
    begin_run([store], Ranks(started=now()))
