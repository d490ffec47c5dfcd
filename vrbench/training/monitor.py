"""Monitoring of a training: losses, their finiteness, speed, the progress bar, and completion of saved states."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import TrainerCallback

from vrbench.core.errors import VrbenchError
from vrbench.training.checkpoint_folder import LOSSES, finish_state, newest_state
from vrbench.training.curves import Reporting

CHECK_EVERY = 25
"""Steps between two checks of the loss; each check synchronizes with the GPU."""

BatchFlops = Callable[[int, int, int], float]
"""(rows, their tokens, labelled ones) -> FLOPs that a step on them needs."""


@dataclass
class Throughput:
    """Tokens per second, and MFU, between two readings.

    Attributes:
        flops: of this process's batches; none where it is not known.
        peak: FLOP/s of the GPU, see `gpu_peaks`; none where it is not known.
    """

    flops: BatchFlops | None = None
    peak: float | None = None
    rows: int = 0
    tokens: int = 0
    labelled: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, batch: dict[str, Any]) -> None:
        """Count a batch, whose rows have "items" labelled tokens each and "tokens" in total, if it says so."""
        self.rows += len(batch.get("items", ()))
        self.labelled += sum(batch.get("items", ()))
        self.tokens += int(batch.get("tokens", 0))

    def read(self, processes: int) -> dict[str, float]:
        """Return tokens per second of all processes, and MFU, since the last reading, as far as they are known."""
        seconds, rates = time.perf_counter() - self.since, {}
        if self.tokens:
            rates["tokens_per_second"] = processes * self.tokens / seconds
            if self.flops and self.peak:
                rates["mfu"] = self.flops(self.rows, self.tokens, self.labelled) / seconds / self.peak
        self.rows = self.tokens = self.labelled = 0
        self.since = time.perf_counter()
        return rates


class TrainingMonitor(TrainerCallback):
    """Keeps every step's loss on the device, and stops a training whose loss is not finite before it is saved."""

    def __init__(
        self, label: str, steps: int, arguments: Any, rate: Callable[[int], float], throughput: Throughput,
        reporting: Reporting, resumed: Path | None, scores: Callable[[], dict[str, float]] | None = None,
        score_every: int = 0,
    ) -> None:  # fmt: skip
        """Start at the first step, or where a saved state is.

        Args:
            label: of the stage.
            steps: of the whole training.
            arguments: the Trainer's.
            rate: step, counted from 0 -> learning rate.
            throughput: counts the batches.
            reporting: where the curves go.
            resumed: folder of the state that is resumed.
            scores: evaluates the model: task -> score.
            score_every: steps between two evaluations.
        """
        self.label, self.steps, self.rate = label, steps, rate
        self.throughput, self.reporting = throughput, reporting
        self.folder = Path(arguments.output_dir)
        self.trainer: Any = None  # set once there is one
        self.losses, self.norms = (torch.zeros(steps, device=arguments.device) for _ in range(2))
        self.checked = 0  # steps whose losses were checked
        self.bar: Any = None
        self.scores, self.score_every = scores, score_every
        if resumed:
            self._restore(resumed)

    def _restore(self, state: Path) -> None:
        from safetensors.torch import load_file

        for name, values in load_file(state / LOSSES).items():
            getattr(self, name)[: len(values)] = values.to(self.losses.device)
            self.checked = len(values)

    def add(self, step: int, loss: Tensor, batch: dict[str, Any]) -> None:
        """Add the loss of a part to its step's."""
        self.losses[step] += loss
        self.throughput.add(batch)

    def add_norm(self, step: int, norm: Any) -> None:
        """Keep the gradient norm of a step, before it is clipped."""
        self.norms[step] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _means(self) -> Tensor:
        """Return the losses over all devices; every device has to call it."""
        accelerator = self.trainer.accelerator
        return self.losses if accelerator.num_processes == 1 else accelerator.reduce(self.losses, "mean")

    def all_losses(self) -> list[float]:
        return [float(value) for value in self._means().tolist()]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=self.steps, initial=state.global_step, desc=self.label, unit="step", mininterval=2.0)
            if self.scores:
                self.reporting.forget_scores(self.label, state.global_step)
        self.throughput.read(1)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        done = state.global_step
        if self.bar is not None:
            self.bar.update()
        saving = control.should_save or done == self.steps
        if saving or done % CHECK_EVERY == 0:
            self._check(done)
        if saving and not _all_finite(model):
            raise VrbenchError(f"{self.label}: weights are not finite after step {done}; {self._advice()}")
        if self.scores and (done % self.score_every == 0 or done == self.steps):
            self._evaluate(self.scores, done, state.is_world_process_zero)

    def _evaluate(self, scores: Callable[[], dict[str, float]], done: int, is_first: bool) -> None:
        """Evaluate the model in the first process, while the others wait."""
        if is_first:
            found = scores()
            self.reporting.add_scores(self.label, done, found)
            tqdm.write(
                f"{self.label} step {done}: " + ", ".join(f"{task} {score:.2f}" for task, score in found.items())
            )
            self.trainer.log({f"eval_{task}": score for task, score in found.items()})
        self.trainer.accelerator.wait_for_everyone()
        self.throughput.read(1)

    def _check(self, done: int) -> None:
        """Check the losses since the last check, and report them with the speed."""
        recent = self._means()[self.checked : done].tolist()
        for step, loss in enumerate(recent, self.checked + 1):
            if not math.isfinite(loss):
                raise VrbenchError(f"{self.label}: the loss is {loss} at step {step}; {self._advice()}")
        self.checked = done
        if not recent:
            return
        rates = self.throughput.read(self.trainer.accelerator.num_processes)
        loss = sum(recent) / len(recent)
        if self.bar is not None:
            shown = {"loss": f"{loss:.4f}"}
            shown |= {"tokens/s": f"{rates['tokens_per_second']:,.0f}"} if "tokens_per_second" in rates else {}
            self.bar.set_postfix(shown | ({"MFU": f"{rates['mfu']:.0%}"} if "mfu" in rates else {}))
        norm = float(self.norms[done - 1])
        self.trainer.log({"loss": loss, "learning_rate": self.rate(done - 1), "grad_norm": norm, **rates})

    def _advice(self) -> str:
        return f"lower the learning rate{self.newest_state_note()}"

    def newest_state_note(self) -> str:
        """Return the end of an error message that names the newest saved state; empty when there is none."""
        newest = newest_state(self.folder)
        return f"; the state before it is kept in {newest}" if newest else ""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        done = state.global_step
        curves = {"losses": self._means()[:done].cpu(), "norms": self.norms[:done].cpu()}
        self.trainer.accelerator.wait_for_everyone()  # until each device has written its part
        if state.is_world_process_zero:
            finish_state(self.folder, done, curves)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        losses = self.all_losses()
        if state.is_world_process_zero:
            rates = [self.rate(step) for step in range(self.steps)]
            self.reporting.write(self.label, {"loss": losses, "rate": rates, "gradient_norm": self.norms.tolist()})

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _all_finite(model: Any) -> bool:
    finite = [torch.isfinite(p.detach()).all() for p in model.parameters() if p.requires_grad]
    return all(torch.stack([f.full_tensor() if hasattr(f, "full_tensor") else f for f in finite]).tolist())
