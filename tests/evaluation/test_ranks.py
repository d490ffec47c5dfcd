"""Several processes answer the requests of one run: the record is that of one, also where one of them is killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import forked
from tests.evaluation import test_engine
from tests.evaluation.made import noise
from vrbench.core.errors import RunAborted, VrbenchError
from vrbench.core.provenance import now
from vrbench.core.run_storage import load_run
from vrbench.evaluation import engine, ranked_store, ranks
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import run_all
from vrbench.evaluation.ranked_store import RankedStore
from vrbench.evaluation.ranks import BLOCKS, Ranks, gpu_count, run_with_torchrun
from vrbench.evaluation.requests import GenerationRequest, Request, Unanswered, request_image
from vrbench.evaluation.run_config import RunConfig
from vrbench.models.llava_model import LlavaModel


def test_each_request_belongs_to_one_rank_and_neighbours_stay_together() -> None:
    for count in (1, 2, 3, 4, 7, 12, 29, 100):
        owners = [[r for r in range(3) if Ranks(r, 3, r).owns(n, count)] for n in range(count)]
        assert all(len(owner) == 1 for owner in owners)
        assert sum(a != b for a, b in itertools.pairwise(owners)) < BLOCKS * 3
        shares = [owners.count([rank]) for rank in range(3)]
        assert max(shares) - min(shares) <= BLOCKS and (count < 3 or min(shares) >= count // 4)
    assert Ranks().owns(5, 9)


def test_the_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.of_environment() == Ranks(0, 1, 0)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    found = Ranks.of_environment()
    assert found == Ranks(5, 8, 1) and found.local_size == 4
    assert [found.device(name) for name in ("cuda", "cpu")] == ["cuda:1", "cpu"]


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rank 0 fail where it would wait for another process."""
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=engine.time.monotonic, sleep=None))


class Processes:
    """Engines of several ranks over one store; the last ranks answer first, while all of them are running."""

    def __init__(self, vlm: LlavaModel, folder: Path, size: int, batch_size: int | str = "auto") -> None:
        self.vlm, self.size, self.batch_size = vlm, size, batch_size
        self.file = folder / "c.2.sqlite"
        self.began = now()

    def answer(self, requests: list[Request]) -> list[Any]:
        """Return rank 0's responses; the engines stay in `engines`."""
        with ExitStack() as opened:
            stores = [opened.enter_context(store) for store in self._stores()]
            self.engines = [
                InferenceEngine(self.vlm, store, self.batch_size, show_progress=False, ranks=Ranks(n, self.size, n))
                for n, store in enumerate(stores)
            ]
            for other in reversed(self.engines[1:]):
                self.share(other, requests)
            return self.engines[0].answer(requests)

    def share(self, other: InferenceEngine, requests: list[Request]) -> None:
        other.answer_share(requests)

    def _stores(self) -> Iterator[RankedStore]:
        return (RankedStore(self.file, "c", Ranks(n, self.size, n, self.size, self.began)) for n in range(self.size))


@pytest.fixture(scope="module")
def expected(vlm: LlavaModel, tmp_path_factory: pytest.TempPathFactory) -> dict[Request, Any]:
    """What one process answers, prompt by prompt."""
    asked = test_engine.requests(vlm)
    with AnswerStore(tmp_path_factory.mktemp("expected") / "a.sqlite", "c") as store:
        answers = InferenceEngine(vlm, store, 1, show_progress=False).answer(asked)
    return dict(zip(asked, answers, strict=True))


@pytest.mark.parametrize(
    ("size", "batch_size", "order"),
    [(1, 1, None), (1, 3, 1), (2, "auto", None), (2, 3, None), (2, 1, 1), (3, "auto", 1), (3, 1, None), (3, 3, 1)],
)
def test_answers_do_not_depend_on_ranks_orders_and_batches(
    vlm: LlavaModel, tmp_path: Path, expected: dict[Request, Any], size: int, batch_size: int | str,
    order: int | None, no_waiting: None,
) -> None:  # fmt: skip
    asked = test_engine.requests(vlm)
    if order is not None:
        random.Random(order).shuffle(asked)
    processes = Processes(vlm, tmp_path, size, batch_size)
    found = processes.answer(asked)
    texts = {request: answer for request, answer in zip(asked, found, strict=True) if isinstance(answer, str)}
    assert texts == {request: answer for request, answer in expected.items() if isinstance(answer, str)}
    for request, answer in zip(asked, found, strict=True):
        if isinstance(answer, tuple):
            assert answer == (pytest.approx(expected[request][0], abs=2e-5), expected[request][1])
    assert processes.engines[0].computed == 23 and processes.engines[0].reused == 0
    assert abs(processes.engines[-1].computed - 23 / size) < 4


def test_rank_0_does_not_wait_for_what_cannot_be_answered(vlm: LlavaModel, tmp_path: Path, no_waiting: None) -> None:
    shown = request_image(noise("a"), lambda: noise("a"))
    too_long = GenerationRequest(vlm.prompt("word " * vlm.full_context, 1), (shown,), 4, ())
    fits = GenerationRequest(vlm.prompt("Is it red?", 1), (shown,), 4, ())
    asked: list[Request] = [fits, too_long]
    assert [Ranks(1, 2, 1).owns(number, 2) for number in range(2)] == [False, True]
    processes = Processes(vlm, tmp_path, 2)
    first, second = processes.answer(asked)
    assert first and isinstance(second, Unanswered) and "tokens with 1 image" in second.reason
    assert processes.engines[0].computed == 1
    with AnswerStore(processes.file, "c") as store:
        assert len(store) == 1


def test_rank_0_answers_what_another_process_fails_to_answer(
    vlm: LlavaModel, tmp_path: Path, expected: dict[Request, Any], no_waiting: None, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    calls, hidden = [], LlavaModel.hidden_states

    def dies_at_the_third(self: LlavaModel, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the GPU is gone")
        return hidden(self, *args)

    class OneFails(Processes):
        def share(self, other: InferenceEngine, requests: list[Request]) -> None:
            with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="the GPU is gone"):
                patched.setattr(LlavaModel, "hidden_states", dies_at_the_third)
                other.answer_share(requests)

    asked = test_engine.requests(vlm)
    processes = OneFails(vlm, tmp_path, 2, 1)
    found = processes.answer(asked)
    assert [isinstance(answer, str) for answer in found] == [isinstance(expected[one], str) for one in asked]
    assert processes.engines[0].computed == 23 and 1 <= processes.engines[1].computed < 5
    assert "other processes left" in caplog.text


def test_the_bar_of_rank_0_counts_what_others_answer(
    vlm: LlavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "POLL_SECONDS", 0)
    asked = test_engine.requests(vlm)[:12]
    one, other = (RankedStore(tmp_path / "c.2.sqlite", "c", Ranks(n, 2, n, 2, now())) for n in range(2))
    counted: list[int] = []
    with one, other:
        second = InferenceEngine(vlm, other, 1, show_progress=False, ranks=Ranks(1, 2, 1))

        def update(bar: Any, n: int) -> None:
            counted.append(n)
            if sum(counted) == 1:
                second.answer_share(asked)

        monkeypatch.setattr("tqdm.tqdm.update", update)
        InferenceEngine(vlm, one, 1, ranks=Ranks(0, 2, 0)).answer(asked)
    assert [n for n in counted if n][:2] == [1, 6] and sum(counted) == 12
    assert "0/12" in capsys.readouterr().err


SETTINGS: dict[str, Any] = {"limit": 24, "device": "cpu", "batch_size": 4, "show_progress": False}


def answer(folder: str, out: str, rank: int, size: int, began: str) -> None:
    """What `vrbench run` does as one of several processes."""
    run_all([folder], "pocket_mme,pocket_facts", out=out, ranks=Ranks(rank, size, rank, size, began), **SETTINGS)


def answer_and_die(folder: str, out: str, rank: int, size: int, began: str) -> None:
    """The same, killed as soon as its second batch is written."""
    put, batches = RankedStore.put, itertools.count(1)

    def put_and_die(self: RankedStore, answers: Any, environment: Any) -> None:
        put(self, answers, environment)
        if next(batches) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    RankedStore.put = put_and_die  # type: ignore[method-assign]
    answer(folder, out, rank, size, began)


def fail(folder: str, out: str, rank: int, size: int, began: str) -> None:
    """The same, where the weights cannot be loaded."""

    def load_vlm(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such GPU")

    from vrbench.models import load

    load.load_vlm = load_vlm  # type: ignore[assignment]
    answer(folder, out, rank, size, began)


def outcome(out: Path) -> tuple[Any, Any]:
    """What has to be the same: scores and answers and how many requests were computed; log-likelihoods nearly."""
    (file,) = out.glob("*/*/run.json")
    run = load_run(file.parent)
    results = [(r.task, r.n, r.score, r.asked, r.reused) for r in run.record.results]
    answers = {task: [(s.id, s.score, s.answer) for s in samples] for task, samples in run.samples.items()}
    likely = [value for samples in run.samples.values() for sample in samples for value in sample.loglikelihoods]
    return (results, answers), likely


@pytest.fixture(scope="module")
def alone(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The outcome of one process."""
    out = tmp_path_factory.mktemp("alone")
    answer(str(tiny_llava), str(out), 0, 1, now())
    return outcome(out)


@pytest.mark.parametrize(
    ("work", "code", "share"),
    [(answer, 0, (0.4, 0.6)), (answer_and_die, -signal.SIGKILL, (0.7, 0.99)), (fail, 0, (1, 1))],
)
def test_two_processes_give_the_record_of_one(
    tiny_llava: Path, alone: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any, code: int,
    share: tuple[float, float],
) -> None:  # fmt: skip
    monkeypatch.setattr(ranked_store, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(ranked_store, "TIMEOUT_SECONDS", 5)
    both, began = tmp_path / "both", now()
    other = forked.start(work, str(tiny_llava), str(both), 1, 2, began)
    computed, put = set(), RankedStore.put
    monkeypatch.setattr(RankedStore, "put", lambda self, new, made: computed.update(new) or put(self, new, made))
    answer(str(tiny_llava), str(both), 0, 2, began)
    assert forked.ended(other) == code
    assert outcome(both) == (alone[0], pytest.approx(alone[1], abs=2e-5))
    assert [file.suffix for file in (both / "answers").iterdir()] == [".sqlite"]
    asked = sum(asked for *_, asked, _ in alone[0][0])
    assert share[0] <= len(computed) / asked <= share[1]  # the other process has really computed the rest


def test_one_process_goes_on_where_several_were_interrupted(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(str(tiny_llava), str(tmp_path), 1, 2, now())  # rank 0 was killed before it had begun
    later = datetime.fromtimestamp(time.time() + 1, timezone.utc).isoformat(timespec="seconds")
    computed, put = set(), RankedStore.put
    monkeypatch.setattr(RankedStore, "put", lambda self, new, made: computed.update(new) or put(self, new, made))
    run_all([str(tiny_llava)], "pocket_mme,pocket_facts", out=tmp_path, ranks=Ranks(started=later), **SETTINGS)
    (results, _), _ = outcome(tmp_path)
    assert len(computed) == sum(asked for *_, asked, _ in results)
    assert sum(reused for *_, reused in results) > len(computed) / 3
    assert [file.suffix for file in (tmp_path / "answers").iterdir()] == [".sqlite"]


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "count_gpus", lambda: 4)
    monkeypatch.setattr("vrbench.core.device.count_gpus", lambda: 4)


def test_gpus_are_counted(four_gpus: None) -> None:
    assert [gpu_count(gpus, "auto") for gpus in ("auto", "all", "3", "1")] == [4, 4, 3, 1]
    assert [gpu_count("auto", device) for device in ("cuda", "cuda:1", "cpu")] == [4, 1, 1]
    assert gpu_count("1", "cuda:1") == 1
    for wrong in ("0", "5", "some", "-1"):
        with pytest.raises(VrbenchError, match="auto, all or a number from 1 to 4, the GPUs seen here"):
            gpu_count(wrong, "auto")
    for device in ("cuda:1", "cpu"):
        with pytest.raises(VrbenchError, match=f"gpus is '2', but device is {device}; use --device cuda, or leave"):
            gpu_count("2", device)


def test_each_process_needs_a_gpu_of_its_own(four_gpus: None) -> None:
    def errors(ranks: Ranks, device: str) -> list[str]:
        return list(ranks.errors(RunConfig(device=device)))

    assert not errors(Ranks(), "cuda:1") and not errors(Ranks(1, 4, 1, 4), "cuda")
    assert errors(Ranks(5, 8, 1, 4), "cpu") == errors(Ranks(5, 8, 1, 4), "auto") == []
    (one,) = errors(Ranks(0, 2, 0, 2), "cuda:1")
    assert one.startswith("device is cuda:1, but there are 2 processes")
    (other,) = errors(Ranks(0, 6, 0, 6), "auto")
    assert other.startswith("6 processes were started on this machine") and "torch sees 4" in other


def test_the_command_ends_as_its_processes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    given: list[list[str]] = []
    ends: list[Any] = [None]
    ends += [ChildFailedError("x", {0: ProcessFailure(0, 1, code, "none")}) for code in (2, -9)]
    ends += [SignalException("x", sig) for sig in (signal.SIGTERM, signal.SIGINT)]

    def torchrun(arguments: list[str]) -> None:
        given.append(arguments)
        if (end := ends.pop(0)) is not None:
            raise end

    monkeypatch.setattr("torch.distributed.run.main", torchrun)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert [run_with_torchrun(4, ["run", "--ckpt", "X"]) for _ in range(5)] == [0, 2, 137, 143, 130]
    assert given[0] == ["--standalone", "--nproc-per-node", "4", "-m", "vrbench", "run", "--ckpt", "X"]


ARGUMENTS = ["vrbench", "run", "--ckpt", "pocket/region", "--limit", "4", "--tasks"]


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Run the command, and return its exit code."""
    from vrbench import cli

    monkeypatch.setattr(sys, "argv", [*ARGUMENTS, *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_command_starts_a_process_for_each_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, four_gpus: None
) -> None:
    started: list[tuple[int, list[str]]] = []
    monkeypatch.setattr(ranks, "run_with_torchrun", lambda n, arguments: started.append((n, arguments)) or 3)
    monkeypatch.setattr("vrbench.evaluation.evaluate.run_planned", lambda *_: started.append((1, [])) or [])
    for wrong in (["--gpus", "5"], ["--gpus", "2", "--device", "cuda:1"]):
        assert status(monkeypatch, "pocket_facts", *wrong, "--dtype", "float8") == 2 and not started
        told = capsys.readouterr().err
        assert "there are auto, float32" in told and "gpus is '" in told  # together
    out = ["--out", str(tmp_path)]
    assert status(monkeypatch, "pocket_facts", "--gpus", "2", *out) == 3
    assert status(monkeypatch, "pocket_facts,pocket_mme", *out) == 3
    assert started == [(2, [*ARGUMENTS[1:], "pocket_facts", "--gpus", "2", *out]), (4, sys.argv[1:])]
    started.clear()
    status(monkeypatch, "pocket_facts", *out)
    status(monkeypatch, "pocket_facts,pocket_mme", "--device", "cpu", *out)
    monkeypatch.setenv("RANK", "0")  # torchrun --nproc-per-node 1
    status(monkeypatch, "pocket_facts,pocket_mme", *out)
    assert started == [(1, [])] * 3


def test_one_model_on_several_gpus_is_one_process_or_one_for_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, four_gpus: None
) -> None:
    started: list[int] = []
    monkeypatch.setattr("vrbench.evaluation.run_config.count_gpus", lambda: 4)
    monkeypatch.setattr(ranks, "run_with_torchrun", lambda n, arguments: started.append(n) or 3)
    monkeypatch.setattr("vrbench.evaluation.evaluate.run_planned", lambda *_: started.append(1) or [])
    out = ["--out", str(tmp_path)]
    assert status(monkeypatch, "pocket_facts", "--device-map", "auto", "--gpus", "2", *out) == 2 and not started
    assert "a device map uses all GPUs in one process; leave out --gpus" in capsys.readouterr().err
    status(monkeypatch, "pocket_facts,pocket_mme", "--device-map", "auto", *out)
    assert status(monkeypatch, "pocket_facts", "--tp", *out) == 2
    assert "3 key and value heads cannot be shared evenly among 4 processes" in capsys.readouterr().err
    status(monkeypatch, "pocket_facts", "--tp", "--gpus", "3", *out)
    assert started == [1, 3]


def test_an_error_ends_a_process_that_others_wait_for(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RunAborted), Ranks(1, 2, 1, together=True).fatal_errors():
        raise VrbenchError("no room")
    assert "process 1 ends the run: no room" in caplog.text
    with pytest.raises(VrbenchError), Ranks(1, 2, 1).fatal_errors():
        raise VrbenchError("no room")


@pytest.mark.parametrize(("rank", "code"), [("0", 2), ("1", 0)])
def test_rank_0_alone_reports_errors_in_the_input(
    rank: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert status(monkeypatch, "pocket_fact", "--dtype", "float8", "--out", str(tmp_path)) == code
    told = capsys.readouterr()
    assert bool(told.err) == (rank == "0") and not told.out and not caplog.text
    assert not list(tmp_path.iterdir())


def test_torchrun_has_decided_how_many_processes_there_are(four_gpus: None) -> None:
    assert [gpu_count(gpus, "cpu", started=2) for gpus in ("auto", "all", "2")] == [1, 1, 1]
    for wrong in ("4", "1", "some"):
        with pytest.raises(VrbenchError, match=f"gpus is '{wrong}', but 2 processes were started here; leave --gpus"):
            gpu_count(wrong, "cpu", started=2)


def test_gpus_that_are_not_there_are_reported(monkeypatch: pytest.MonkeyPatch, four_gpus: None) -> None:
    with pytest.raises(VrbenchError, match="auto, all or a number from 1 to 4"):
        gpu_count("²", "auto")
    monkeypatch.setattr(ranks, "count_gpus", lambda: 0)
    assert gpu_count("1", "auto") == gpu_count("all", "auto") == 1
    with pytest.raises(VrbenchError, match="gpus is '2', but torch sees no CUDA GPU here; leave --gpus out"):
        gpu_count("2", "auto")


def test_gpus_beside_torchrun_are_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert status(monkeypatch, "pocket_facts", "--gpus", "4", "--device", "cpu", "--batch-size", "²") == 2
    told = capsys.readouterr().err
    assert "gpus is '4', but 2 processes were started here" in told and "batch size is '²'" in told
