"""Is transformers' Trainer slower than a plain loop of the same steps? Both on this machine, in turns, in one run.

    python benchmarks/trainer.py --device cpu                      # a small model, pocket rows
    python benchmarks/trainer.py --device cuda --recipe pocket-region

Both train the same model on the same rows in the same order with the same rates, AdamW and clipping; the plain loop is
forward, backward, clip, step and nothing else. Each is timed over several rounds of steps after a round that is not
counted, on a CPU in processor time; the losses of the two have to be the same. Writes benchmarks/results/trainer.md, a
section for each device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from made import command, versions
from torch import nn

from vrbench.cli.config_file import read_overrides
from vrbench.core.io import write_atomically
from vrbench.models.load import load_llava
from vrbench.training.pocket_data import Lessons
from vrbench.training.recipe import TrainRecipe
from vrbench.training.recipe_files import load
from vrbench.training.run import Start, start_of
from vrbench.training.trainable import groups_of, thaw, with_lora
from vrbench.training.trainer import BETA1, Course, fit, rate_of

RESULTS = Path(__file__).parent / "results" / "trainer.md"
ENOUGH = 1.10
"""The Trainer may take so many times the plain loop's time."""


def plain(model: nn.Module, lessons: Lessons, groups: list[Any], course: Course, device: torch.device) -> list[float]:
    """The steps with nothing around them; returns the losses."""
    parameters = [p for group in groups for p in group.parameters]
    optimizer = torch.optim.AdamW(
        [{"params": list(g.parameters), "lr": g.lr, "weight_decay": g.weight_decay} for g in groups],
        betas=(BETA1, course.beta2), fused=device.type == "cuda",
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_of(course))
    losses: list[torch.Tensor] = []
    model.train()
    for numbers in lessons.order.reshape(course.steps, course.batch):
        batch = lessons.collate([lessons.samples[int(number)] for number in numbers])
        batch = {
            name: value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and torch.is_tensor(value)
            else value for name, value in batch.items()
        }  # fmt: skip
        loss = lessons.loss(model, batch) / batch["items"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, course.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.detach())
    model.eval()
    return torch.stack(losses).tolist()


def by_trainer(model: nn.Module, lessons: Lessons, groups: list[Any], course: Course, device: torch.device) -> Any:
    """The same by the Trainer."""
    return fit(model, lessons.loss, lessons.samples, lessons.collate, groups, course, lessons.order, device)


SMALL = {"tune.steps": "10", "tune.batch": "1", "data.scenes": "60", "data.turns": "2", "data.easy_vqa": "0",
         "data.dev": "10", "dtype": "float32"}  # fmt: skip
"""Changes to the recipe on a CPU: short steps, in which what the Trainer adds would show."""

WAYS: dict[str, Callable[..., Any]] = {"plain loop": plain, "Trainer": by_trainer}


def prepared(recipe: TrainRecipe, start: Start, device: torch.device) -> tuple[Any, Lessons, Course, list[Any]]:
    """The model with its rows on the device, compiled on a card, and what is trained of it."""
    from vrbench.training.stages import pocket_lessons_of

    assert recipe.tune is not None and recipe.tune.steps is not None
    vlm = load_llava(start.base, device, "float32")
    torch.manual_seed(recipe.seed)
    model = with_lora(vlm.model, start.layers, recipe.tune) if recipe.tune.tuning == "lora" else vlm.model
    lessons = pocket_lessons_of(recipe, vlm, model, device)
    groups = groups_of(model, start.layers, recipe.tune)
    thaw(model, groups, getattr(torch, recipe.dtype))
    course = Course(
        "steps", recipe.tune.steps, recipe.tune.batch, warmup=recipe.warmup, clip=recipe.clip, dtype=recipe.dtype
    )
    return model, lessons, course, groups


def measure(recipe: TrainRecipe, device: torch.device, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds a step of each way in each round, and the largest difference of their losses."""
    start = start_of(recipe, Path("nowhere"))
    assert start is not None
    clock = time.perf_counter if device.type == "cuda" else time.process_time  # others' work does not count
    model, lessons, course, groups = prepared(recipe, start, device)
    before = [p.detach().clone() for group in groups for p in group.parameters]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    losses: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for way in sorted(WAYS, reverse=number % 2 == 1):
            for parameter, value in zip((p for g in groups for p in g.parameters), before, strict=True):
                parameter.data.copy_(value)
            _wait(device)
            began = clock()
            losses[way] = WAYS[way](model, lessons, groups, course, device)
            _wait(device)
            if number:
                seconds[way].append((clock() - began) / course.steps)
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
