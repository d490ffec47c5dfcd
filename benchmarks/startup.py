"""Measure CPU seconds of the commands that need no torch, best and median of several starts.

    python benchmarks/startup.py [--starts 7]

Bounds: `vrbench --help` and `vrbench tasks` under 0.7 s; `vrbench compare` under 2.5 s. Exits with 1 if one is
slower.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from vrbench.core.run_storage import samples_to_jsonl, save_run
from vrbench.core.schemas import CheckpointRef, Provenance, RunRecord, RunSettings, Sample, Score, TaskResult

PROGRAM = [sys.executable, "-c", "from vrbench.cli import main; main()"]
BOUNDS = {"--help": 0.7, "tasks": 0.7, "compare": 2.5}


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*PROGRAM, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_run(folder: Path, name: str, right: float, tasks: int = 6, n: int = 500) -> Path:
    """A made-up run: yes/no scores on some tasks, drawn with a probability of being right."""
    draw = random.Random(name)
    samples, results = {}, []
    for number in range(tasks):
        task = f"task_{number}"
        rows = tuple(
            Sample(id=str(i), cluster=str(i // 2), score=float(draw.random() < right), prompt_digest=str(i))
            for i in range(n)
        )
        value = 100 * statistics.mean(row.score for row in rows)
        results.append(
            TaskResult(
                task=task, suite="visual" if number % 2 else "text", version="1", status="ok", metric="mean",
                chance=50.0, n=n, score=Score(value=value, low=value, high=value, n=n, clusters=n // 2),
                samples_digest=hashlib.sha256(samples_to_jsonl(rows).encode()).hexdigest(),
            )
        )  # fmt: skip
        samples[task] = rows
    record = RunRecord(
        status="ok", checkpoint=CheckpointRef(id=name, digest=name, family="llava", depth=30),
        settings=RunSettings(tasks=tuple(samples)), inputs_digest=name, results=tuple(results),
        provenance=Provenance(vrbench="benchmark"),
    )  # fmt: skip
    save_run(folder / name, record, samples)
    return folder / name


def main() -> None:
    """Measure, print one line a command, and fail when a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=7)
    starts = parser.parse_args().starts
    broken = False
    with tempfile.TemporaryDirectory() as scratch:
        baseline, candidate = (write_run(Path(scratch), n, p) for n, p in (("baseline", 0.9), ("candidate", 0.85)))
        arguments = {"--help": [], "tasks": [], "compare": [str(candidate), "--baseline", str(baseline)]}
        for command, bound in BOUNDS.items():
            seconds = [cpu_seconds([command, *arguments[command]]) for _ in range(starts)]
            median = statistics.median(seconds)
            broken |= median > bound
            print(f"vrbench {command:8} best {min(seconds):.2f} s, median {median:.2f} s of CPU time, bound {bound} s")
    sys.exit(broken)


if __name__ == "__main__":
    main()
