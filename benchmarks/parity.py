"""Are the answers and scores those of the reference harnesses? Exactly which items differ, and by how much.

    python benchmarks/parity.py --data-root DATA [--ckpt pocket/region] [--items 400]

- piqa and arc_easy, float32: log-likelihoods and choices against lm-eval's `HFLM(pretrained=<the same model>)`.
- mme and pocket_mme: scores against `lmms_eval.evaluator.simple_evaluate` over the same answers.

Writes benchmarks/results/parity.md; exits with 1 where something differs by more than is allowed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from vrbench import checkpoint, data, registry
from vrbench.provenance import PACKAGES, installed

ALLOWED = 1e-4
"""Nats by which a log-likelihood in float32 may differ."""

REPORT = Path(__file__).parent / "results" / "parity.md"


@dataclass(frozen=True)
class Line:
    """One task's outcome.

    Attributes:
        figure: what was compared.
        ours, theirs: the score as vrbench and as the harness has it.
        difference: the greatest difference of a log-likelihood in nats, or of a score.
        flips: items whose choice differs.
    """

    task: str
    items: int
    figure: str
    ours: float
    theirs: float
    difference: float
    flips: int
    equal: bool


def text(name: str, parts: Sequence[Any], answerer: Any, batch_size: int = 1) -> Line:
    """A multiple-choice task against lm-eval's own model class around the same weights."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from vrbench.engine import harness, lm_eval_adapter

    spec = registry.load()[name]
    outcome = harness.run(spec, parts, answerer)
    task = lm_eval_adapter.Task(harness.config_of(spec, parts[0].config), parts[0].rows, spec.fewshot)
    vlm = answerer.vlm
    reference = HFLM(pretrained=vlm.model, tokenizer=vlm.tokenizer, batch_size=batch_size)
    theirs = evaluate(reference, {name: task}, bootstrap_iters=0)
    differences, flips = [0.0], 0
    for sample, their in zip(outcome.samples, theirs["samples"][name], strict=True):
        logs = [response[0] for response in their["filtered_resps"]]
        differences += [abs(a - b) for a, b in zip(sample.loglikelihoods, logs, strict=True)]
        flips += sample.loglikelihoods.index(max(sample.loglikelihoods)) != logs.index(max(logs))
    score = theirs["results"][name]["acc,none"]
    equal = max(differences) <= ALLOWED and not flips and outcome.official["acc"] == score
    n = len(outcome.samples)
    return Line(name, n, "log-likelihoods", outcome.official["acc"], score, max(differences), flips, equal)


def visual(name: str, parts: Sequence[Any], answerer: Any) -> list[Line]:
    """A visual task's aggregates against lmms-eval's evaluator, which is given the same answers from the store."""
    from vrbench.engine import harness, lmms_eval_adapter

    spec = registry.load()[name]
    outcome = harness.run(spec, parts, answerer)
    asked = answerer.asked
    task = lmms_eval_adapter.Task(harness.config_of(spec, parts[0].config), parts[0].rows, spec.fewshot)
    theirs = official(task, lmms_eval_adapter.Model(answerer))
    if answerer.asked != asked:
        raise RuntimeError(f"{name}: lmms-eval asked {answerer.asked - asked} other requests")
    n = len(outcome.samples)
    return [
        Line(name, n, figure, ours, theirs[figure], abs(ours - theirs[figure]), 0, ours == theirs[figure])
        for figure, ours in outcome.official.items()
    ]


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


def report(lines: Sequence[Line], of: checkpoint.Checkpoint, command: str) -> str:
    """Markdown: what was compared, with versions and command."""
    rows = [
        f"| {x.task} | {x.items} | {x.figure} | {x.ours:.6f} | {x.theirs:.6f} | {x.difference:.2e} | {x.flips} | "
        f"{'yes' if x.equal else '**no**'} |"
        for x in lines
    ]
    versions = ", ".join(f"{name} {installed(name)}" for name in PACKAGES if installed(name))
    return "\n".join(
        [
            "# Parity with the reference harnesses",
            "",
            f"{of.id} (digest {of.digest[:16]}), float32, {date.today().isoformat()}. Log-likelihoods: lm-eval's HFLM "
            f"around the same model, batch size 1 (it changes by up to 6e-5 with its batch size), difference in nats, "
            f"{ALLOWED:g} allowed. Scores: lmms-eval's simple_evaluate over "
            "the same answers, to be equal exactly.",
            "",
            "| task | items | compared | vrbench | harness | greatest difference | flips | equal |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"`{command}`",
            "",
            versions + ".",
            "",
        ]
    )


def main() -> int:
    """Compare, print and write; returns 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, type=Path)
    parser.add_argument("--ckpt", default="pocket/region")
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--tasks", default="piqa,arc_easy,mme,pocket_mme")
    given = parser.parse_args()
    from vrbench.engine.answering import Answerer
    from vrbench.engine.harness import used
    from vrbench.engine.store import AnswerStore
    from vrbench.models.load import load_vlm

    of = checkpoint.resolve(given.ckpt)
    vlm = load_vlm(of, "cpu", "float32")
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "a.sqlite", of.digest) as store:
        answerer = Answerer(vlm, store)
        for spec in registry.resolve(given.tasks, registry.load()):
            parts = used(spec, data.load(spec, given.data_root), given.items, seed=0)
            compare = text if spec.harness == "lm-eval" else visual
            found = compare(spec.id, parts, answerer)
            lines += found if isinstance(found, list) else [found]
    told = f"--ckpt {shlex.quote(given.ckpt)} --items {given.items} --tasks {given.tasks}"
    written = report(lines, of, f"python benchmarks/parity.py --data-root DATA {told}")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(written, encoding="utf-8")
    print(written)
    return 0 if all(line.equal for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
