"""Several processes answer the requests of one run: the record is that of one, also where one of them is killed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import forked
from vrbench.core.errors import VrbenchError
from vrbench.core.run_storage import load_run
from vrbench.evaluation import ranks as ranks_module
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.evaluate import run_all
from vrbench.evaluation.ranks import BLOCKS, RankedStore, Ranks, gpu_count, torchrun_command

MADE_BY = {"vrbench": "1", "packages": {}, "device": "CPU"}


def open_store(folder: Path, rank: int, size: int = 2) -> RankedStore:
    return RankedStore(folder / "c.2.sqlite", "c", Ranks(rank, size, rank))


def test_each_request_belongs_to_one_rank_and_neighbours_stay_together() -> None:
    for count in (1, 7, 100):
        owners = [[r for r in range(3) if Ranks(r, 3, r).owns(n, count)] for n in range(count)]
        assert all(len(owner) == 1 for owner in owners)
        assert sum(a != b for a, b in itertools.pairwise(owners)) < BLOCKS * 3
    assert Ranks().owns(5, 9)


def test_the_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.of_environment() == Ranks(0, 1, 0)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    found = Ranks.of_environment()
    assert found == Ranks(5, 8, 1)
    assert [found.device(name) for name in ("cuda", "cpu", "cuda:3")] == ["cuda:1", "cpu", "cuda:3"]


def test_each_process_reads_what_the_others_wrote_and_rank_0_moves_it_into_the_store(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "c.2.sqlite", "c") as store:
        store.put({"old": "before"}, MADE_BY, "2026-01-01T00:00:00+00:00")
    with open_store(tmp_path, 0) as first:
        with open_store(tmp_path, 1) as second:
            second.put({"b": [-1.5, True]}, MADE_BY)
            first.put({"a": "yes"}, MADE_BY)
            expected = {"old": "before", "a": "yes", "b": [-1.5, True]}
            assert first.get([*expected, "none"]) == second.get([*expected, "none"]) == expected
            assert first.others_work()
            second.put({"c": "more"}, {**MADE_BY, "device": "GPU"})
        assert first.get(["c"]) == {"c": "more"}
        assert not first.others_work()  # it was there, and is gone
        (one, cpu), (other, gpu) = first.origins(["old", "a", "c"])
        assert (one["device"], len(cpu), other["device"], len(gpu)) == ("CPU", 2, "GPU", 1)
    with AnswerStore(tmp_path / "c.2.sqlite", "c") as store:
        assert store.get([*expected, "c"]) == {**expected, "c": "more"}
        assert len(store) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["c.2.sqlite"]


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


def test_a_process_without_a_sign_of_life_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path, 0) as store:
        assert store.others_work()  # it may still be starting
        monkeypatch.setattr(ranks_module, "START_SECONDS", 0)
        assert not store.others_work()
        life = tmp_path / "c.2.rank1.alive"
        life.touch()
        assert store.others_work()
        os.utime(life, (time.time() - 100, time.time() - 100))
        assert not store.others_work()


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert gpu_count("all") == 4 and gpu_count(3) == 3
    for wrong in (0, 5, "some"):
        with pytest.raises(VrbenchError, match="'all' or a number from 1 to 4"):
            gpu_count(wrong)
    command = torchrun_command(4, ["run", "--ckpt", "X"])
    assert command[1:3] == ["-m", "torch.distributed.run"] and command[-5:] == ["-m", "vrbench", "run", "--ckpt", "X"]


def answer(folder: str, out: str, rank: int, size: int) -> None:
    """What `vrbench run` does as one of several processes."""
    run_all([folder], "pocket_mme,pocket_facts", limit=24, device="cpu", out=out, ranks=Ranks(rank, size, rank, "0"),
            show_progress=False)  # fmt: skip


def outcome(out: Path) -> tuple[Any, Any]:
    """What has to be the same: scores and answers, and how many requests were computed."""
    (file,) = out.glob("*/*/run.json")
    run = load_run(file.parent)
    results = [(r.task, r.n, r.score, r.asked, r.reused) for r in run.record.results]
    return results, {task: [s.model_dump() for s in samples] for task, samples in run.samples.items()}


def test_two_processes_give_the_record_of_one_and_a_killed_one_costs_nothing(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(str(tiny_llava), str(tmp_path / "alone"), 0, 1)
    expected = outcome(tmp_path / "alone")

    other = forked.start(answer, str(tiny_llava), str(tmp_path / "both"), 1, 2)
    answer(str(tiny_llava), str(tmp_path / "both"), 0, 2)
    assert forked.ended(other) == 0
    assert outcome(tmp_path / "both") == expected
    assert not list((tmp_path / "both/answers").glob("*.jsonl"))

    life, computed = tmp_path / "killed/answers", []
    killed = forked.start(answer, str(tiny_llava), str(tmp_path / "killed"), 1, 2)
    while not list(life.glob("*.rank1.alive")):
        time.sleep(0.01)
    os.kill(killed.pid or 0, signal.SIGKILL)
    forked.ended(killed)
    monkeypatch.setattr(ranks_module, "ALIVE_SECONDS", 0)  # as a minute later
    put = RankedStore.put
    monkeypatch.setattr(
        RankedStore, "put", lambda self, answers, made: computed.extend(answers) or put(self, answers, made)
    )
    answer(str(tiny_llava), str(tmp_path / "killed"), 0, 2)
    assert outcome(tmp_path / "killed") == expected
    assert len(computed) > sum(asked for *_, asked, _ in expected[0]) / 2 + 1  # more than its share


def test_the_command_reports_errors_once_and_starts_a_process_for_each_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from vrbench import cli

    commands: list[list[str]] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr(
        subprocess, "run", lambda command, check: commands.append(command) or SimpleNamespace(returncode=3)
    )
    arguments = ["vrbench", "run", "--ckpt", "pocket/region", "--tasks", "pocket_facts", "--limit", "4"]
    arguments += ["--device", "cpu"]
    for wrong in (["--gpus", "5"], ["--gpus", "all", "--dtype", "float8"]):
        monkeypatch.setattr(sys, "argv", [*arguments, *wrong])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2 and not commands
    assert "there are auto, float32" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*arguments, "--gpus", "all", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert commands == [torchrun_command(4, sys.argv[1:])]
