"""Measure what checkpoints of one base cost in one run and in runs of their own, besides the LLM's passes.

    python -m benchmarks.checkpoints --data-root DATA --device cuda
    python -m benchmarks.checkpoints --data-root DATA --device cpu --quick

"shared" is one process that evaluates four checkpoints of one base; "separate" is four processes with one checkpoint
each. Time is that of the whole process, from its start to its end: on a GPU wall time, on a CPU the processor's time,
which other programs on the machine disturb less. The LLM's passes are all calls of the decoder and of its head, with
recorded steps and their recording, on a GPU between CUDA events in front of and behind each call, without waiting for
it. What is left is "other". A short run before them fills the caches of files and is not counted.

Writes benchmarks/results/checkpoints.md, or checkpoints-cpu.md with --quick.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks import report_header

RESULTS = Path(__file__).parent / "results"
STAGES = ("plan", "load", "build", "images", "score and write")


@dataclass(frozen=True)
class Work:
    """Four checkpoints of one base, and how many items of each task they answer."""

    checkpoints: tuple[str, ...]
    items: int

    @property
    def base(self) -> str:
        """Name for the table."""
        return self.checkpoints[0].partition("?")[0]


def random_models(name: str, adapter: int, removed: int, items: int) -> Work:
    """A base with random weights, with an adapter, with layers removed, and with both."""
    both = f"adapter={adapter}&removed={removed}"
    options = ("", f"?adapter={adapter}", f"?removed={removed}", f"?{both}")
    return Work(tuple(f"random/{name}{option}" for option in options), items)


QUICK = random_models("tiny", 2, 1, 100)
WHOLE = random_models("llava-1.5-7b", 8, 4, 200)


class PassTimer:
    """Adds up the time of the LLM's passes."""

    def __init__(self, clock: Callable[[], float], on_gpu: bool) -> None:
        self._clock, self._on_gpu, self._seconds = clock, on_gpu, 0.0
        self._events: list[tuple[Any, Any]] = []

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is timed."""
        import torch

        @wraps(function)
        def call(*arguments: Any, **settings: Any) -> Any:
            on_gpu = self._on_gpu and not torch.cuda.is_current_stream_capturing()
            if not on_gpu:  # also while a step is recorded
                start = self._clock()
                found = function(*arguments, **settings)
                self._seconds += self._clock() - start
                return found
            before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            before.record()
            found = function(*arguments, **settings)
            after.record()
            self._events.append((before, after))
            return found

        return call

    def seconds(self) -> float:
        """Return the sum."""
        for before, after in self._events:
            after.synchronize()
            self._seconds += before.elapsed_time(after) / 1000
        self._events.clear()
        return self._seconds


def work(checkpoints: Sequence[str], given: argparse.Namespace, out: Path) -> None:
    """Evaluate checkpoints in this process; print the seconds of the LLM's passes and of the stages as JSON."""
    import torch

    from vrbench.evaluation import built_task, evaluate, task_scores, vision_features
    from vrbench.models import load

    stages: Counter[str] = Counter()
    clock = time.process_time if given.device == "cpu" else time.perf_counter
    passes = PassTimer(clock, given.device != "cpu")

    def stage(owner: Any, name: str, label: str) -> None:
        function = getattr(owner, name)

        def call(*arguments: Any, **settings: Any) -> Any:
            start = clock()
            try:
                return function(*arguments, **settings)
            finally:
                stages[label] += clock() - start

        setattr(owner, name, call)

    def load_timed(*arguments: Any, **settings: Any) -> Any:
        vlm = loaded(*arguments, **settings)
        for module in (vlm.language_model, vlm.head):
            module.forward = passes.timed(module.forward)
        return vlm

    stage(load, "load_vlm", "load")
    loaded = load.load_vlm
    load.load_vlm = load_timed  # type: ignore[assignment]
    torch.cuda.CUDAGraph.replay = passes.timed(torch.cuda.CUDAGraph.replay)  # type: ignore[method-assign]
    stage(evaluate, "plan", "plan")
    stage(built_task, "build_requests", "build")
    stage(vision_features.VisionFeatureCache, "features", "images")
    for owner, name in ((task_scores, "score_task"), (evaluate.task_result, "score_fields"), (evaluate, "save_run")):
        stage(owner, name, "score and write")
    evaluate.run_all(
        list(checkpoints), given.tasks, limit=given.items, data_root=given.data_root, device=given.device, out=out,
        show_progress=False,
    )  # fmt: skip
    print(json.dumps({"passes": passes.seconds(), "processor": time.process_time(), **stages}))


def measure(checkpoints: Sequence[str], given: argparse.Namespace, items: int, out: Path) -> Counter[str]:
    """Run `work` in a process of its own; return its seconds by stage, with "total"."""
    options = ["--worker", *checkpoints, "--tasks", given.tasks, "--items", str(items), "--device", given.device]
    options += ["--data-root", str(given.data_root), "--out", str(out)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.checkpoints", *options], stdout=subprocess.PIPE, text=True, check=True
    )
    found = Counter(json.loads(done.stdout.splitlines()[-1]))
    wall = time.perf_counter() - start
    found["total"] = found["processor"] if given.device == "cpu" else wall  # type: ignore[assignment]
    return found


def samples(out: Path) -> Iterator[tuple[str, str]]:
    """Yield each sample of the runs in a folder, with the checkpoint and task that it belongs to."""
    for file in sorted(out.glob("*/*/samples/*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            yield f"{file.parents[2].name} {file.stem}", line


def table(of: Work, given: argparse.Namespace) -> Iterator[str]:
    """Measure both ways; yield the rows of a table, and how the answers compare."""
    with tempfile.TemporaryDirectory() as folder:
        shared_out, separate_out = Path(folder) / "shared", Path(folder) / "separate"
        measure(of.checkpoints[:1], given, 1, Path(folder) / "first")
        shared = measure(of.checkpoints, given, of.items, shared_out)
        each = [measure([name], given, of.items, separate_out) for name in of.checkpoints]
        separate = sum(each, Counter())
        equal = sum(a == b for a, b in zip(samples(shared_out), samples(separate_out), strict=True))
        count = len(list(samples(shared_out)))
    for way, found in (("shared", shared), ("separate", separate)):
        other = found["total"] - found["passes"]
        cells = [found["total"], found["passes"], other, *(found[name] for name in STAGES)]
        yield f"| {of.base} | {way} | {' | '.join(f'{cell:.1f}' for cell in cells)} |"
    ratio = (shared["total"] - shared["passes"]) / (separate["total"] - separate["passes"])
    yield f"| {of.base} | **shared / separate** | | | **{ratio:.2f}** |{' |' * len(STAGES)}"
    print(f"{of.base}: {equal} of {count} samples are equal")
    note = f"{equal:,} of {count:,} samples are equal to the last digit"
    yield f"| | {', '.join(of.checkpoints)}; {of.items} items of each task; {note} |{' |' * (3 + len(STAGES))}"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="fewer items on a tiny model")
    parser.add_argument("--tasks", default="mme,mmlu")
    parser.add_argument("--items", type=int, help="of each task")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given, given.out)
        return
    import torch

    from vrbench.core.device import device_name

    lines = ["| base | way | total, s | LLM's passes, s | other, s | " + ", s | ".join(STAGES) + ", s |"]
    lines.append("|---|---|" + "--:|" * (3 + len(STAGES)))
    on = f"{given.tasks}, {device_name(torch.device(given.device))}"
    about = f"Four checkpoints of one base on {on}: one run of all, and a run of each."
    how = 'How each column is measured is said in `benchmarks/checkpoints.py`; "other" includes its right neighbours.'
    head = ["# Checkpoints of one base", "", about, how, ""]
    end = ["", f"`{report_header.command()}`", "", report_header.versions(), ""]
    out = given.out or RESULTS / ("checkpoints-cpu.md" if given.quick else "checkpoints.md")
    of = QUICK if given.quick else WHOLE
    for line in table(Work(of.checkpoints, given.items or of.items), given):
        lines.append(line)
        print(line, flush=True)
    out.write_text("\n".join([*head, *lines, *end]), encoding="utf-8")


if __name__ == "__main__":
    main()
