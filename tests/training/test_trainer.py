"""The loop itself: killed and gone on, split into parts and processes, stopped by faults, and at its rates."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback, TrainingArguments, get_scheduler

from tests import forked
from tests.training import small_training
from tests.training.packed import CPU
from vrbench.core.errors import VrbenchError
from vrbench.training.checkpoint_folder import LOSSES, claim_states, newest_state
from vrbench.training.curves import Reporting
from vrbench.training.monitor import Throughput
from vrbench.training.trainer import (
    ParameterGroup,
    TrainingConfig,
    TrainingData,
    _validate_sharding,
    fit,
    shuffled_passes,
)

HARD = {"accumulate": 2, "sampling": 2, "every": 2}
"""Beside dropout: what a training that goes on could get wrong."""


SHARDING = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}  # fmt: skip
"""FSDP2, as accelerate's processes find it in their environment."""


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Line:
    """One weight under training: the loss of a sample is weight * sample."""

    def __init__(self, loss: Callable[[nn.Module, dict[str, Any]], torch.Tensor] | None = None) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.model.weight)
        self.loss = loss or (lambda model, batch: model(batch["x"]).sum())
        self.seen: list[float] = []

    @staticmethod
    def collate(samples: list[float]) -> dict[str, Any]:
        return {"x": torch.tensor(samples)[:, None], "items": [1] * len(samples)}

    def fit(self, steps: int = 4, callbacks: tuple[TrainerCallback, ...] = (), **settings: Any) -> list[float]:
        order = np.arange(steps * 2) % 3
        groups = [ParameterGroup([self.model.weight], 0.1)]
        data = TrainingData([1.0, 2.0, 3.0], self.collate, self.loss, order, tokens=9)
        return fit(self.model, data, groups, TrainingConfig("line", steps, 2, **settings), CPU, callbacks)


class TestKilled:
    @pytest.fixture(scope="class")
    def killed(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of a training whose process was killed after 5 steps, the last of its states that of step 3."""
        out = tmp_path_factory.mktemp("killed")
        options = [f"--set={key}={value}" for key, value in HARD.items()]
        killed = forked.start(small_training.main, [str(out), "--kill-at=5", *options])
        assert forked.ended(killed) == -signal.SIGKILL
        return out

    def test_gone_on_it_ends_with_the_weights_of_an_undisturbed_one(self, killed: Path, tmp_path: Path) -> None:
        state = killed / "state"
        saved = newest_state(state)
        assert saved is not None and saved.name == "checkpoint-3"
        (state / "checkpoint-4").mkdir()  # as if it had been killed while it saved
        (state / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
        of = small_training.recipe(**HARD)
        (undisturbed, expected), (resumed, losses) = (
            small_training.train(folder, of, []) for folder in (tmp_path, killed)
        )
        assert losses == expected and len(set(losses)) == 8
        ours, theirs = weights(resumed), weights(undisturbed)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert [p.name for p in state.iterdir()] == ["checkpoint-8"]

    def test_gone_on_its_curves_are_whole(self, killed: Path, tmp_path: Path) -> None:
        saved = newest_state(killed / "state")
        assert saved is not None
        found = load_file(saved / LOSSES)
        assert found.keys() == {"losses", "norms"} and all(bool((curve > 0).all()) for curve in found.values())

    def test_a_state_holds_what_is_trained_and_nothing_else(self, killed: Path) -> None:
        saved = newest_state(killed / "state")
        assert saved is not None
        names = load_file(saved / "model.safetensors")
        assert names and all("lora_" in name or "multi_modal_projector" in name for name in names)
        assert (saved / LOSSES).exists()

    def test_another_recipe_does_not_go_on_there(self, tmp_path: Path) -> None:
        claim_states(tmp_path, small_training.recipe())
        claim_states(tmp_path, small_training.recipe())
        other = r"holds the state of another recipe that was interrupted \(tune.rank is 2 there and 3 here\)"
        with pytest.raises(VrbenchError, match=other):
            claim_states(tmp_path, small_training.recipe(rank=3))


class TestSplit:
    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[float]]:
        model, losses = small_training.train(
            tmp_path_factory.mktemp("whole"), small_training.recipe(dropout=0, save_every=0), []
        )
        return weights(model), losses

    def test_parts_change_nothing(self, whole: Any, tmp_path: Path) -> None:
        model, losses = small_training.train(tmp_path, small_training.recipe(dropout=0, save_every=0, accumulate=4), [])
        self.same(whole, weights(model), losses)

    def test_nor_do_two_processes_of_which_one_writes(self, whole: Any, tmp_path: Path) -> None:
        """What `accelerate launch` starts on a CPU (gloo), with a state that both take part in."""
        self.run_two(tmp_path, {})
        self.same(whole, *self.written(tmp_path))
        saved = newest_state(tmp_path / "state")
        assert saved is not None and (saved / "rng_state_1.pth").exists()

    def test_nor_do_weights_that_are_spread_over_two(self, whole: Any, tmp_path: Path) -> None:
        """FSDP2 by accelerate's own configuration; only what is trained is put together and saved."""
        self.run_two(tmp_path, SHARDING)
        weights, losses = self.written(tmp_path)
        assert weights and all("lora_" in name or "multi_modal_projector" in name for name in weights)
        self.same(whole, weights, losses)

    def test_nor_if_one_of_them_has_no_image(self, tmp_path: Path) -> None:
        """FSDP2 has to gather and to reduce the same in both."""
        self.run_two(tmp_path, SHARDING, "steps=3", mixed=True)
        model, losses = small_training.train_mixed(small_training.recipe(dropout=0, save_every=0, steps=3))
        found, theirs = self.written(tmp_path)
        ours = weights(model)
        assert losses == pytest.approx(theirs, rel=1e-5) and any("projector" in name for name in found)
        assert all((found[name] - ours[name]).norm() < 1e-3 * ours[name].norm() for name in found)

    @staticmethod
    def run_two(out: Path, environment: dict[str, str], *changes: str, mixed: bool = False) -> None:
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()),
                  "CUDA_VISIBLE_DEVICES": "", **environment}  # fmt: skip
        words = [str(out), "--set=dropout=0", *(f"--set={change}" for change in changes), *["--mixed"] * mixed]
        ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        running = [forked.start(small_training.main, words, environment=rank) for rank in ranks]
        assert [forked.ended(process) for process in running] == [0, 0]

    @staticmethod
    def written(out: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
        return load_file(out / "weights.safetensors"), load_file(out / "losses.safetensors")["losses"].tolist()

    @staticmethod
    def same(whole: Any, ours: dict[str, torch.Tensor], losses: list[float]) -> None:
        assert losses == pytest.approx(whole[1], rel=1e-5)
        for name, tensor in ours.items():
            assert torch.allclose(tensor, whole[0][name], atol=2e-5), name

    def test_layers_in_turns_are_refused_where_weights_are_sharded(self) -> None:
        """FSDP2's weights are other objects than those whose `requires_grad` changes: all layers would be trained."""
        sharded: Any = SimpleNamespace(model=SimpleNamespace(is_sharded=True))
        with pytest.raises(VrbenchError, match=r"tune\.sampling has no effect with FSDP"):
            _validate_sharding(sharded, TrainingConfig("tune", 1, 1, samples_layers=True))

    def test_a_batch_that_cannot_be_split_is_refused(self) -> None:
        with pytest.raises(VrbenchError, match="batch of 2 cannot be split evenly over 1 devices times 3 parts"):
            Line().fit(accumulate=3)


def test_a_part_that_reaches_nothing_trained_changes_nothing() -> None:
    """As texts alone do where the projector alone is trained."""
    line = Line(lambda model, batch: batch["x"].sum())
    assert line.fit() == [1.5, 2.0, 2.5, 1.5] and line.model.weight.item() == 1.0
    assert all(p.grad is None or not p.grad.any() for p in line.model.parameters())


class TestStopped:
    def test_a_loss_that_is_not_finite_keeps_the_state_before_it(self, tmp_path: Path) -> None:
        for bad in (math.nan, math.inf):
            steps: list[int] = []

            def loss(model: nn.Module, batch: dict[str, Any], bad: float = bad, steps: list[int] = steps) -> Any:
                steps.append(1)
                return model(batch["x"]).sum() * (bad if len(steps) == 5 else 1.0)

            state = tmp_path / str(bad)
            with pytest.raises(
                VrbenchError,
                match=rf"line: the loss is {bad} at step 5; lower the learning rate; .* kept in .*checkpoint-4",
            ):
                Line(loss).fit(steps=8, save_every=2, state=state)
            kept = newest_state(state)
            assert kept is not None
            assert torch.isfinite(load_file(kept / "model.safetensors")["model.weight"]).all()

    def test_weights_that_are_not_finite_are_not_saved(self, tmp_path: Path) -> None:
        class Spoil(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if state.global_step == 4:
                    next(model.parameters()).data.fill_(math.nan)

        with pytest.raises(VrbenchError, match="weights are not finite after step 4"):
            Line().fit(steps=6, callbacks=(Spoil(),), save_every=2, state=tmp_path)
        kept = newest_state(tmp_path)
        assert kept is not None and kept.name == "checkpoint-2"

    @pytest.mark.parametrize(
        "error",
        [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(),
         RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried")],
    )  # fmt: skip
    def test_memory_that_ran_out_says_what_to_lower(self, error: Exception) -> None:
        def loss(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
            raise error

        words = r"memory ran out with 2 samples a step, computed in 1 part\(s\), rows of up to 9 tokens; raise accumul"
        with pytest.raises(VrbenchError, match=words):
            Line(loss).fit()

    def test_other_errors_stay_what_they_are(self) -> None:
        def loss(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
            raise RuntimeError("shapes differ")

        with pytest.raises(RuntimeError, match="shapes differ"):
            Line(loss).fit()


class TestRates:
    def test_it_rises_then_follows_the_schedule(self) -> None:
        rates = {
            schedule: [TrainingConfig("r", 20, 1, schedule=schedule, warmup=0.25).rate(step) for step in range(21)]
            for schedule in ("cosine", "linear", "constant")
        }
        for found in rates.values():
            assert found[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
        assert rates["constant"][5:] == [1.0] * 16
        assert rates["linear"][5:] == pytest.approx([1 - k / 15 for k in range(16)])
        assert rates["cosine"][5:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 15)) for k in range(16)])

    @pytest.mark.parametrize(("steps", "warmup"), [(20, 0.25), (45, 0.03), (10, 0.0)])
    def test_from_zero_they_are_those_of_transformers(self, steps: int, warmup: float) -> None:
        for schedule, name in (("cosine", "cosine"), ("linear", "linear"), ("constant", "constant_with_warmup")):
            optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
            rising = TrainingArguments(warmup_steps=warmup).get_warmup_steps(steps)
            scheduler = get_scheduler(name, optimizer, rising, steps)
            ours = TrainingConfig("r", steps, 1, schedule=schedule, warmup=warmup, warmup_from_zero=True)
            for step in range(steps):
                assert ours.rate(step) == pytest.approx(scheduler.get_last_lr()[0])
                optimizer.step()
                scheduler.step()
            assert (ours.rate(0) == 0) == (warmup > 0)

    def test_the_optimizer_follows_them(self) -> None:
        """AdamW with one constant gradient moves the weight by the rate in every step."""
        places: list[float] = []

        class Note(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                places.append(next(model.parameters()).item())

        line = Line(lambda model, batch: model(torch.ones(2, 1)).sum())
        losses = line.fit(steps=10, callbacks=(Note(),), schedule="linear", warmup=0.2)
        moves = -np.diff([1.0, *places])
        rate = TrainingConfig("r", 10, 2, schedule="linear", warmup=0.2).rate
        assert moves == pytest.approx([0.1 * rate(step) for step in range(10)], rel=1e-3)
        assert losses == pytest.approx([1.0, *places[:-1]])

    def test_the_gradient_is_clipped(self) -> None:
        norms: list[float] = []

        class Note(TrainerCallback):
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                norms.append(float(next(model.parameters()).grad.norm()))

        Line(lambda model, batch: 100 * model(batch["x"]).sum()).fit(callbacks=(Note(),), clip=0.5)
        assert norms == pytest.approx([0.5] * 4)


def test_every_part_learns_in_training_mode_and_is_left_in_evaluation_mode() -> None:
    """Whatever mode it came in, such as PEFT's wrapper around a model that was evaluated."""
    modes: list[tuple[bool, bool]] = []
    line = Line(lambda model, batch: modes.append((model.training, model[0].training)) or model(batch["x"]).sum())
    line.model = nn.Sequential(line.model.eval())  # type: ignore[assignment]
    line.model.weight = line.model[0].weight  # type: ignore[index]
    line.fit()
    assert modes == [(True, True)] * 4
    assert not line.model.training and not line.model[0].training  # type: ignore[index]


def test_passes_take_each_sample_once_before_any_twice() -> None:
    found = shuffled_passes(25, 10, (3, 1))
    assert len(found) == 25
    assert sorted(found[:10]) == sorted(found[10:20]) == list(range(10))
    assert list(found[:10]) != list(found[10:20])
    assert np.array_equal(found, shuffled_passes(25, 10, (3, 1)))
    assert not np.array_equal(found, shuffled_passes(25, 10, (4, 1)))


def port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_speed_is_that_of_the_tokens_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.0, 14.0, 14.0])
    monkeypatch.setattr("vrbench.training.monitor.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    speed = Throughput(lambda rows, tokens, labelled: 100.0 * rows + 10 * tokens + labelled, peak=163.2, since=0.0)
    for _ in range(2):
        speed.add({"items": [3, 5], "tokens": 20})
    assert speed.read(2) == {"tokens_per_second": 2 * 4.0, "mfu": pytest.approx(0.5)}
    speed.add({"items": [1]})
    assert speed.read(1) == {}  # a stage without tokens


def test_trackers_get_loss_rate_and_norm_at_each_check(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, dict[str, float]]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append((state.global_step, logs))

    monkeypatch.setattr("vrbench.training.monitor.CHECK_EVERY", 2)
    losses = Line().fit(steps=4, callbacks=(Tracker(),), schedule="constant", warmup=0.0)
    (first, at_two), (second, at_four), *_ = seen
    assert (first, second) == (2, 4) and at_two["learning_rate"] == 0.1
    assert at_two["loss"] == pytest.approx(sum(losses[:2]) / 2) and at_four["loss"] == pytest.approx(
        sum(losses[2:]) / 2
    )
    assert at_four["grad_norm"] == 1.5  # the mean of the last two samples, before it is clipped to 1


def test_scores_behind_the_state_that_is_resumed_are_made_anew(tmp_path: Path) -> None:
    reporting = Reporting(tmp_path)
    for step in (1, 2, 3):
        reporting.add_scores("line", step, {"old": 1.0})
    reporting.forget_scores("line", 2)
    table = tmp_path / "line-scores.csv"
    assert table.read_text().splitlines()[1:] == ["1,old,1", "2,old,1"]
    Line().fit(steps=2, scores=lambda: {"new": 2.0}, score_every=1, reporting=reporting)
    assert table.read_text().splitlines()[1:] == ["1,new,2", "2,new,2"]
