"""Measure load time, memory and items per second of checkpoints with real shapes and random weights.

    python benchmarks/shapes.py --data-root DATA [--device cuda] [--ckpt random/llava-1.5-7b ...] [--work DIR]

Each of the paper's four shapes is measured unchanged, with four layers removed, and with a LoRA adapter on a quarter of
its layers, with the code of `vrbench run`: `--mme` items of mme (default: all) and `--mmlu` items of mmlu. Measurements
are stored in `--work`, from which an interrupted run resumes. Writes benchmarks/results/shapes.md, or `--report`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

from tabulate import tabulate

from benchmarks import report_header
from vrbench.core.io import write_atomically
from vrbench.evaluation.evaluate import run_all
from vrbench.evaluation.run_config import RunConfig
from vrbench.models import load as loading

REPORT = Path(__file__).parent / "results" / "shapes.md"
QUARTER = {"llava-1.5-7b": 8, "llava-1.5-13b": 9, "bunny-llama-3-8b": 8, "bunny-phi3-mini": 8}
"""Layers that the paper tunes."""

NAMES = [f"random/{name}{what}" for name, n in QUARTER.items() for what in ("", "?removed=4", f"?adapter={n}")]
GIB = 1 << 30
HEAD = {
    "ckpt": "checkpoint", "depth": "layers", "load_seconds": "load, s", "load_peak": "peak while loading, GiB",
    "run_peak": "peak while answering, GiB", "mme": "mme, items/s", "mmlu": "mmlu, items/s",
}  # fmt: skip


class Memory:
    """The most memory that was held since the last reset: torch's on a GPU, the process's own on a CPU."""

    def __init__(self, device: str) -> None:
        self._on_card = device == "cuda"
        self.kind = "torch's peak of allocated memory" if self._on_card else "the peak of the whole process"

    def reset(self) -> None:
        """Forget the peak."""
        if self._on_card:
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError):  # where it cannot be reset, the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float:
        """GiB."""
        if self._on_card:
            import torch

            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() / GIB
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / GIB


def measure(ckpt: str, given: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    memory = Memory(given.device)
    row: dict[str, Any] = {"ckpt": ckpt, "memory": memory.kind}
    load_vlm = loading.load_vlm

    def timed(*arguments: Any) -> Any:
        gc.collect()
        memory.reset()
        start = time.perf_counter()
        vlm = load_vlm(*arguments)
        peak = memory.peak()  # waits for the GPU
        row.update(load_seconds=time.perf_counter() - start, load_peak=peak, depth=vlm.depth)
        memory.reset()
        return vlm

    peaks = []
    for task, limit in (("mme", given.mme), ("mmlu", given.mmlu)):
        with tempfile.TemporaryDirectory() as out, mock.patch.object(loading, "load_vlm", timed):
            options = RunConfig(limit=limit, device=given.device, dtype=given.dtype, data_root=given.data_root, out=out)
            (run,) = run_all([ckpt], task, options=options)
        peaks.append(memory.peak())
        result = run.result(task)
        if result.status != "ok":
            raise RuntimeError(f"{task}: {result.error}")
        row |= {task: result.n / result.seconds, f"n_{task}": result.n, "device": run.record.provenance.device}
        row["dtype"] = run.record.settings.dtype
    return {**row, "run_peak": max(peaks)}


def report(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    first = rows[0]
    about = (
        f"Random weights of the true shapes, {first.get('dtype')}, {first.get('device')}, "
        f"{datetime.now(timezone.utc):%Y-%m-%d}. `vrbench run` on {first.get('n_mme')} items of mme and "
        f"{first.get('n_mmlu')} of mmlu (5 examples in the prompt). Loading makes the weights on the device and reads "
        f"none from a disk; with removed layers or an adapter the model is put together in float32 and converted at "
        f"the end. Memory is {first.get('memory')}. The tokenizer is not the models' own, and a random model seldom "
        "ends an answer before its limit, so items/s say how fast a shape is and not how fast a real "
        "checkpoint's answers end."
    )
    cells = [[_cell(row.get(key)) for key in HEAD] for row in rows]
    table = tabulate(cells, list(HEAD.values()), tablefmt="github", disable_numparse=True)
    failed = "".join(f"\n\n{row['ckpt']} did not run: {row['error']}" for row in rows if "error" in row)
    return f"# True shapes\n\n{about}\n\n{table}{failed}\n\n`{report_header.command()}`\n\n{report_header.versions()}\n"


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "" if value is None else str(value)


def main() -> None:
    """Measure what is not yet kept, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--ckpt", action="append")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--mme", type=int)
    parser.add_argument("--mmlu", type=int, default=570)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--report", type=Path, default=REPORT)
    given = parser.parse_args()
    kept = given.work / "shapes.json" if given.work else None
    rows = {row["ckpt"]: row for row in json.loads(kept.read_text())} if kept and kept.is_file() else {}
    measure("random/tiny", argparse.Namespace(**vars(given) | {"mme": 8, "mmlu": 57}))  # imports, kernels: not timed
    for ckpt in given.ckpt or NAMES:
        if ckpt in rows and "error" not in rows[ckpt]:
            continue
        try:
            rows[ckpt] = measure(ckpt, given)
        except Exception as error:  # such as a GPU that is too small: the others go on
            rows[ckpt] = {"ckpt": ckpt, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(rows[ckpt]), flush=True)
        if kept:
            write_atomically(kept, json.dumps(list(rows.values())))
        if any("error" not in row for row in rows.values()):
            ordered = sorted(rows.values(), key=lambda row: "error" in row)
            given.report.parent.mkdir(parents=True, exist_ok=True)
            given.report.write_text(report(ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
