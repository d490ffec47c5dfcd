"""Monitoring of a training: losses, their finiteness, the progress bar, and completion of saved states."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import TrainerCallback

from vrbench.core.errors import VrbenchError
from vrbench.training.checkpoint_folder import LOSSES, finish_state, newest_state

CHECK_EVERY = 25
"""Steps between two checks of the loss; each check synchronizes with the GPU."""


class TrainingMonitor(TrainerCallback):
    """Keeps every step's loss on the device, and stops a training whose loss is not finite before it is saved."""

    def __init__(self, label: str, steps: int, arguments: Any, resumed: Path | None) -> None:
        self.label, self.steps = label, steps
        self.folder = Path(arguments.output_dir)
        self.accelerator: Any = None  # the Trainer's, set once there is one
        self.losses = torch.zeros(steps, device=arguments.device)
        self.checked = 0  # steps whose losses were checked
        self.bar: Any = None
        if resumed:
            self._restore(resumed)

    def _restore(self, state: Path) -> None:
        from safetensors.torch import load_file

        done = load_file(state / LOSSES)["losses"]
        self.losses[: len(done)] = done.to(self.losses.device)
        self.checked = len(done)

    def add(self, step: int, loss: Tensor) -> None:
        """Add the loss of a part to its step's."""
        self.losses[step] += loss

    def _means(self) -> Tensor:
        """Return the losses over all devices; every device has to call it."""
        return self.losses if self.accelerator.num_processes == 1 else self.accelerator.reduce(self.losses, "mean")

    def all_losses(self) -> list[float]:
        return [float(value) for value in self._means().tolist()]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=self.steps, initial=state.global_step, desc=self.label, unit="step", mininterval=2.0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        done = state.global_step
        if self.bar is not None:
            self.bar.update()
        saving = control.should_save or done == self.steps
        if saving or done % CHECK_EVERY == 0:
            self._check_losses(done)
        if saving and not _all_finite(model):
            raise VrbenchError(f"{self.label}: weights are not finite after step {done}; {self._advice()}")

    def _check_losses(self, done: int) -> None:
        recent = self._means()[self.checked : done].tolist()
        for step, loss in enumerate(recent, self.checked + 1):
            if not math.isfinite(loss):
                raise VrbenchError(f"{self.label}: the loss is {loss} at step {step}; {self._advice()}")
        self.checked = done
        if self.bar is not None and recent:
            self.bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}")

    def _advice(self) -> str:
        return f"lower the learning rate{self.newest_state_note()}"

    def newest_state_note(self) -> str:
        """Return the end of an error message that names the newest saved state; empty when there is none."""
        newest = newest_state(self.folder)
        return f"; the state before it is kept in {newest}" if newest else ""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        losses = self._means()[: state.global_step].cpu()
        self.accelerator.wait_for_everyone()  # until each device has written its part
        if state.is_world_process_zero:
            finish_state(self.folder, state.global_step, losses)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _all_finite(model: Any) -> bool:
    finite = [torch.isfinite(p.detach()).all() for p in model.parameters() if p.requires_grad]
    return all(torch.stack([f.full_tensor() if hasattr(f, "full_tensor") else f for f in finite]).tolist())
