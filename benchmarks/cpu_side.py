"""Measure what a run costs on the CPU besides the model: from the command to scores, answers being constants.

    python benchmarks/cpu_side.py --data-root DATA [--work mmlu:570,mmlu:all,mme:all] [--rounds 3]

Each measurement is a process of its own. Its stages, in CPU time (all threads) of an item:
- plan: tasks, data, digests, and the validation of every item; without "start", below;
- build: the harness's requests, their tokens and the digests of prompts and images;
- key: truncation to the context, and the keys of stored answers;
- score: the harness's filters, scores and aggregates;
- result: intervals, warnings, and samples as text.
What does not depend on the items is given in seconds: "start" is the import of the harness and of transformers, and
the validation of the checkpoint's files; "first batch" is everything from the start of the process to the first answer
that the model would compute, except loading the weights. Writes benchmarks/results/cpu_side.md.
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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import report_header

STAGES = ("plan", "build", "key", "score", "result")
REPORT = Path(__file__).parent / "results" / "cpu_side.md"


class ConstantAnswers:
    """Stands for the inference engine: does what it does with requests, but for the model's passes.

    Attributes:
        stages: name -> CPU seconds; "first batch" is since the start of the process.
    """

    def __init__(self, vlm: Any, stages: dict[str, float]) -> None:
        from vrbench.evaluation.requests import answer_conditions

        self.vlm, self.stages, self.truncated = vlm, stages, Counter[Any]()
        self._conditions = answer_conditions(vlm)

    def answer(self, requests: Sequence[Any], title: str = "") -> list[Any]:
        """Return a response to each request: its length as a log-likelihood, or a text."""
        from vrbench.evaluation.requests import LogLikelihoodRequest, truncate_request

        self.stages["build"] += time.process_time()
        with _timed(self.stages, "key"):
            keys = [truncate_request(self.vlm, request)[0].key(self._conditions) for request in requests]
            assert len(set(keys)) > len(keys) // 2
        self.stages["first batch"] = time.process_time() - self.stages.pop("weights")
        answers = [
            (-float(int(key[:6], 16)), False) if isinstance(request, LogLikelihoodRequest) else "Yes"
            for request, key in zip(requests, keys, strict=True)
        ]
        self.stages["score"] -= time.process_time()
        return answers


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    stages[name] += time.process_time() - start


def measure(ckpt: str, task: str, items: int | None, data_root: Path, out: Path) -> dict[str, float]:
    """Return stage -> CPU seconds of one run in this process, with the number of its items."""
    stages = dict.fromkeys((*STAGES, "weights"), 0.0)
    from vrbench.core.run_storage import samples_to_jsonl
    from vrbench.evaluation import run_plan, task_result
    from vrbench.evaluation.built_task import adapter_of
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
    from vrbench.models.load import load_vlm

    with _timed(stages, "weights"):
        vlm = load_vlm(planned.checkpoints[0], "cpu", "float32")
    ((one,), engine) = planned.tasks, ConstantAnswers(vlm, stages)
    stages["build"] -= time.process_time()
    scores = evaluate_task(one.spec, one.subtasks, engine)  # type: ignore[arg-type]
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
    lines = []
    for work in given.work.split(","):
        command = [sys.executable, "-m", "benchmarks.cpu_side", "--one", "--work", work, "--ckpt", given.ckpt]
        command += ["--data-root", str(given.data_root)]
        rounds = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            for _ in range(given.rounds)
        ]
        median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        n = int(median["items"])
        each = [1000 * median[stage] / n for stage in STAGES]
        figures = " | ".join(f"{value:.3f}" for value in (*each, sum(each)))
        seconds = f"{median['start']:.1f} | {median['first batch']:.1f}"
        lines.append(f"| {work.split(':')[0]} | {n:,} | {figures} | {seconds} |")
        print(lines[-1], flush=True)
    header = f"| task | items | {' | '.join(STAGES)} | sum | start, s | first batch, s |"
    about = f"{given.ckpt}, milliseconds of CPU time an item, median of {given.rounds} processes; "
    about += f"{os.cpu_count()} CPU cores, {date.today().isoformat()}. See `benchmarks/cpu_side.py` for the stages."
    table = [header, "|---" * (len(STAGES) + 5) + "|", *lines]
    written = ["# CPU side of a run", "", about, "", *table, "", f"`{report_header.command()}`", ""]
    REPORT.write_text("\n".join([*written, report_header.versions(), ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
