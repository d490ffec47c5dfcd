"""What is looked at while a model trains: the losses, whether they are finite, the bar, and states that are whole."""

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

LOOK_EVERY = 25
"""Steps between two looks at the loss; each look waits for the card once."""


class Watch(TrainerCallback):
    """Keeps every step's loss on the device, and stops a training whose loss is not finite before it is saved."""

    def __init__(self, label: str, steps: int, save_every: int, arguments: Any, resumed: Path | None) -> None:
        self.label, self.steps, self.save_every = label, steps, save_every
        self.folder = Path(arguments.output_dir)
        self.accelerator: Any = None  # the Trainer's, once there is one
        self.losses = torch.zeros(steps, device=arguments.device)
        self.seen = 0  # steps whose losses were looked at
        self.bar: Any = None
        if resumed:
            self._read(resumed)

    def _read(self, resumed: Path) -> None:
        from safetensors.torch import load_file

        done = load_file(resumed / LOSSES)["losses"]
        self.losses[: len(done)] = done.to(self.losses.device)
        self.seen = len(done)

    def add(self, step: int, loss: Tensor) -> None:
        """Add a part's loss to its step's."""
        self.losses[step] += loss

    def _means(self) -> Tensor:
        """The losses over all devices; every device has to call it."""
        return self.losses if self.accelerator.num_processes == 1 else self.accelerator.reduce(self.losses, "mean")

    def all_losses(self) -> list[float]:
        """The loss of every step."""
        return [float(value) for value in self._means().tolist()]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=self.steps, initial=state.global_step, desc=self.label, unit="step", mininterval=2.0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        done = state.global_step
        if self.bar is not None:
            self.bar.update()
        saving = control.should_save or done == self.steps
        if saving or done % LOOK_EVERY == 0:
            self._look(done)
        if saving and not _all_finite(model):
            raise VrbenchError(f"{self.label}: weights are not finite after step {done}; {self._advice()}")

    def _look(self, done: int) -> None:
        recent = self._means()[self.seen : done].tolist()
        for step, loss in enumerate(recent, self.seen + 1):
            if not math.isfinite(loss):
                raise VrbenchError(f"{self.label}: the loss is {loss} at step {step}; {self._advice()}")
        self.seen = done
        if self.bar is not None and recent:
            self.bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}")

    def _advice(self) -> str:
        return f"lower the learning rate{self.kept()}"

    def kept(self) -> str:
        """What a message says of the newest saved state; nothing when there is none."""
        last = newest_state(self.folder)
        return f"; the state before it is kept in {last}" if last else ""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        losses = self._means()[: state.global_step].cpu()
        self.accelerator.wait_for_everyone()  # until each device has written its part
        if state.is_world_process_zero:
            finish_state(self.folder, state.global_step, losses)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()


def _all_finite(model: Any) -> bool:
    finite = [torch.isfinite(p.detach()).all() for p in model.parameters() if p.requires_grad]
    return all(torch.stack([f.full_tensor() if hasattr(f, "full_tensor") else f for f in finite]).tolist())
