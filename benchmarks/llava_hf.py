"""Compare the answers of lmms-eval's own `llava_hf` with vrbench's, for the same weights in float32.

    python benchmarks/llava_hf.py --data-root DATA [--ckpt pocket/region] [--tasks mme] [--items 400] [--device cpu]

The checkpoint is written as a standard LLaVA folder, which `llava_hf` loads itself. Both answer every item (`llava_hf`
one at a time, as it requires), and lmms-eval scores the answers. Writes benchmarks/results/llava_hf.md; exits with 1 if
an answer or a score differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import report_header
from vrbench.data import loading
from vrbench.data.locate import locate
from vrbench.evaluation.built_task import harness_config
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

REPORT = Path(__file__).parent / "results" / "llava_hf.md"


def exported(vlm: Any, folder: Path) -> Path:
    """A pocket model as a plain `LlavaForConditionalGeneration` folder with its processor."""
    from vrbench.models.pocket import save_processor

    vlm.model.save_pretrained(folder)
    save_processor(folder)
    return folder


def theirs(model: Any, task: Any) -> list[str]:
    """llava_hf's answers, one request a call; it takes settings out of a request, so it gets a copy."""
    from lmms_eval.api.instance import Instance
    from tqdm import tqdm

    from vrbench.evaluation.requests import OWN_SETTINGS

    model.task_dict = {task.config.task: task.dataset}
    found = []
    for instance in tqdm(task.instances, desc="llava_hf", unit=" items"):
        context, settings, *rest = instance.args
        copied = Instance(instance.request_type, (context, dict(settings), *rest), instance.idx, instance.metadata)
        (answer,) = model.generate_until([copied])
        for stop in (
            settings["until"] if settings.get(OWN_SETTINGS) else ()
        ):  # a task file's own holds; llava_hf uses none
            answer = answer.split(stop)[0]
        found.append(answer)
    return found


def compare(spec: TaskSpec, parts: Sequence[Any], answerer: Any, reference: Any) -> tuple[str, bool]:
    """One line of the report, and whether answers and scores are equal."""
    from vrbench.evaluation import lmms_eval_adapter

    start = time.perf_counter()
    outcome = evaluate_task(spec, parts, answerer)
    ours_took = time.perf_counter() - start
    task = lmms_eval_adapter.LmmsEvalTask(harness_config(spec, parts[0].config), parts[0].rows, spec.fewshot)
    task.build_all_requests()
    start = time.perf_counter()
    answers = theirs(reference, task)
    took = time.perf_counter() - start
    differ = sum(a.answer != b for a, b in zip(outcome.samples, answers, strict=True))
    scored = evaluate_task(spec, parts, _Said(answerer.vlm, answers))
    equal = not differ and scored.official == outcome.official
    figures = ", ".join(f"{name} {value:.4f}" for name, value in outcome.official.items())
    figures += "" if scored.official == outcome.official else f" (llava_hf: {scored.official})"
    n = len(answers)
    return f"| {spec.id} | {n} | {differ} | {figures} | {n / ours_took:.1f} | {n / took:.1f} |", equal


class _Said:
    """Stands where the engine stands, with answers that are there already."""

    def __init__(self, vlm: Any, answers: Sequence[str]) -> None:
        self.vlm = vlm
        self._answers = answers

    def answer(self, requests: Sequence[Any], title: str = "") -> list[Any]:
        return list(self._answers)


def main() -> int:
    """Ask both, print and write; returns 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--ckpt", default="pocket/region")
    parser.add_argument("--tasks", default="mme")
    parser.add_argument("--items", type=int)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    from lmms_eval.models.simple.llava_hf import LlavaHf

    from vrbench.core.device import device_name
    from vrbench.evaluation.answer_store import AnswerStore
    from vrbench.evaluation.built_task import select_items
    from vrbench.evaluation.engine import InferenceEngine
    from vrbench.models.load import load_vlm

    of = resolve_checkpoint(given.ckpt)
    vlm = load_vlm(of, given.device, "float32")
    lines, all_equal = [], True
    with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "a.sqlite", of.digest) as store:
        plain = exported(vlm, Path(folder) / "plain")
        reference = LlavaHf(pretrained=str(plain), device=given.device, dtype="float32", device_map=given.device)
        for spec in registry.select(given.tasks, registry.load()):
            parts = select_items(spec, loading.load(spec, locate(spec, given.data_root)), given.items, seed=0)
            line, equal = compare(spec, parts, InferenceEngine(vlm, store), reference)
            lines, all_equal = [*lines, line], all_equal and equal
    written = [
        "# The same answers as lmms-eval's llava_hf",
        "",
        f"{of.id} (digest {of.digest[:16]}), float32, {device_name(vlm.device)}, {date.today().isoformat()}. "
        "llava_hf answers one at a time from a plain LLaVA folder of the same weights.",
        "",
        "| task | items | answers that differ | scores | items/s | items/s of llava_hf |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
        f"`{report_header.command()}`",
        "",
        report_header.versions(),
        "",
    ]
    REPORT.write_text("\n".join(written), encoding="utf-8")
    print("\n".join(written))
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main())
