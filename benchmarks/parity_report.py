"""What parity.py found, as Markdown."""

from __future__ import annotations

import hashlib
import json
import platform
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from datetime import date
from typing import Any

from benchmarks import report_header
from benchmarks.parity_text import ALLOWED, TextLine
from vrbench.checkpoints.checkpoint import Checkpoint

TEXT_HEAD = [
    "| task | items | parts | vrbench | lm-eval | greatest difference | answers that differ | texts that differ | "
    "figures that differ | seconds vrbench | seconds lm-eval | equal |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
]
VISUAL_HEAD = ["| task | items | figure | vrbench | lmms-eval | equal |", "|---|---|---|---|---|---|"]


def short_digest(told: Any) -> str:
    """Some characters that stand for a JSON value."""
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def read(text: str, kinds: Sequence[type]) -> list[Any]:
    """Lines from the JSON that they were written as."""
    by_name = {kind.__name__: kind for kind in kinds}
    lines = []
    for told in json.loads(text):
        kind = by_name[told.pop("kind")]
        values = {f.name: tuple(told[f.name]) if isinstance(told[f.name], list) else told[f.name] for f in fields(kind)}
        lines.append(kind(**values))
    return lines


def row(line: Any) -> str:
    """One line as a row of its table."""
    equal = "yes" if line.equal else "**no**"
    if not isinstance(line, TextLine):
        return f"| {line.task} | {line.items} | {line.figure} | {line.ours:.6f} | {line.theirs:.6f} | {equal} |"
    difference = "-" if line.difference is None else f"{line.difference:.2e}"
    texts = "-" if line.generations is None else str(line.generations)
    figures = f"{len(line.unequal)} of {line.figures}"
    ours, theirs = (f"{s:.0f}" if s else "-" for s in line.seconds)
    return (
        f"| {line.task} | {line.items} | {line.parts} | {line.ours:.6f} | {line.theirs:.6f} | {difference} | "
        f"{line.flips} | {texts} | {figures} | {ours} | {theirs} | {equal} |"
    )


def report(lines: Sequence[Any], of: Checkpoint, given: Namespace) -> str:
    """Markdown: what was compared, with versions and command."""
    text = [line for line in lines if isinstance(line, TextLine)]
    visual = [line for line in lines if not isinstance(line, TextLine)]
    told = ["# Parity with the reference harnesses", "", _about(of, given), ""]
    if text:
        told += ["## Text", "", _about_text(text, given), "", *TEXT_HEAD, *map(row, text), ""]
    if visual:
        told += ["## Vision", "", "Scores: lmms-eval's simple_evaluate over the same answers, to be equal exactly.", ""]
        told += [*VISUAL_HEAD, *map(row, visual), ""]
    return "\n".join([*told, f"`{report_header.command()}`", "", report_header.versions(), ""])


def _about(of: Checkpoint, given: Namespace) -> str:
    return f"{of.id} (digest {of.digest[:16]}), {given.dtype} on {_device(given.device)}, {date.today().isoformat()}."


def _about_text(lines: Sequence[TextLine], given: Namespace) -> str:
    other = f", {given.answers_at_once} where texts are generated" if given.answers_at_once != given.batch_size else ""
    told = (
        f"lm-eval's evaluator with `HFLM(pretrained=<the same model>, batch_size={given.batch_size})`{other}. "
        f"Log-likelihoods: difference in nats, {ALLOWED:g} allowed in float32. "
        "Answers: the option chosen, or the generated text as lm-eval's filter leaves it; texts: before the filter. "
        "Figures: each metric of each subject and of the group."
    )
    if given.max_gen_toks:
        told += (
            f" Generated answers end after {given.max_gen_toks} tokens on both sides, not after the task's own number."
        )
    if given.dtype != "float32":
        told += " In bfloat16 sums depend on their order, so differences are counted and are no fault."
    timed = [line for line in lines if all(line.seconds)]
    if timed:
        ours, theirs = (sum(line.seconds[i] for line in timed) for i in (0, 1))
        told += f" Seconds of both sides together: {ours:.0f} and {theirs:.0f}, a ratio of {theirs / ours:.2f}."
    return told


def _device(name: str) -> str:
    if name != "cuda":
        return f"{name} ({platform.machine()})"
    import torch

    return torch.cuda.get_device_name()
