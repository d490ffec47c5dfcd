"""Measure what a run costs on the CPU besides the model: from the command to scores, passes giving constants.

    python -m benchmarks.cpu_side --data-root DATA [--work mmlu:570,mmlu:all,mme:all] [--rounds 3]

Each measurement is a process of its own. Its stages, in CPU time (all threads) of an item:
- plan: tasks, data, digests, and the validation of every item; without "start", below;
- build: the harness's requests, their tokens and the digests of prompts and images;
- engine: keys, packing into rows and passes as in 16 bits, the answer store; without what passes compute;
- score: the harness's filters, scores and aggregates;
- result: intervals, warnings, and samples as text.
What does not depend on the items is given in seconds: "start" is the import of the harness and of transformers, and
the validation of the checkpoint's files; "first batch" is everything from the start of the process to the first pass,
except loading the weights. Python's bytecode is cached, as it is once a package has been used. Writes
benchmarks/results/cpu_side.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import report_header
from vrbench.models.memory_budget import GPU_TOKENS

STAGES = ("plan", "build", "engine", "score", "result")
BEGUN = time.perf_counter()
REPORT = Path(__file__).parent / "results" / "cpu_side.md"


class ConstantPasses:
    """Stands for the model's passes in an `InferenceEngine`.

    Attributes:
        stages: name -> CPU seconds; "first batch" is since the start of the process.
    """

    def __init__(self, stages: dict[str, float]) -> None:
        self._stages = stages

    def log_likelihoods(self, vlm: Any, rows: Sequence[Any], targets: Mapping[int, Any]) -> Any:
        """Stand for `LogLikelihoods`."""
        self._note()
        return SimpleNamespace(result=lambda: {number: (-1.0 - number, False) for number in targets})

    def generator(self, vlm: Any, prompts: Any, stops: Mapping[int, Any], budget: Any) -> Iterator[dict[int, str]]:
        """Stand for `AnswerGenerator`."""
        while prompts.next_slots:
            batch = prompts.take(len(prompts.lengths), budget)
            self._note()
            yield dict.fromkeys(batch.prompts, "Yes")

    def _note(self) -> None:
        self._stages.setdefault("first batch", time.process_time() - self._stages["weights"])
        self._stages.setdefault("first batch, wall", time.perf_counter() - BEGUN - self._stages["weights, wall"])


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    stages[name] += time.process_time() - start


def measure(ckpt: str, task: str, items: int | None, data_root: Path, out: Path) -> dict[str, float]:
    """Return stage -> CPU seconds of one run in this process, with the number of its items."""
    stages = dict.fromkeys((*STAGES, "weights"), 0.0)
    from vrbench.core.run_storage import samples_to_jsonl
    from vrbench.evaluation import packed_backend, run_plan, task_result
    from vrbench.evaluation.answer_store import AnswerStore
    from vrbench.evaluation.built_task import adapter_of
    from vrbench.evaluation.engine import InferenceEngine
    from vrbench.evaluation.evaluate import evaluate_task
    from vrbench.evaluation.run_config import RunConfig
    from vrbench.tasks import registry

    adapter_of(registry.load()[task])
    stages["start"] = time.process_time()
    resolve = run_plan._resolve

    def resolve_timed(*arguments: Any) -> Any:
        with _timed(stages, "start"):
            return resolve(*arguments)

    run_plan._resolve, before = resolve_timed, stages["start"]
    with _timed(stages, "plan"):
        planned = run_plan.plan([ckpt], task, RunConfig(limit=items, data_root=data_root, device="cpu", out=out))
    stages["plan"] -= stages["start"] - before
    from vrbench.models import generation
    from vrbench.models.load import load_vlm

    begun = time.perf_counter()
    with _timed(stages, "weights"):
        vlm = load_vlm(planned.checkpoints[0], "cpu", "bfloat16")
    stages["weights, wall"] = time.perf_counter() - begun
    passes, (one,) = ConstantPasses(stages), planned.tasks
    packed_backend.LogLikelihoods = passes.log_likelihoods  # type: ignore[misc, assignment]
    generation.AnswerGenerator = passes.generator  # type: ignore[misc, assignment]
    with AnswerStore(out / "answers.sqlite", "cpu side") as store:
        engine = InferenceEngine(vlm, store, show_progress=False)
        engine._budget.pass_tokens = GPU_TOKENS
        answer = engine.answer

        def answer_timed(*arguments: Any) -> Any:
            stages["build"] += time.process_time()
            with _timed(stages, "engine"):
                answers = answer(*arguments)
            stages["score"] -= time.process_time()
            return answers

        vars(engine)["answer"] = answer_timed
        stages["build"] -= time.process_time()
        scores = evaluate_task(one.spec, one.subtasks, engine)
        stages["score"] += time.process_time()
    with _timed(stages, "result"):
        task_result.score_fields(one, scores, seed=0)
        task_result.answer_fields(one.spec.scorer, scores.samples, engine.truncated, vlm.context_length)
        samples_to_jsonl(scores.samples)
    return {**stages, "items": len(scores.samples)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--ckpt", default="pocket/region")
    parser.add_argument("--work", default="mmlu:570,mmlu:all,mme:all", help="tasks, each with its number of items")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help="measure once in this process and print JSON")
    given = parser.parse_args()
    if given.one:
        task, items = given.work.split(":")
        with tempfile.TemporaryDirectory() as out:
            limit = None if items == "all" else int(items)
            print(json.dumps(measure(given.ckpt, task, limit, given.data_root, Path(out))))
        return
    cached = tempfile.TemporaryDirectory()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": cached.name}
    lines = []
    for work in given.work.split(","):
        command = [sys.executable, "-m", "benchmarks.cpu_side", "--one", "--work", work, "--ckpt", given.ckpt]
        command += ["--data-root", str(given.data_root)]
        done = [
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
            for _ in range(given.rounds + 1)
        ]
        rounds = [json.loads(printed.splitlines()[-1]) for printed in done[1:]]  # the first compiles
        median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        n = int(median["items"])
        each = [1000 * median[stage] / n for stage in STAGES]
        figures = " | ".join(f"{value:.3f}" for value in (*each, sum(each)))
        seconds = " | ".join(f"{median[name]:.1f}" for name in ("start", "first batch", "first batch, wall"))
        lines.append(f"| {work.split(':')[0]} | {n:,} | {figures} | {seconds} |")
        print(lines[-1], flush=True)
    header = f"| task | items | {' | '.join(STAGES)} | sum | start, s | first batch, s | first batch, wall s |"
    about = f"{given.ckpt}, milliseconds of CPU time an item, median of {given.rounds} processes; "
    about += f"{os.cpu_count()} CPU cores, {date.today().isoformat()}. See `benchmarks/cpu_side.py` for the stages."
    table = [header, "|---" * (len(STAGES) + 6) + "|", *lines]
    written = ["# CPU side of a run", "", about, "", *table, "", f"`{report_header.command()}`", ""]
    REPORT.write_text("\n".join([*written, report_header.versions(), ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
