"""Compute how much each decoder layer of a checkpoint matters, by any importance score (no torch until it runs)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.core.errors import VrbenchError, raise_errors, suggest_names
from vrbench.pruning.importance_methods import IMPORTANCE_METHODS
from vrbench.pruning.questions import DevQuestions, Questions
from vrbench.pruning.scoring_context import ScoringContext


@dataclass(frozen=True)
class ImportanceResult:
    """Importance scores of all layers.

    Attributes:
        by: the method's name.
        values: one number a layer, larger for a layer that matters more.
        note: what it was measured on.
    """

    by: str
    values: tuple[float, ...]
    note: str


def importance(
    by: str,
    ckpt: Checkpoint,
    base: Checkpoint | None = None,
    *,
    questions: Questions | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> ImportanceResult:
    """Score each decoder layer of a checkpoint.

    Args:
        by: a key of IMPORTANCE_METHODS.
        ckpt: the tuned checkpoint.
        base: what its weights are compared with; else the checkpoint that its latest training began with.
        questions: for the model to answer; else the method's number of questions on each of 200 dev images.
        device: auto, cpu or cuda.
        dtype: of the model that answers: float32 or bfloat16.

    Raises:
        VrbenchError: the method is unknown, or the checkpoint lacks what it needs; before weights are loaded.
    """
    if by not in IMPORTANCE_METHODS:
        raise VrbenchError(f"score {by!r} is unknown; {suggest_names(by, IMPORTANCE_METHODS)}")
    method = IMPORTANCE_METHODS[by]
    context = ScoringContext(ckpt, base, questions or DevQuestions(200, method.turns), device, dtype)
    raise_errors(context.validate(by, method.needs))
    return score_layers(by, context)


def score_layers(by: str, context: ScoringContext) -> ImportanceResult:
    """Compute a method on a context that was validated for it.

    Raises:
        VrbenchError: a value is not finite, as when the model's own weights are not.
    """
    method = IMPORTANCE_METHODS[by]
    values = tuple(float(value) for value in method.compute(context))
    invalid = [layer for layer, value in enumerate(values) if not math.isfinite(value)]
    if invalid:
        problem = f"{by} of {context.ckpt.id} is not a finite number for layers {invalid}"
        raise VrbenchError(f"{problem}; its weights or hidden states are broken")
    return ImportanceResult(by, values, context.note(method.needs))
