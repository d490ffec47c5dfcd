"""Scorers: what made-up answers to made-up documents are worth."""

from __future__ import annotations

from typing import Any
from zlib import crc32

from benchmarks import answer_variants, documents, scorers
from tests.fingerprints.made import Says, parts_of, small_llava
from vrbench.evaluation.built_task import SubtaskData
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.requests import GenerationRequest, Request
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

TEXTS = {
    "exact_match": "gsm8k", "multiple_choice": "arc_easy", "multiple_choice_norm": "hellaswag",
    "mc2": "truthfulqa_mc2", "last_word": "lambada", "perplexity": "pocket_docs",
}  # fmt: skip
"""Scorer of lm-eval's tasks -> a task that it scores."""

HELD = list(dict.fromkeys([*TEXTS, *(registry.load()[task].scorer for task in documents.SETS)]))
"""Scorers of shipped tasks; tests/tasks/test_entries.py holds every scorer to the examples in its own entry."""


def scorer(name: str) -> Any:
    """Marks of answers in many dresses; of text tasks, of likelihoods and texts that are drawn from the request."""
    visual = [task for task in documents.SETS if registry.load()[task].scorer == name]
    found = []
    for task in visual[:2]:
        spec, parts = parts_of(task)
        rows = parts[0].rows[spec.data.split]
        bare = rows.remove_columns([column for column in spec.data.images if column in rows.column_names])
        said = iter(answer_variants.answers(task, list(bare)))
        found.append(_marks(spec, parts[:1], Says(scorers.Prompts(), lambda _, said=said: next(said))))
    if name in TEXTS:
        found.append(_marks(*parts_of(TEXTS[name]), Says(small_llava(), drawn)))
    return found


def _marks(spec: TaskSpec, parts: list[SubtaskData], says: Any) -> Any:
    outcome = evaluate_task(spec, parts, says)
    marks = [[s.id, s.cluster, s.group, s.unit, round(s.score, 6), s.weight, s.answer, s.target, s.unscored]
             for s in outcome.samples]  # fmt: skip
    return [marks, {name: round(value, 6) for name, value in outcome.official.items()}]


def drawn(request: Request) -> Any:
    """A text or a log-likelihood that depends on the request alone."""
    if isinstance(request, GenerationRequest):
        place = crc32(request.prompt.encode())
        return ("#### 1,000", "So 1000.\n#### 1001.", "It costs $1,002.", "none", "")[place % 5]
    place = crc32(repr((request.context, request.continuation)).encode())
    return -(place % 1000) / 50, place % 3 == 0
