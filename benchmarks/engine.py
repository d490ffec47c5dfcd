"""Measure how much faster the engine is than one request at a time, and than lm-eval's own model class.

    python benchmarks/engine.py --data-root DATA [--ckpt pocket/region] [--items 40] [--tasks arc_easy,pocket_mme]

For each task, the same items are answered by each method in turn, `--rounds` times; the best time of each counts:
- engine: as in `vrbench run --dtype float32`;
- unshared (tasks with images): the same batches without prefix sharing, each request with its image;
- shared (text tasks): with prefix sharing, as in bfloat16 (the engine does not use it for text in float32);
- HFLM (text tasks): lm-eval's model class around the same weights, in batches of 16.
Writes benchmarks/results/engine.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import report_header
from vrbench.data import loading
from vrbench.data.locate import locate
from vrbench.evaluation import backends, engine
from vrbench.evaluation.built_task import SubtaskData, harness_config, select_items
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.models import packing
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

WAYS = ("unshared", "shared", "HFLM")
REPORT = Path(__file__).parent / "results" / "engine.md"


def seconds(spec: TaskSpec, parts: Sequence[SubtaskData], vlm: Any, **patched: Any) -> float:
    """Wall time of a task with an empty answer store and no features kept, with other functions in `packed`."""
    from vrbench.evaluation.answer_store import AnswerStore

    with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "a.sqlite", "benchmark") as store:
        answerer = engine.InferenceEngine(vlm, store, show_progress=False)
        with mock.patch.multiple(backends, **patched) if patched else contextlib.nullcontext():
            return timed(lambda: evaluate_task(spec, parts, answerer))


def reference(spec: TaskSpec, parts: Sequence[SubtaskData], vlm: Any) -> float:
    """Wall time of the same items through lm-eval's evaluator and model class, in batches of 16."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from vrbench.evaluation import lm_eval_adapter

    model = HFLM(pretrained=vlm.model, tokenizer=vlm.tokenizer, batch_size=16)
    names = {p.config: lm_eval_adapter.LmEvalTask(harness_config(spec, p.config), p.rows, spec.fewshot) for p in parts}
    with contextlib.redirect_stderr(io.StringIO()):
        return timed(lambda: evaluate(model, names, bootstrap_iters=0))


def timed(action: Callable[[], Any]) -> float:
    """Wall time of an action."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--ckpt", default="pocket/region")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tasks", default="arc_easy,piqa,pocket_mme")
    given = parser.parse_args()
    of = resolve_checkpoint(given.ckpt)
    vlm = load_vlm(of, "cpu", "float32")
    lines = []
    for spec in registry.select(given.tasks, registry.load()):
        parts = select_items(spec, loading.load(spec, locate(spec, given.data_root)), given.items, seed=0)
        n = sum(len(part.positions) for part in parts)
        ways: dict[str, Callable[[], float]] = {"engine": partial(seconds, spec, parts, vlm)}
        if spec.harness == "lm-eval":
            ways["shared"] = partial(seconds, spec, parts, vlm, rows_of_one_length=backends.prefix_shared_rows)
            ways["HFLM"] = partial(reference, spec, parts, vlm)
        else:
            ways["unshared"] = partial(seconds, spec, parts, vlm, pack=partial(packing.pack, max_tokens=0))
        times = [{name: way() for name, way in ways.items()} for _ in range(given.rounds)]
        best = {name: min(turn[name] for turn in times) for name in ways}
        told = [f"{n / best['engine']:.1f}"]
        told += [f"{best[way] / best['engine']:.2f}" if way in best else "-" for way in WAYS]
        lines.append(f"| {spec.id} | {n} | {' | '.join(told)} |")
        print(lines[-1], flush=True)
    import torch

    about = f"{of.id}, float32, {torch.get_num_threads()} of {os.cpu_count()} CPU threads, {date.today().isoformat()}."
    table = [f"| task | items | items/s | {' | '.join(WAYS)} |", "|---" * (3 + len(WAYS)) + "|", *lines]
    table += ["", "Right of items/s: the time that each other way takes, over the engine's."]
    written = ["# Engine", "", about, "", *table, "", f"`{report_header.command()}`", "", report_header.versions(), ""]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(written), encoding="utf-8")


if __name__ == "__main__":
    main()
