"""Processes that share one model's tensors give the record of one process."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import forked
from tests.tiny import save_adapter, save_llava
from vrbench.core.errors import RunAborted, VrbenchError
from vrbench.core.run_storage import load_run
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.broadcast_store import BroadcastStore
from vrbench.evaluation.evaluate import run_all
from vrbench.evaluation.ranks import Ranks
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import plan


def answer(names: list[str], out: str, limit: int, tp: bool) -> None:
    """What `vrbench run` does, with `--tp` in one of the processes."""
    run_all(names, "pocket_mme,pocket_facts", limit=limit, device="cpu", out=out, tp=tp, show_progress=False)


def together(work: Any, *arguments: Any) -> list[int | None]:
    """Do work in two processes that `torchrun` might have started; return their exit codes."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    started = []
    for rank in range(2):
        said = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        environment = {name: str(value) for name, value in said.items()}
        started.append(forked.start(work, *arguments, environment=environment))
    return [forked.ended(process, 300) for process in started]


def outcome(out: Path, name: str) -> tuple[Any, list[Any]]:
    runs = [load_run(file.parent) for file in out.glob(f"{name}/*/run.json")]
    run = max(runs, key=lambda run: run.record.settings.limit or 0)
    return run.record, [sample for samples in run.samples.values() for sample in samples]


def test_two_processes_that_share_a_model_give_the_record_of_one(tmp_path: Path) -> None:
    base = save_llava(tmp_path / "base")
    names = [str(base), str(save_adapter(tmp_path / "adapter", base))]
    answer(names, str(tmp_path / "alone"), 8, False)
    answer(names[:1], str(tmp_path / "shared"), 4, False)  # some answers are there
    assert together(answer, names, str(tmp_path / "shared"), 8, True) == [0, 0]
    for name in ("base", "adapter"):
        (record, samples), (expected, alone) = (outcome(tmp_path / out, name) for out in ("shared", "alone"))
        assert [(r.task, r.n, r.score.value) for r in record.results] == [
            (r.task, r.n, r.score.value) for r in expected.results
        ]
        assert all((r.reused > 0) == (name == "base") and r.asked > 0 for r in record.results)
        assert record.provenance.device.endswith("tensors shared among 2 processes")
        for sample, other in zip(samples, alone, strict=True):
            assert (sample.prompt_digest, sample.answer) == (other.prompt_digest, other.answer)
            for response, theirs in zip(sample.responses, other.responses, strict=True):
                assert response == (theirs if isinstance(theirs, str) else pytest.approx(theirs, abs=1e-4))


def ask_for_other_answers(file: str) -> None:
    """What processes do after an error in one of them."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    store = BroadcastStore(None if rank else AnswerStore(Path(file), "c"))
    assert store.get(["a"]) == {}
    try:
        store.get([f"of process {rank}"])
    except RunAborted:
        sys.exit(3)


def test_processes_that_share_a_model_end_where_they_would_wait_for_each_other(tmp_path: Path) -> None:
    assert together(ask_for_other_answers, str(tmp_path / "c.sqlite")) == [3, 3]


def test_options_that_spread_a_model_are_refused_where_they_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def errors(size: int | None, gpus: int, **options: Any) -> str:
        for module in ("evaluation.run_config", "evaluation.ranks", "core.device"):
            monkeypatch.setattr(f"vrbench.{module}.count_gpus", lambda: gpus)
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if size is not None:
            monkeypatch.setenv("WORLD_SIZE", str(size))
        config = RunConfig(out=tmp_path, **options)
        return "; ".join([*config.errors(), *Ranks.of_environment().errors(config)])

    for size in (None, 1):
        assert errors(size, 2, device_map="auto") == errors(2, 2, tp=True) == errors(2, 0, tp=True, device="cpu") == ""
    assert "is 'balanced'; it is 'auto'" in errors(None, 2, device_map="balanced")
    assert "torch sees none here" in errors(None, 0, device_map="auto", device="cpu")
    assert "device is cuda:1, but a device map" in errors(None, 2, device_map="auto", device="cuda:1")
    assert "leave out --gpus and torchrun" in errors(2, 2, device_map="auto")
    assert "choose one of them" in errors(2, 2, device_map="auto", tp=True)
    assert "leave out deterministic, or tp" in errors(2, 2, deterministic=True, tp=True)
    assert "torchrun --nproc-per-node N" in errors(None, 2, tp=True)
    assert "takes the GPU of its own number" in errors(2, 2, tp=True, device="cpu")


def test_a_checkpoint_that_cannot_be_shared_is_refused_before_it_is_loaded(tiny_llava: Path, tmp_path: Path) -> None:
    options = RunConfig(limit=4, out=tmp_path, device="cpu", tp=True)
    with pytest.raises(VrbenchError, match="key and value heads cannot be shared evenly among 4 processes"):
        plan([str(tiny_llava)], "pocket_facts", options, Ranks(0, 4))
