"""Measure training steps: as 0.2.0 made them, as `vrbench train` does, and a plain loop; and what a region saves.

    python -m benchmarks.trainer --device cuda               # about 8 minutes on an H200
    python -m benchmarks.trainer --device cpu --quick        # the same rows of tiny shapes

Random weights and rows of LLaVA-1.5-7B's shape and of the pocket family's. Each setting (LoRA or whole layers,
checkpointing, all layers or a quarter of them) is measured in these ways on one model, in blocks of steps:

- trainer: `vrbench.training.trainer.fit`, as `vrbench train` runs it, with compiled layers and a bfloat16 LoRA;
- plain: nothing but forward, backward, clip and step, on the same compiled layers;
- 0.2.0: `fit` without compiled layers, with a LoRA that converts its inputs to float32;
- bfloat16: the plain loop without float32 masters (LoRA on all layers alone).

Each row is appended to --rows as soon as it is measured, and rows that are there are not measured again; no setting is
begun after --minutes. Writes a section per device to --out. Intervals are Student's t of the logarithms of the blocks.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from tabulate import tabulate
from torch import Tensor, nn
from transformers import TrainerCallback

from benchmarks.report_header import command, versions
from vrbench.checkpoints.random_shapes import RANDOM_SHAPES
from vrbench.core.device import is_out_of_memory
from vrbench.core.errors import VrbenchError
from vrbench.core.io import write_atomically
from vrbench.training.compiled_layers import compiled_layers
from vrbench.training.profile import ProfileOptions, RandomBatch, batch_loss, planned_rows
from vrbench.training.profile_results import ProfileRow
from vrbench.training.shape_model import ShapeModel
from vrbench.training.trainable import enable_checkpointing
from vrbench.training.trainer import BETA1, ParameterGroup, TrainingConfig, TrainingData, fit

RESULTS = Path(__file__).parent / "results"
WAYS = ("trainer", "plain", "bfloat16", "0.2.0")
GIB = 1 << 30
SEVEN, POCKET, TINY = "llava-1.5-7b", "pocket", "tiny"

POCKET_SHAPE = (
    {
        **RANDOM_SHAPES[SEVEN][0], "num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
    },
    {**RANDOM_SHAPES[SEVEN][1], "hidden_size": 256},
)  # fmt: skip
"""The pocket family's language model, and the width of its images' features."""


@dataclass(frozen=True)
class Blocks:
    """How many steps are timed: the first ones not, then so many blocks of so many steps."""

    warm: int
    blocks: int
    steps: int

    @property
    def total(self) -> int:
        """All steps."""
        return self.warm + self.blocks * self.steps


@dataclass(frozen=True)
class Setting:
    """One model and what is trained of it."""

    shape: str
    tuning: str
    checkpointing: bool
    layers: str
    ways: tuple[str, ...]
    options: ProfileOptions
    blocks: Blocks

    def key(self, way: str) -> str:
        """The name of a row."""
        return f"{self.shape} {self.tuning} {self.layers} {'checkpointing' if self.checkpointing else 'kept'} {way}"


def settings(quick: bool) -> Iterator[Setting]:
    """All settings, the most important ones first."""
    large = ProfileOptions(batch=2, tokens=24, image_tokens=16) if quick else ProfileOptions()
    small = large if quick else ProfileOptions(batch=64, tokens=192, image_tokens=64)
    few, many = (Blocks(2, 3, 2),) * 2 if quick else (Blocks(3, 5, 3), Blocks(20, 5, 40))
    names = (TINY, TINY) if quick else (SEVEN, POCKET)
    regions = ("0,2", "1") if quick else ("sparse-uniform:8", "sparse-uniform:8")
    usual = ("trainer", "plain", "0.2.0")
    for tuning, checkpointing in (("lora", False), ("lora", True), ("weights", True)):
        for layers in ("all", regions[0]):
            ways = WAYS if (tuning, layers) == ("lora", "all") and not checkpointing else usual
            yield Setting(names[0], tuning, checkpointing, layers, ways, large, few)
        if tuning == "lora" and not checkpointing:
            for of_pocket in ("lora", "weights"):
                yield Setting(names[1], of_pocket, False, regions[1], usual, small, many)
    for layers in (regions[0], "all"):  # all do not fit on one GPU
        yield Setting(names[0], "weights", False, layers, usual, large, few)


class Stopwatch(TrainerCallback):
    """Seconds of each block of steps; waits for the GPU at the ends of blocks alone."""

    def __init__(self, blocks: Blocks, device: torch.device) -> None:
        self.blocks, self.device = blocks, device
        self.seconds: list[float] = []
        self.done, self.begun = 0, 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.done += 1
        if self.done < self.blocks.warm or (self.done - self.blocks.warm) % self.blocks.steps:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self.done > self.blocks.warm:
            self.seconds.append((now - self.begun) / self.blocks.steps)
        self.begun = now


class Trainee(nn.Module):
    """The parts of a `ShapeModel` that are trained, as a module."""

    def __init__(self, model: ShapeModel) -> None:
        super().__init__()
        self.llm, self.projector = model.llm, model.projector


def plain(
    model: nn.Module, data: TrainingData, groups: list[ParameterGroup], config: TrainingConfig, watch: Stopwatch
) -> list[float]:
    """Run the steps with nothing around them; returns the losses."""
    parameters = [p for group in groups for p in group.parameters]
    optimizer = torch.optim.AdamW(parameters, lr=groups[0].lr, betas=(BETA1, config.beta2), fused=parameters[0].is_cuda)
    losses: list[Tensor] = []
    model.train()
    for numbers in data.order.reshape(config.steps, config.batch):
        batch = data.collate([data.samples[int(number)] for number in numbers])
        batch["rows"] = batch["rows"].to(watch.device, non_blocking=True)
        loss = data.loss(model, batch) / sum(batch["items"])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        watch.on_step_end()
    return [float(loss) for loss in losses]


def collate(samples: list[int]) -> dict[str, Any]:
    """A batch of nothing but its size: the rows are on the device."""
    return {"rows": torch.tensor(samples), "items": [1] * len(samples)}


class Measured:
    """One setting's model, on which the ways are measured one after the other."""

    def __init__(self, setting: Setting, device: torch.device) -> None:
        self.setting, self.device = setting, device
        torch.manual_seed(0)
        self.model = ShapeModel(setting.shape, device)
        options = replace(
            setting.options, tunings=(setting.tuning,), checkpointing=(setting.checkpointing,),
            layers=(setting.layers,), masters="float32", removed=(),
        )  # fmt: skip
        self.row: ProfileRow = planned_rows([setting.shape], options)[0].model_copy(update={"compiled": True})
        self.trained = self.model.tune(self.row)
        self.batch = RandomBatch(self.model, self.row)

    def measure(self, way: str) -> dict[str, Any]:
        """Seconds a step in each block, the memory, the losses, and what the call took beside the steps."""
        _free(self.device)
        row, watch = self.row, Stopwatch(self.setting.blocks, self.device)
        if way == "0.2.0":
            self._as_it_was()
        if way == "bfloat16":
            row = row.model_copy(update={"masters": "bfloat16"})
        for parameter in self.trained:
            parameter.data = parameter.data.to(getattr(torch, row.masters))
        is_compiled = way != "0.2.0"
        began = time.perf_counter()
        with compiled_layers(self.model.llm, row.checkpointing, fixed_shapes=True) if is_compiled else nullcontext():
            losses = self._run(way, row, watch)
        _free(self.device)
        steps = self.setting.blocks.steps * sum(watch.seconds)
        return {
            "status": "ok", "seconds": watch.seconds, "rest": time.perf_counter() - began - steps, "losses": losses,
            "gib": torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else None,
        }  # fmt: skip

    def _run(self, way: str, row: ProfileRow, watch: Stopwatch) -> list[float]:
        steps = self.setting.blocks.total

        def loss(model: Any, batch: dict[str, Any]) -> Tensor:
            return batch_loss(self.model, row, self.batch) * len(batch["items"])

        data = TrainingData(range(row.batch), collate, loss, np.arange(steps * row.batch) % row.batch, row.tokens)
        config = TrainingConfig("steps", steps, row.batch, schedule="constant", dtype="bfloat16")
        groups = [ParameterGroup(self.trained, 0.0)]
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        run: Callable[..., list[float]] = plain if way in ("plain", "bfloat16") else fit
        torch.manual_seed(1)
        if run is fit:
            return fit(Trainee(self.model), data, groups, config, self.device, (watch,))
        return plain(Trainee(self.model), data, groups, config, watch)

    def _as_it_was(self) -> None:
        for module in self.model.llm.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = True
        if self.row.checkpointing:
            enable_checkpointing(self.model.llm)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def measure_setting(
    setting: Setting, ways: Iterable[str], device: torch.device, save: Callable[[str, dict[str, Any]], None]
) -> None:
    """Measure some ways of a setting, each saved as soon as it is there, or as out of memory."""
    measured = None
    for way in ways:
        try:
            measured = measured or Measured(setting, device)
            save(way, measured.measure(way))
        except (RuntimeError, MemoryError, VrbenchError) as error:
            if not (is_out_of_memory(error) or "memory ran out" in str(error)):
                raise
            full = True
        else:
            full = False
        if full:  # out of the handler, whose traceback holds on to tensors
            measured = None
            _free(device)
            save(way, {"status": "out of memory"})


def ratio(numerator: dict[str, Any], denominator: dict[str, Any]) -> tuple[float, float, float]:
    """The ratio of two rows' seconds a step (geometric means over blocks), with its 95 % interval."""
    logs = [[math.log(value) for value in row["seconds"]] for row in (numerator, denominator)]
    centre = statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    shares = [statistics.variance(of) / len(of) for of in logs]
    spread = sum(shares)
    if spread == 0:
        return (math.exp(centre),) * 3
    freedom = spread**2 / sum(s**2 / (len(of) - 1) for s, of in zip(shares, logs, strict=True))
    half = student.ppf(0.975, freedom) * math.sqrt(spread)
    return math.exp(centre), math.exp(centre - half), math.exp(centre + half)


def table(rows: dict[str, dict[str, Any]], planned: Iterable[Setting]) -> str:
    """Markdown: one line a setting."""
    lines = []
    for setting in planned:
        found = {way: rows.get(setting.key(way), {}) for way in WAYS}
        everything = rows.get(replace(setting, layers="all").key("trainer"), {})
        was = rows.get(replace(setting, layers="all").key("0.2.0"), {})
        lines.append({
            "shape": setting.shape, "tuned": f"{setting.tuning} {setting.layers}",
            "checkpointing": "on" if setting.checkpointing else "off",
            **{f"{way}, s/step": _seconds(found[way]) for way in WAYS},
            "GiB, 0.2.0 -> trainer": f"{_gib(found['0.2.0'])} -> {_gib(found['trainer'])}",
            "0.2.0 / trainer": _ratio(found["0.2.0"], found["trainer"]),
            "trainer / plain": _ratio(found["trainer"], found["plain"]),
            "saved by the region": "" if setting.layers == "all" else _saved(found["trainer"], everything),
            "the same, 0.2.0": "" if setting.layers == "all" else _saved(found["0.2.0"], was),
        })  # fmt: skip
    return tabulate(lines, "keys", "github", disable_numparse=True)


def _seconds(row: dict[str, Any]) -> str:
    return f"{statistics.median(row['seconds']):.4f}" if row.get("seconds") else row.get("status", "-")


def _gib(row: dict[str, Any]) -> str:
    return f"{row['gib']:.1f}" if row.get("gib") else "-"


def _ratio(numerator: dict[str, Any], denominator: dict[str, Any]) -> str:
    if not (numerator.get("seconds") and denominator.get("seconds")):
        return "-"
    return "{:.3f} [{:.3f}, {:.3f}]".format(*ratio(numerator, denominator))


def _saved(row: dict[str, Any], everything: dict[str, Any]) -> str:
    if not (row.get("seconds") and everything.get("seconds")):
        return "-"
    value, low, high = ratio(row, everything)
    return f"{100 * (1 - value):.1f} % [{100 * (1 - high):.1f}, {100 * (1 - low):.1f}]"


def store(section: str, name: str, out: Path) -> None:
    """Put a device's section into the page, beside those of other devices."""
    heading = "# Training steps: 0.2.0, this version, and a plain loop\n\nMade by `python -m benchmarks.trainer`.\n\n"
    others: list[str] = []
    if out.is_file():
        parts = out.read_text(encoding="utf-8").split("\n## ")[1:]
        others = [f"## {part.strip()}\n" for part in parts if not part.startswith(f"{name}\n")]
    write_atomically(out, heading + "\n".join(sorted([*others, section])))


def main() -> None:
    """Measure one device and write its section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="tiny shapes, few steps")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no setting after so long")
    parser.add_argument("--rows", type=Path, default=RESULTS / "trainer.jsonl")
    parser.add_argument("--out", type=Path, default=RESULTS / "trainer.md")
    given = parser.parse_args()
    if not given.quick:
        RANDOM_SHAPES[POCKET] = POCKET_SHAPE
    began, device = time.perf_counter(), torch.device(given.device)
    name = torch.cuda.get_device_name() if given.device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    lines = given.rows.read_text(encoding="utf-8").splitlines() if given.rows.is_file() else []
    rows = {row["key"]: row for row in map(json.loads, lines) if row["device"] == name}
    planned = list(settings(given.quick))
    given.rows.parent.mkdir(parents=True, exist_ok=True)
    for setting in planned:

        def save(way: str, result: dict[str, Any], setting: Setting = setting) -> None:
            row = {"key": setting.key(way), "device": name, **result}
            rows[row["key"]] = row
            with given.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{time.perf_counter() - began:6.0f} s  {row['key']}: {_seconds(row)} s/step", flush=True)

        missing = [way for way in setting.ways if setting.key(way) not in rows]
        if missing and time.perf_counter() - began < 60 * given.minutes:
            measure_setting(setting, missing, device, save)
        text = table(rows, planned)
        store(f"## {name}\n\n{text}\n\n`{command()}`; {versions()}\n", name, given.out)
    print(text)


if __name__ == "__main__":
    main()
