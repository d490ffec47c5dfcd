"""How much faster the engine is than asking each request alone, or than lm-eval's own model class, in one run.

    python benchmarks/engine.py --data-root DATA [--ckpt pocket/region] [--items 40] [--tasks arc_easy,pocket_mme]

For each task the same items are answered three ways, in turn, `--rounds` times; the best time of each counts:
- engine: beginnings that requests share (a picture, a question, solved examples) computed once;
- unshared: the same batches, each request computed whole;
- HFLM: lm-eval's model class around the same weights (text tasks only).
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

from vrbench import checkpoint, data, registry
from vrbench.engine import answering, harness
from vrbench.models import packing
from vrbench.models.load import load_vlm
from vrbench.provenance import PACKAGES, installed

REPORT = Path(__file__).parent / "results" / "engine.md"


def seconds(spec: registry.TaskSpec, parts: Sequence[harness.Part], vlm: Any, shared: bool) -> float:
    """Wall time of a task with an empty answer store and no features kept."""
    from vrbench.engine.store import AnswerStore

    answering.pack = packing.pack if shared else partial(packing.pack, room=0)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "a.sqlite", "benchmark") as store:
        answerer = answering.Answerer(vlm, store, show_progress=False)
        return timed(lambda: harness.run(spec, parts, answerer))


def reference(spec: registry.TaskSpec, parts: Sequence[harness.Part], vlm: Any) -> float:
    """Wall time of the same items through lm-eval's evaluator and model class, in batches of 16."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from vrbench.engine import lm_eval_adapter

    model = HFLM(pretrained=vlm.model, tokenizer=vlm.tokenizer, batch_size=16)
    names = {p.config: lm_eval_adapter.Task(harness.config_of(spec, p.config), p.rows, spec.fewshot) for p in parts}
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
    of = checkpoint.resolve(given.ckpt)
    vlm = load_vlm(of, "cpu", "float32")
    lines = []
    for spec in registry.resolve(given.tasks, registry.load()):
        parts = harness.used(spec, data.load(spec, given.data_root), given.items, seed=0)
        n = sum(len(part.positions) for part in parts)
        ways: dict[str, Callable[[], float]] = {
            "engine": partial(seconds, spec, parts, vlm, True),
            "unshared": partial(seconds, spec, parts, vlm, False),
        }
        if spec.harness == "lm-eval":
            ways["HFLM"] = partial(reference, spec, parts, vlm)
        times = [{name: way() for name, way in ways.items()} for _ in range(given.rounds)]
        best = {name: min(turn[name] for turn in times) for name in ways}
        told = [f"{n / best['engine']:.1f}", f"{best['unshared'] / best['engine']:.2f}"]
        told.append(f"{best['HFLM'] / best['engine']:.2f}" if "HFLM" in best else "-")
        lines.append(f"| {spec.id} | {n} | {' | '.join(told)} |")
        print(lines[-1], flush=True)
    import torch

    versions = ", ".join(f"{name} {installed(name)}" for name in PACKAGES if installed(name))
    about = f"{of.id}, float32, {torch.get_num_threads()} of {os.cpu_count()} CPU threads, {date.today().isoformat()}."
    command = f"python benchmarks/engine.py --data-root DATA --ckpt {given.ckpt} --items {given.items}"
    command += f" --rounds {given.rounds}"
    table = ["| task | items | items/s | times unshared | times HFLM |", "|---|---|---|---|---|", *lines]
    written = ["# Engine", "", about, "", *table, "", f"`{command} --tasks {given.tasks}`", "", f"{versions}.", ""]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(written), encoding="utf-8")


if __name__ == "__main__":
    main()
