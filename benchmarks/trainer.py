"""Compare the speed of transformers' Trainer with a plain loop of the same steps.

    python -m benchmarks.trainer --device cpu                      # a small model, pocket rows
    python -m benchmarks.trainer --device cuda --recipe pocket-region

Both train the same model on the same rows in the same order with the same learning rates, AdamW and clipping; the plain
loop is only forward, backward, clip and step. Each is timed in turn over several rounds of steps after a warm-up round
(on a CPU in processor time); the losses must be equal. Writes benchmarks/results/trainer.md, one section per device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.report_header import command, versions
from vrbench.cli.options import read_overrides
from vrbench.core.io import write_atomically
from vrbench.models.load import load_llava
from vrbench.training.prepare import TrainingSetup, prepare
from vrbench.training.recipe import TrainRecipe
from vrbench.training.recipe_files import load
from vrbench.training.trainable import add_lora, parameter_groups, unfreeze
from vrbench.training.trainer import BETA1, TrainingConfig, TrainingData, fit

RESULTS = Path(__file__).parent / "results" / "trainer.md"
ENOUGH = 1.10
"""The Trainer may take so many times the plain loop's time."""


def plain(
    model: nn.Module, data: TrainingData, groups: list[Any], config: TrainingConfig, device: torch.device
) -> list[float]:
    """Run the steps with nothing around them; returns the losses."""
    parameters = [p for group in groups for p in group.parameters]
    optimizer = torch.optim.AdamW(
        [{"params": list(g.parameters), "lr": g.lr, "weight_decay": g.weight_decay} for g in groups],
        betas=(BETA1, config.beta2), fused=device.type == "cuda",
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.rate)
    losses: list[torch.Tensor] = []
    model.train()
    for numbers in data.order.reshape(config.steps, config.batch):
        batch = data.collate([data.samples[int(number)] for number in numbers])
        batch = {
            name: value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and torch.is_tensor(value)
            else value for name, value in batch.items()
        }  # fmt: skip
        loss = data.loss(model, batch) / sum(batch["items"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.detach())
    model.eval()
    return torch.stack(losses).tolist()


def by_trainer(
    model: nn.Module, data: TrainingData, groups: list[Any], config: TrainingConfig, device: torch.device
) -> list[float]:
    """Run the same by the Trainer."""
    return fit(model, data, groups, config, device)


SMALL = {"tune.steps": "10", "tune.batch": "1", "data.scenes": "60", "data.turns": "2", "data.easy_vqa": "0",
         "data.dev": "10", "dtype": "float32"}  # fmt: skip
"""Changes to the recipe on a CPU: short steps, in which what the Trainer adds would show."""

WAYS: dict[str, Callable[..., Any]] = {"plain loop": plain, "Trainer": by_trainer}


def prepared(
    recipe: TrainRecipe, setup: TrainingSetup, device: torch.device
) -> tuple[Any, TrainingData, TrainingConfig, list[Any]]:
    """Return the model with its rows on the device, compiled on a GPU, and what is trained of it."""
    from vrbench.training.pocket_data import tuning_data

    assert recipe.tune is not None and recipe.tune.steps is not None
    vlm = load_llava(setup.base, device, "float32")
    torch.manual_seed(recipe.seed)
    model = add_lora(vlm.model, setup.layers, recipe.tune) if recipe.tune.tuning == "lora" else vlm.model
    data = tuning_data(recipe, vlm, model, device)
    groups = parameter_groups(model, setup.layers, recipe.tune)
    unfreeze(model, groups, getattr(torch, recipe.dtype))
    config = TrainingConfig(
        "steps", recipe.tune.steps, recipe.tune.batch, warmup=recipe.warmup, clip=recipe.clip, dtype=recipe.dtype
    )
    return model, data, config, groups


def measure(recipe: TrainRecipe, device: torch.device, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds a step of each way in each round, and the largest difference of their losses."""
    setup = prepare(recipe, Path("nowhere"))
    assert setup is not None
    clock = time.perf_counter if device.type == "cuda" else time.process_time  # others' work does not count
    model, data, config, groups = prepared(recipe, setup, device)
    before = [p.detach().clone() for group in groups for p in group.parameters]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    losses: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for way in sorted(WAYS, reverse=number % 2 == 1):
            for parameter, value in zip((p for g in groups for p in g.parameters), before, strict=True):
                parameter.data.copy_(value)
            _wait(device)
            began = clock()
            losses[way] = WAYS[way](model, data, groups, config, device)
            _wait(device)
            if number:
                seconds[way].append((clock() - began) / config.steps)
    differ = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    return seconds, differ


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def report(name: str, recipe: TrainRecipe, seconds: dict[str, list[float]], differ: float) -> str:
    """Markdown: how long a step takes each way, and their ratio."""
    assert recipe.tune is not None
    best = {way: min(values) for way, values in seconds.items()}
    ratio = best["Trainer"] / best["plain loop"]
    lines = [
        f"## {name}",
        "",
        f"Recipe {recipe.name}, layers {recipe.tune.layers}, {recipe.tune.batch} pictures a step, "
        f"{recipe.tune.steps} steps a round, {recipe.dtype}.",
        "",
        "| | ms a step, best round | median | rounds |",
        "|---|---|---|---|",
    ]
    for way, values in seconds.items():
        listed = ", ".join(f"{1000 * v:.1f}" for v in values)
        lines.append(f"| {way} | {1000 * best[way]:.1f} | {1000 * statistics.median(values):.1f} | {listed} |")
    extra = 1000 * (best["Trainer"] - best["plain loop"])
    lines += [
        "",
        f"The Trainer takes **{ratio:.3f}** times the plain loop's time ({extra:+.2f} ms a step, its own start and end "
        f"spread over the steps); {'within' if ratio <= ENOUGH else 'NOT within'} the {ENOUGH:g} that is allowed. "
        f"The losses of the two differ by {differ:.1e} at most.",
        "",
        f"`{command()}`; {versions()}",
        "",
    ]
    return "\n".join(lines)


def store(section: str, name: str) -> None:
    """Put a device's section into the report, beside those of other devices."""
    heading = (
        "# The Trainer against a plain loop of the same steps\n\nMade by `python benchmarks/trainer.py`: the same "
        "model, rows, order, rates and clipping; in turns, on one machine, in one run; on a CPU in processor time.\n\n"
    )
    others: list[str] = []
    if RESULTS.is_file():
        parts = RESULTS.read_text(encoding="utf-8").split("\n## ")[1:]
        others = [f"## {part.strip()}\n" for part in parts if not part.startswith(f"{name}\n")]
    write_atomically(RESULTS, heading + "\n".join(sorted([*others, section])))


def main() -> None:
    """Measure one device and write its section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--recipe", default="pocket-region")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="KEY=VALUE for the recipe")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    small = SMALL if given.device == "cpu" else {"tune.steps": "200"}
    recipe = load(given.recipe, {**small, **read_overrides(given.changes)})
    device = torch.device(given.device)
    seconds, differ = measure(recipe, device, given.rounds)
    name = torch.cuda.get_device_name() if given.device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    section = report(name, recipe, seconds, differ)
    store(section, name)
    print(section)


if __name__ == "__main__":
    main()
