"""Count the answers of vLLM (`--backend vllm`) that differ from those of vrbench's own engine, task by task.

    python -m benchmarks.backends [--ckpt pocket/region] [--tasks ...] [--items 400] [--report FILE]

For scale it also counts those of our own engine in bfloat16 that differ from its own in float32, which are due to
rounding alone. Needs a GPU and vLLM. The default tasks need no data; `pocket_letters` (benchmarks/backend_tasks) has
options of one token. Writes benchmarks/results/backends.md.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from benchmarks import report_header
from vrbench.core.provenance import VLLM, VRBENCH
from vrbench.core.schemas import Run
from vrbench.evaluation.evaluate import run_all
from vrbench.evaluation.run_config import RunConfig

RESULT = Path(__file__).parent / "results" / "backends.md"
OWN_TASKS = Path(__file__).parent / "backend_tasks"
TASKS = "pocket_mme,pocket_mmbench,pocket_seed,pocket_textvqa,pocket_letters"
WAYS = ((VRBENCH, "float32"), (VRBENCH, "bfloat16"), (VLLM, "bfloat16"))
HEAD = (
    "checkpoint", "task", "items", "vLLM differs", "share, %", "bfloat16 differs from float32", "greatest, nats",
    "score, float32", "bfloat16", "vLLM",
)  # fmt: skip


def measure(given: argparse.Namespace, backend: str, dtype: str, out: Path) -> list[Run]:
    """Return the runs of all checkpoints."""
    start = time.perf_counter()
    options = RunConfig(
        limit=given.items, dtype=dtype, backend=backend, out=out, device=given.device, data_root=given.data_root,
        include_path=OWN_TASKS, gpu_memory=given.gpu_memory,
    )  # fmt: skip
    runs = run_all(given.ckpt, given.tasks, options=options)
    for result in (result for run in runs for result in run.results if result.error):
        print(f"{result.task}: {result.error}", flush=True)
    gc.collect()
    print(f"{backend} {dtype}: {time.perf_counter() - start:.0f} s", flush=True)
    return runs


def rows(exact: Run, ours: Run, theirs: Run) -> list[list[object]]:
    """One row a task."""
    made: list[list[object]] = []
    for task, samples in theirs.samples.items():
        own, reference = ours.samples[task], exact.samples[task]
        differ = sum(a.answer != b.answer for a, b in zip(samples, own, strict=True))
        rounded = sum(a.answer != b.answer for a, b in zip(own, reference, strict=True))
        logs = [(a.loglikelihoods, b.loglikelihoods) for a, b in zip(samples, own, strict=True)]
        scores = [score.value if (score := run.result(task).score) else None for run in (exact, ours, theirs)]
        far = max((abs(x - y) for a, b in logs for x, y in zip(a, b, strict=True)), default=None)
        share = 100 * differ / len(samples)
        made.append([theirs.record.checkpoint.id, task, len(samples), differ, share, rounded, far, *scores])
    return made


def page(found: Sequence[Sequence[Run]]) -> str:
    """Markdown: what differs, from the runs of each way."""
    table = [row for runs in zip(*found, strict=True) for row in rows(*runs)]
    theirs = found[-1][0].record
    version = theirs.settings.environment["vllm"]
    return (
        "# Answers of two backends\n\n"
        f"vLLM {version} and vrbench's own engine, both in bfloat16, on {theirs.provenance.device}. The greatest "
        "difference is that of the log-likelihoods of the two.\n\n"
        + tabulate(table, HEAD, tablefmt="github", floatfmt=".3g", missingval="")
        + f"\n\n`{report_header.command()}`\n\n{report_header.versions()}\n"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", action="append", help="may be repeated; each starts vLLM; default pocket/region")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gpu-memory", type=float, default=0.5)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--report", type=Path, default=RESULT)
    given = parser.parse_args()
    given.ckpt = given.ckpt or ["pocket/region"]
    with tempfile.TemporaryDirectory() as out:
        text = page([measure(given, *way, Path(out)) for way in WAYS])
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(text, encoding="utf-8")
    print(text, flush=True)


if __name__ == "__main__":
    main()
