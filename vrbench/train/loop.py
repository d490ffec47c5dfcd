"""The optimizer loop that all stages share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vrbench.errors import VrbenchError

BETAS = (0.9, 0.98)


def optimize(
    groups: list[dict[str, Any]],
    loss_of_step: Callable[[int], Tensor],
    *,
    steps: int,
    warmup: float,
    clip: float,
    label: str,
) -> list[float]:
    """AdamW with a linear warm-up and a cosine to zero; returns the loss of every step.

    Args:
        groups: parameter groups of AdamW with their peak learning rates.
        loss_of_step: computes the loss of a step's batch (a scalar tensor).
        steps: how many.
        warmup: share of the steps during which the rate rises.
        clip: largest gradient norm.
        label: name on the progress bar.

    Raises:
        VrbenchError: the loss is not finite.
    """
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=parameters[0].is_cuda)
    rising = max(1, round(steps * warmup))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, rising, steps))
    losses: list[Tensor] = []
    with tqdm(range(steps), desc=label, unit="step", mininterval=2.0) as bar:
        for step in bar:
            loss = loss_of_step(step)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(loss.detach())
            if step % 25 == 24 or step == steps - 1:
                recent = float(torch.stack(losses[-25:]).mean())
                if not math.isfinite(recent):
                    raise VrbenchError(f"{label}: the loss is {recent} at step {step}; lower the learning rate")
                bar.set_postfix(loss=f"{recent:.4f}")
    return torch.stack(losses).tolist()


def _rate(step: int, rising: int, steps: int) -> float:
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
