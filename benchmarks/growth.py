"""Measure how time and memory grow with the number of items, records and checkpoints, everything but the model.

    python -m benchmarks.growth [--sizes 1000 10000 100000] [--only TEXT] [--against OTHER_CHECKOUT]

Each line is a process of its own: processor seconds (all threads), wall time, and the most memory that it held. Answers
of a run come from a stand-in instead of a model; requests, answer store, scores, records and comparisons are real.
`--against` measures another checkout of vrbench beside this one, and is where "before" comes from. Adds
to benchmarks/results/growth.json, and writes growth.md from it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
REPORT = Path(__file__).parent / "results" / "growth.md"
FIGURES = REPORT.with_suffix(".json")
"""What was measured, by line; a later run adds to it."""

SIZES = (1_000, 10_000, 100_000)
CHECKPOINTS = (1, 8)
BATCH = 64
"""Answers that are stored at a time."""

SHAPES: dict[str, tuple[str, str, int, int, bool]] = {
    "right or wrong": ("mean", "text", 1, 1, False),
    "several questions an image": ("mean", "visual", 3, 1, False),
    "57 subjects": ("macro", "text", 1, 57, False),
    "pairs of questions": ("mme", "visual", 2, 14, False),
    "any score from 0 to 1": ("mean", "visual", 1, 1, True),
}
"""Kind of task -> metric, suite, items a cluster, groups, and whether scores are real numbers."""

Seconds = dict[str, float]
"""What was measured -> processor seconds, wall seconds ("... wall"), or "peak MB"."""


@contextmanager
def timed(found: Seconds, name: str) -> Iterator[None]:
    """Add what the block takes."""
    wall, used = time.perf_counter(), time.process_time()
    yield
    found[name] = time.process_time() - used
    found[f"{name} wall"] = time.perf_counter() - wall


def write_record(folder: Path, n: int, kinds: Sequence[str], seed: int) -> Path:
    """Write a made-up run of `n` samples in all, the same items for every seed."""
    from vrbench.core.run_storage import samples_to_jsonl, save_run
    from vrbench.core.schemas import CheckpointRef, Provenance, RunRecord, RunSettings, Sample, TaskResult

    samples, results = {}, []
    for number, kind in enumerate(kinds):
        metric, suite, cluster, groups, real = SHAPES[kind]
        count, rng = n // len(kinds), np.random.default_rng([seed, number])
        hard = np.random.default_rng(number).random(count)
        right = hard + rng.random(count) < 1.2
        scores = np.where(right, 1 - 0.5 * rng.random(count), 0.5 * rng.random(count)) if real else right.astype(float)
        task = kind.replace(" ", "_")
        rows = tuple(
            Sample(
                id=f"{task}-{i}", cluster=f"c{i // cluster}", group=f"g{i // cluster % groups}",
                unit=f"u{i // cluster}", score=float(score), answer="Yes, it is so.", target="Yes",
                responses=("Yes, it is so.",), prompt_digest=hashlib.sha256(str(i).encode()).hexdigest(),
            )
            for i, score in enumerate(scores)
        )  # fmt: skip
        digest = hashlib.sha256(samples_to_jsonl(rows).encode()).hexdigest()
        results.append(
            TaskResult(task=task, suite=suite, version="1", status="ok", metric=metric, n=count, samples_digest=digest)
        )
        samples[task] = rows
    name = f"record-{seed}"
    record = RunRecord(
        status="ok", checkpoint=CheckpointRef(id=name, digest=name, family="llava", depth=30),
        settings=RunSettings(tasks=tuple(samples)), inputs_digest=name, results=tuple(results),
        provenance=Provenance(vrbench="benchmark"),
    )  # fmt: skip
    return save_run(folder / name, record, samples).parent


def compare(folder: Path, n: int, count: int, kind: str, draws: int | None) -> Seconds:
    """`vrbench compare` of some records of `n` samples."""
    from vrbench import reporting
    from vrbench.statistics.comparison import compare_paths

    kinds = list(SHAPES) if kind == "all of these" else [kind]
    made = [write_record(folder, n, kinds, seed) for seed in range(count)]
    found: Seconds = {}
    with peak_memory(found):
        with timed(found, "seconds"):
            comparison = compare_paths(made[1:], made[0], **({"draws": draws} if draws else {}))
            reporting.render(comparison, "table")
    return found


@contextmanager
def peak_memory(found: Seconds) -> Iterator[None]:
    """Add the most memory that the process holds in the block."""
    Path("/proc/self/clear_refs").write_text("5")  # the kernel counts anew
    yield
    found["peak MB"] = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def store(folder: Path, n: int) -> Seconds:
    """The answer store: `n` answers written, read, and what computed them."""
    from vrbench.evaluation.answer_store import AnswerStore

    keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]
    found: Seconds = {}
    with peak_memory(found), AnswerStore(folder / "answers.sqlite", "digest") as answers:
        with timed(found, "write"):
            for first in range(0, n, BATCH):
                part = {key: [-1.25, True] if i % 2 else "Yes." for i, key in enumerate(keys[first : first + BATCH])}
                answers.put(part, {"vrbench": "benchmark"})
        with timed(found, "read"):
            answers.get(keys)
        with timed(found, "origins"):
            answers.origins(keys)
    return found


TASKS = {
    "text": """
id: growth
suites: [text]
title: made-up questions with options
harness: lm-eval
scorer: multiple_choice
prompt: "Question: {{question}}\\nAnswer:"
choices: ["yes", "no"]
target: "{{answer}}"
data: {kind: file, name: items.parquet}
metric: mean
chance: 50
id_column: id
n: COUNT
version: "1"
""",
    "image": """
id: growth
suites: [visual]
title: made-up questions on images
harness: lmms-eval
scorer: exact_match
prompt: "{{question}}\\nAnswer the question using a single word or phrase."
target: answer
generation: {max_new_tokens: 16}
data: {kind: file, name: items.parquet}
metric: mean
chance: 50
id_column: id
cluster: shape
n: COUNT
version: "1"
""",
}


def write_task(folder: Path, kind: str, n: int) -> None:
    """Write a task of `n` items; four questions an image."""
    import pandas
    from PIL import Image

    def picture(number: int) -> dict[str, Any]:
        file = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": f"{number}.png"}

    rows: dict[str, Any] = {
        "id": [f"item-{i}" for i in range(n)],
        "question": [f"Is the number {i} an even one, among all that were asked for?" for i in range(n)],
        "answer": [i % 2 for i in range(n)] if kind == "text" else ["no" if i % 2 else "yes" for i in range(n)],
    }
    if kind == "image":
        pictures = [picture(i) for i in range(-(-n // 4))]
        rows |= {"image": [pictures[i // 4] for i in range(n)], "shape": [f"image {i // 4}" for i in range(n)]}
    pandas.DataFrame(rows).to_parquet(folder / "items.parquet")
    (folder / "growth.yaml").write_text(TASKS[kind].replace("COUNT", str(n)))


def run(folder: Path, n: int, checkpoints: int, kind: str) -> Seconds:
    """`vrbench run` of some checkpoints with answers from a stand-in, and the same again, which reads the records."""
    from tests import tiny
    from vrbench.evaluation import engine, evaluate
    from vrbench.evaluation.requests import LogLikelihoodRequest, answer_conditions

    def answer(self: Any, requests: Sequence[Any], title: str = "") -> list[Any]:
        conditions = answer_conditions(self.vlm)
        keys = [request.key(conditions) for request in requests]
        known = self.store.get(keys)
        stored = set(known)
        for first in range(0, len(keys), BATCH):
            part = {
                key: (-int(key[:4], 16) / 999, False) if isinstance(request, LogLikelihoodRequest) else "Yes."
                for key, request in zip(keys[first : first + BATCH], requests[first : first + BATCH], strict=True)
                if key not in stored
            }
            self.store.put(part, {"vrbench": "benchmark"})
            known |= part
        self.computed += len(known.keys() - stored)
        return [tuple(known[key]) if isinstance(known[key], list) else known[key] for key in keys]

    engine.InferenceEngine.answer = answer  # type: ignore[method-assign]
    write_task(folder, kind, n)
    models = [tiny.save_llava(folder / f"checkpoint-{seed}", seed=seed) for seed in range(checkpoints)]
    options: dict[str, Any] = {"include_path": folder, "out": folder / "runs", "device": "cpu"}
    evaluate.run_all(models[:1], "growth", limit=8, **options)  # imports, and the harness's own start
    found: Seconds = {}
    with peak_memory(found):
        with timed(found, "run"):
            done = evaluate.run_all(models, "growth", **options)
            assert all(one.status == "ok" for one in done)
        with timed(found, "again"):
            evaluate.run_all(models, "growth", **options)
    return found


PARTS: dict[str, Callable[..., Seconds]] = {"compare": compare, "store": store, "run": run}


def measure(checkout: Path, part: str, *arguments: Any) -> Seconds:
    """Run one part in a process of its own, with the vrbench of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        given = [sys.executable, __file__, "--part", json.dumps([part, folder, *arguments])]
        done = subprocess.run(given, env=environment, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    found: Seconds = json.loads(done.stdout.splitlines()[-1])
    print(part, *arguments, {name: round(value, 2) for name, value in found.items()}, file=sys.stderr, flush=True)
    return found


def lines(sizes: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """Yield what is measured: part and arguments."""
    for n in sizes:
        yield "store", n
        for kind in (*SHAPES, "all of these"):
            yield "compare", n, 2, kind, None
        yield "compare", n, 10, "all of these", None
        for kind in (*SHAPES, "all of these"):
            yield "compare", n, 10, kind, 10_000
        for kind in TASKS:
            for checkpoints in CHECKPOINTS:
                yield "run", n, checkpoints, kind


def measure_all(sizes: Sequence[int], other: Path | None, only: str) -> dict[str, Seconds]:
    """Measure the lines that contain a text, and return these and all that were measured before, by line."""
    known: dict[str, Seconds] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for line in lines(sizes):
        name = " ".join(map(str, line))
        if only in name:
            known[name] = measure(ROOT, *line)
            if other is not None and line[-1] != 10_000:
                known[f"before: {name}"] = measure(other, *line)
            FIGURES.write_text(json.dumps(known, indent=1) + "\n")
    return known


def rows(known: Mapping[str, Seconds], part: str, names: Sequence[str], draws: int | None = None) -> str:
    """Return a table of some lines: processor seconds, the same before and their ratio, and memory."""
    from tabulate import tabulate

    headers = [part, *(h for name in names for h in (name, "before", "ratio")), "wall", "peak MB"]
    body = []
    for line in lines(SIZES):
        name = " ".join(map(str, line))
        if line[0] != part or name not in known or (part == "compare" and line[-1] != draws):
            continue
        found, before = known[name], known.get(f"before: {name}", {})
        figures = [
            text
            for what in names
            for text in (
                f"{found[what]:.2f}",
                f"{before[what]:.2f}" if what in before else "",
                f"{before[what] / found[what]:.1f} x" if what in before else "",
            )
        ]
        count = {"compare": "records", "run": "checkpoint" + "s" * (line[-2] != 1)}.get(part, "")
        about = [f"{line[1]:,} items", f"{line[2]} {count}" if count else "", str(line[3]) if count else ""]
        wall = sum(found[f"{what} wall"] for what in names)
        body.append([", ".join(filter(None, about)), *figures, f"{wall:.1f}", f"{found['peak MB']:.0f}"])
    aligned = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(body, headers, "pipe", disable_numparse=True, colalign=aligned) if body else ""


def report(known: Mapping[str, Seconds]) -> str:
    """Return the figures as Markdown."""
    from benchmarks import report_header
    from vrbench.core.device import processor_name

    parts = [
        "# Growth",
        f"`python -m benchmarks.growth`, {datetime.now(timezone.utc):%Y-%m-%d}, {processor_name()}, {os.cpu_count()} "
        "cores. Figures are processor seconds of all threads: the machine was busy with other work, which makes wall "
        f"time several times as long. {report_header.versions()} Each line is a process of its own, without imports; "
        "'before' is the same with the checkout before this was measured.",
        "## `vrbench compare`, 4,000 draws, one of the records as the baseline",
        rows(known, "compare", ["seconds"]),
        "## The same with `--draws 10000`",
        rows(known, "compare", ["seconds"], 10_000),
        f"## The answer store, {BATCH} answers a transaction",
        rows(known, "store", ["write", "read", "origins"]),
        "## `vrbench run` without the model (run), and the finished run read again (again)",
        rows(known, "run", ["run", "again"]),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure one part, or all of them and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", default="", help="measure only lines with this text, such as 'compare 1000 '")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        part, folder, *arguments = json.loads(given.part)
        print(json.dumps(PARTS[part](Path(folder), *arguments)))
        return
    known = measure_all(given.sizes, given.against and given.against.resolve(), given.only)
    REPORT.write_text(report(known), encoding="utf-8")
    print(REPORT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
