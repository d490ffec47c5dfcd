"""Compare answers and scores with the reference harnesses, item by item.

    python benchmarks/parity.py --data-root DATA [--quick] [--ckpt pocket/region]

- Text: log-likelihoods, choices, generated texts and all aggregated metrics against lm-eval's evaluator with
  `HFLM(pretrained=<the same model>)`. HFLM's batch size is 1 by default, since padding changes its log-likelihoods. In
  bfloat16 differences are counted, and are not errors.
- mme and pocket_mme: scores against `lmms_eval.evaluator.simple_evaluate` over the same answers.

Prints a line and writes the report after each task; exits with 1 if a difference exceeds the tolerance. With --work
DIR, an interrupted run resumes. --shares N splits a task with many subtasks into shares, which several runs with
--share K and the same --work can compute in parallel; a run without --share merges them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness_models import LmmsEvalModel
from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.data import loading
from vrbench.evaluation.built_task import harness_config
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks import registry

if __package__ in (None, ""):  # run as a file: the folder's own modules, by their name
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import parity_report, parity_text
from vrbench.core.io import write_atomically
from vrbench.data.locate import locate
from vrbench.tasks.spec import TaskSpec

REPORT = Path(__file__).parent / "results" / "parity.md"

TASKS = "piqa,arc_easy,arc_challenge,mmlu,ceval,cmmlu,bbh,mme,pocket_mme"


@dataclass(frozen=True)
class VisualLine:
    """One figure of a visual task, as vrbench and as lmms-eval have it."""

    task: str
    items: int
    figure: str
    ours: float
    theirs: float

    @property
    def equal(self) -> bool:
        """Whether they are the same number."""
        return self.ours == self.theirs


Line = parity_text.TextLine | VisualLine


def visual(name: str, parts: Sequence[Any], answerer: Any) -> list[VisualLine]:
    """A visual task's aggregates against lmms-eval's evaluator, which is given the same answers from the store."""
    from vrbench.evaluation import lmms_eval_adapter

    spec = registry.load()[name]
    outcome = evaluate_task(spec, parts, answerer)
    asked = answerer.computed
    task = lmms_eval_adapter.LmmsEvalTask(harness_config(spec, parts[0].config), parts[0].rows, spec.fewshot)
    theirs = official(task, LmmsEvalModel(answerer))
    if answerer.computed != asked:
        raise RuntimeError(f"{name}: lmms-eval asked {answerer.computed - asked} other requests")
    n = len(outcome.samples)
    return [VisualLine(name, n, figure, ours, theirs[figure]) for figure, ours in outcome.official.items()]


def official(task: Any, model: Any) -> dict[str, float]:
    """The aggregates of lmms-eval's own evaluator over one task object."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=None, include_defaults=False, model_name="vrbench")
    with tempfile.TemporaryDirectory() as folder:
        args = Namespace(output_path=folder, process_with_media=False, reasoning_tags=None)
        found = simple_evaluate(
            model=model, tasks=[task], task_manager=manager, cli_args=args, log_samples=True, bootstrap_iters=0
        )
    figures: dict[str, Any] = found["results"][task.config.task]
    return {key.split(",")[0]: value for key, value in figures.items() if key.endswith(",none")}


def chosen(spec: TaskSpec, given: Namespace, share: int = 1) -> list[Any]:
    """The items of a task: so many of each part of this share of the parts, else so many in all."""
    from vrbench.evaluation.built_task import select_items

    loaded = loading.load(spec, locate(spec, given.data_root))
    if len(loaded) == 1:
        return select_items(spec, loaded, given.items or None, seed=0)
    each, these = given.items_per_part or None, list(loaded.items())[share - 1 :: given.shares]
    return [part for config, rows in these for part in select_items(spec, {config: rows}, each, seed=0)]


def lines_of(spec: TaskSpec, vlm: Any, of: Checkpoint, given: Namespace, work: Path) -> list[Line]:
    """A task's outcome; that of all its shares together unless one is asked for."""
    if len(spec.data.configs) == 1:
        return share_of(spec, vlm, of, given, work)
    shares = [given.share] if given.share else range(1, given.shares + 1)
    lines: list[Any] = [line for share in shares for line in share_of(spec, vlm, of, given, work, share)]
    return [parity_text.together(lines)]


def share_of(spec: TaskSpec, vlm: Any, of: Checkpoint, given: Namespace, work: Path, share: int = 1) -> list[Line]:
    """The outcome of one share of a task: from the file where it is done already, else computed and put there."""
    from vrbench.evaluation.answer_store import AnswerStore
    from vrbench.evaluation.engine import InferenceEngine

    about = [of.digest, spec.id, given.items, given.items_per_part, given.max_gen_toks, given.batch_size]
    key = parity_report.short_digest([*about, given.answers_at_once, given.dtype, given.device, given.shares, share])
    done, answers = work / f"{spec.id}-{key}.json", work / f"{spec.id}-{key}.sqlite"
    if done.is_file():
        return parity_report.read(done.read_text(encoding="utf-8"), (parity_text.TextLine, VisualLine))
    fresh = not answers.exists()
    with AnswerStore(answers, of.digest) as store:
        answerer = InferenceEngine(vlm, store)
        if spec.harness == "lm-eval":
            from lm_eval.models.huggingface import HFLM

            size = given.answers_at_once if parity_text.generates(spec) else given.batch_size
            model = HFLM(pretrained=vlm.model, tokenizer=vlm.tokenizer, batch_size=size)
            spec = parity_text.limited(spec, given.max_gen_toks)
            lines: list[Line] = [parity_text.compare(spec, chosen(spec, given, share), answerer, model, fresh)]
        else:
            lines = list(visual(spec.id, chosen(spec, given), answerer))
    told = [{"kind": type(line).__name__, **asdict(line)} for line in lines]
    write_atomically(done, json.dumps(told))
    return lines


def arguments(told: Sequence[str] | None = None) -> Namespace:
    """The command line; --quick sets what is left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, type=Path)
    parser.add_argument("--ckpt", default="pocket/region")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--quick", action="store_true", help="few items each of half the subtasks, short answers")
    parser.add_argument("--items", type=int, help="per task without subtasks; 0 for all (default 400; quick 10)")
    parser.add_argument("--items-per-part", type=int, help="per subtask; 0 for all (default 20; quick 1)")
    parser.add_argument("--max-gen-toks", type=int, help="maximum new tokens (default: the task's; quick 48)")
    parser.add_argument("--shares", type=int, help="number of shares of a task's subtasks (default 1; quick 2)")
    parser.add_argument("--share", type=int, help="compute only this share, 1 to --shares (default all; quick 1)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=1, help="of lm-eval's model")
    parser.add_argument("--answers-at-once", type=int, default=1, help="its batch size for generated texts")
    parser.add_argument("--work", type=Path, help="folder of finished parts, to resume from")
    parser.add_argument("--report", type=Path, default=REPORT)
    given = parser.parse_args(told)
    short = {"items": 10, "items_per_part": 1, "max_gen_toks": 48, "shares": 2, "share": 1}
    usual = {"items": 400, "items_per_part": 20, "max_gen_toks": None, "shares": 1, "share": None}
    for name, value in (short if given.quick else usual).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def main() -> int:
    """Compare, print and write; returns 1 where something differs that may not."""
    given = arguments()
    from vrbench.models.load import load_vlm

    of = resolve_checkpoint(given.ckpt)
    vlm = load_vlm(of, given.device, given.dtype)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for spec in registry.select(given.tasks, registry.load()):
            found = lines_of(spec, vlm, of, given, work)
            lines += found
            for line in found:
                print(parity_report.row(line), flush=True)
            write_atomically(given.report, parity_report.report(lines, of, given))
    print(given.report.read_text(encoding="utf-8"))
    return 0 if given.dtype != "float32" or all(line.equal for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
