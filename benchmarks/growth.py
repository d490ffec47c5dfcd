"""Measure how time and memory grow with the number of items, records and checkpoints, everything but the model.

    python -m benchmarks.growth             1,000, 10,000 and 100,000 items; an hour on two cores
    python -m benchmarks.growth --quick     1,000 items, into a page of its own

Each measurement is a process of its own: processor seconds (all threads), wall time, and the most memory that it held.
Answers of a run come from a stand-in instead of a model; requests, answer store, scores, records and comparisons are
real. Adds to benchmarks/results/growth.json, and writes growth.md and growth.png from it; `--only TEXT` measures some.
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
from typing import Any, Literal, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
REPORT = Path(__file__).parent / "results" / "growth.md"

SIZES = (1_000, 10_000, 100_000)
CHECKPOINTS = (1, 2, 4, 8)
RECORDS, DRAWS = 10, 10_000
"""Records that are compared, and bootstrap draws."""
GOALS = {"compare": 20.0, "again": 10.0}
"""Most wall seconds of 100,000 items on two cores."""
BATCH = 64
"""Answers that are stored at a time."""


class Shape(NamedTuple):
    """A kind of task: its metric, how its items hang together, and what a score is."""

    metric: str = "mean"
    suite: str = "text"
    cluster: int = 1
    groups: int = 1
    scores: Literal["0 or 1", "graded", "nats"] = "0 or 1"
    mixed: bool = False
    """Whether the items of a cluster are of several groups."""


SHAPES: dict[str, Shape] = {
    "right or wrong": Shape(),
    "several questions an image": Shape(suite="visual", cluster=3),
    "57 subjects": Shape("macro", groups=57),
    "pairs of questions": Shape("mme", "visual", cluster=2, groups=14),
    "any score from 0 to 1": Shape(suite="visual", scores="graded"),
    "perplexity": Shape("perplexity", scores="nats"),
    "57 subjects, graded": Shape("macro", groups=57, scores="graded"),
    "57 categories, graded, 3 an image": Shape("macro", "visual", cluster=3, groups=57, scores="graded", mixed=True),
}

Seconds = dict[str, float]
"""What was measured -> processor seconds, wall seconds ("... wall"), "peak MB", and "more MB" than before it began."""

ALL = "all of these"


@contextmanager
def timed(found: Seconds, name: str) -> Iterator[None]:
    """Add what the block takes."""
    wall, used = time.perf_counter(), time.process_time()
    yield
    found[name] = time.process_time() - used
    found[f"{name} wall"] = time.perf_counter() - wall


LINE = (
    '{"answer":"Yes, it is so.","cluster":"c%d","group":"g%d","id":"item-%d","prompt_digest":"%064x",'
    '"responses":["Yes, it is so."],"score":%r,"target":"Yes","unit":"u%d","weight":%r}\n'
)
"""A sample as it is stored."""


def write_record(folder: Path, n: int, kinds: Sequence[str], seed: int) -> Path:
    """Write a made-up run of `n` samples in all, the same items for every seed."""
    from vrbench.core.io import write_atomically
    from vrbench.core.run_storage import save_run
    from vrbench.core.schemas import CheckpointRef, Provenance, RunRecord, RunSettings, TaskResult

    results, name = [], f"record-{seed}"
    for number, kind in enumerate(kinds):
        shape, count, rng = SHAPES[kind], n // len(kinds), np.random.default_rng([seed, number])
        hard, item = np.random.default_rng(number), np.arange(count)
        right = hard.random(count) + rng.random(count) < 1.2
        words = hard.integers(50, 500, count).astype(float) if shape.scores == "nats" else np.ones(count)
        scores = {
            "0 or 1": right.astype(float),
            "graded": np.where(right, 1 - 0.5 * rng.random(count), 0.5 * rng.random(count)),
            "nats": -words * (2 - right + 0.1 * rng.random(count)),
        }[shape.scores]
        cluster = item // shape.cluster
        group = (item if shape.mixed else cluster) % shape.groups
        columns = (of.tolist() for of in (cluster, group, item, item, scores, cluster, words))
        text = "".join(map(LINE.__mod__, zip(*columns, strict=True)))
        task = f"task-{number}"
        write_atomically(folder / name / "samples" / f"{task}.jsonl", text)
        results.append(
            TaskResult(
                task=task, suite=shape.suite, version="1", status="ok", metric=shape.metric, n=count,
                higher_is_better=shape.scores != "nats", samples_digest=hashlib.sha256(text.encode()).hexdigest(),
            )
        )  # fmt: skip
    record = RunRecord(
        status="ok", checkpoint=CheckpointRef(id=name, digest=name, family="llava", depth=30),
        settings=RunSettings(tasks=tuple(result.task for result in results)), inputs_digest=name,
        results=tuple(results), provenance=Provenance(vrbench="benchmark"),
    )  # fmt: skip
    return save_run(folder / name, record, {}).parent


def compare(folder: Path, n: int, kind: str) -> Seconds:
    """`vrbench compare` of `RECORDS` records of `n` samples, one of them the baseline."""
    from vrbench import reporting
    from vrbench.statistics.comparison import compare_paths

    kinds = list(SHAPES) if kind == ALL else [kind]
    made = [write_record(folder, n, kinds, seed) for seed in range(RECORDS)]
    found: Seconds = {}
    with peak_memory(found), timed(found, "compare"):
        reporting.render(compare_paths(made[1:], made[0], draws=DRAWS), "table")
    return found


@contextmanager
def peak_memory(found: Seconds) -> Iterator[None]:
    """Add the most memory that the process holds in the block."""
    Path("/proc/self/clear_refs").write_text("5")  # the kernel counts anew
    before = _status_mb("VmRSS")
    yield
    found["peak MB"] = _status_mb("VmHWM")
    found["more MB"] = found["peak MB"] - before


def _status_mb(name: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


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
n: COUNT
version: "1"
""",
}


def write_task(folder: Path, kind: str, n: int) -> None:
    """Write a task of `n` items, each with an image of its own where there are images."""
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
        rows |= {"image": [picture(i) for i in range(n)]}
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


def measure(part: str, *arguments: Any) -> Seconds:
    """Run one part in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
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
        for kind in (*SHAPES, ALL):
            yield "compare", n, kind
        for kind in TASKS:
            for checkpoints in CHECKPOINTS if n == min(SIZES) else CHECKPOINTS[:1]:
                yield "run", n, checkpoints, kind


def measure_all(sizes: Sequence[int], only: str, figures: Path) -> dict[str, Seconds]:
    """Measure the lines that contain a text, and return these and all that were measured before, by line."""
    known: dict[str, Seconds] = json.loads(figures.read_text()) if figures.exists() else {}
    for line in lines(sizes):
        name = " ".join(map(str, line))
        if only in name:
            known[name] = measure(*line)
            figures.write_text(json.dumps(known, indent=1) + "\n")
    return known


Series = dict[int, Seconds]
"""Number of items, or of checkpoints -> what was measured."""


def series(known: Mapping[str, Seconds]) -> dict[str, Series]:
    """Return what was measured by name, such as "compare: 57 subjects", each over the number of items."""
    found: dict[str, Series] = {}
    for line in lines(SIZES):
        if (one := known.get(" ".join(map(str, line)))) is not None and (line[0] != "run" or line[2] == 1):
            found.setdefault(": ".join([line[0], *map(str, line[-1:] if len(line) > 2 else ())]), {})[line[1]] = one
    return found


def by_checkpoints(known: Mapping[str, Seconds]) -> dict[str, Series]:
    """Return the runs of 1 to 8 checkpoints, each over their number."""
    at = {kind: {k: known.get(f"run {min(SIZES)} {k} {kind}") for k in CHECKPOINTS} for kind in TASKS}
    return {f"run: {kind}": {k: one for k, one in of.items() if one is not None} for kind, of in at.items()}


def table(found: Mapping[str, Series], names: Sequence[str], unit: str) -> str:
    """Return a table of processor seconds over the number of items or checkpoints.

    Its last columns are of the largest number: the time as a multiple of a proportional one, wall time, and memory.
    """
    from tabulate import tabulate

    found = {title: of for title, of in found.items() if of}
    numbers = sorted({number for of in found.values() for number in of})
    headers = [unit, *(f"{number:,}" for number in numbers), "of proportional", "wall", "peak MB"]
    body = []
    for title, of in found.items():
        for name in names:
            first, last = min(of), max(of)
            grown = of[last][name] * first / max(of[first][name] * last, 1e-9)
            seconds = [f"{of[number][name]:.2f}" if number in of else "" for number in numbers]
            what = f"{title}, {name}" if len(names) > 1 else title
            body.append(
                [what, *seconds, f"{grown:.2f}", f"{of[last][f'{name} wall']:.1f}", f"{of[last]['peak MB']:.0f}"]
            )
    return tabulate(body, headers, "pipe", disable_numparse=True, colalign=["left"] + ["right"] * (len(headers) - 1))


def goals(found: Mapping[str, Series]) -> str:
    """Return a line for each goal: the slowest of what was measured at 100,000 items."""
    told = []
    for name, most in GOALS.items():
        at = {title: of[max(SIZES)] for title, of in found.items() if max(SIZES) in of and name in of[max(SIZES)]}
        if at:
            slowest = max(at, key=lambda title: at[title][name])
            met = "met" if all(one[f"{name} wall"] < most for one in at.values()) else "not seen to be met here"
            used, wall = at[slowest][name], at[slowest][f"{name} wall"]
            told.append(
                f"- {name}, {max(SIZES):,} items, under {most:.0f} s: {met}; the slowest, '{slowest}', took {used:.1f} "
                f"s of processor time, {wall:.1f} s of wall time."
            )
    return "\n".join(told)


def plot(found: Mapping[str, Series], runs: Mapping[str, Series], path: Path) -> None:
    """Draw seconds and memory over the number of items, and seconds over the number of checkpoints."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    panels: list[tuple[str, str, Mapping[str, Series], str]] = [
        ("compare", f"compare of {RECORDS} records, {DRAWS:,} draws: processor s", found, "items"),
        ("run", "run without the model: processor s", found, "items"),
        ("more MB", "memory above what the process had before, MB", found, "items"),
        ("run", f"run of {min(SIZES):,} items: processor s", runs, "checkpoints"),
    ]
    for axes, (name, title, of, over) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for label, one in of.items():
            points = [(number, one[number][name]) for number in sorted(one) if name in one[number]]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=label)
        axes.set(title=title, xlabel=over, xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="xx-small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110, metadata={"Software": None})


def report(known: Mapping[str, Seconds], picture: Path) -> str:
    """Write the plot, and return the figures as Markdown."""
    from benchmarks import report_header
    from vrbench.core.device import processor_name

    found, runs = series(known), by_checkpoints(known)
    plot(found, runs, picture)
    of = {part: {k: v for k, v in found.items() if k.startswith(part)} for part in PARTS}
    parts = [
        "# Growth",
        f"`python -m benchmarks.growth`, {datetime.now(timezone.utc):%Y-%m-%d}, {processor_name()}, {os.cpu_count()} "
        f"cores. {report_header.versions()} Figures are processor seconds of all threads, without imports; 'wall' "
        "is that of the largest number, and longer where other programs ran beside (`run` was measured so, `compare` "
        "of 100,000 was not). 'Of proportional' is the time of the "
        "largest number as a share of what growth in proportion from the smallest would give: 1 or less is linear.",
        goals(found),
        f"![time and memory]({picture.name})",
        f"## `vrbench compare` of {RECORDS} records, one of them the baseline, `--draws {DRAWS}`",
        table(of["compare"], ["compare"], "items"),
        f"## The answer store, {BATCH} answers a transaction",
        "Keys are digests: in a small store the answers of a transaction share pages, in a large one each has its own, "
        f"and at most {BATCH} pages are written.",
        table(of["store"], ["write", "read", "origins"], "items"),
        "## `vrbench run` of one checkpoint without the model (run), and the finished run read again (again)",
        table(of["run"], ["run", "again"], "items"),
        f"## The same of several checkpoints, {min(SIZES):,} items",
        table(runs, ["run", "again"], "checkpoints"),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def main() -> None:
    """Measure one part, or all of them and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--quick", action="store_true", help=f"only {min(SIZES):,} items, into growth-quick.md")
    parser.add_argument("--only", default="", help="measure only lines with this text, such as 'compare 1000 '")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        part, folder, *arguments = json.loads(given.part)
        print(json.dumps(PARTS[part](Path(folder), *arguments)))
        return
    page = REPORT.with_stem("growth-quick") if given.quick else REPORT
    known = measure_all(SIZES[:1] if given.quick else given.sizes, given.only, page.with_suffix(".json"))
    page.write_text(report(known, page.with_suffix(".png")), encoding="utf-8")
    print(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
