"""Compute how much each decoder layer of a checkpoint matters, by any importance score (no torch until it runs)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.core.errors import VrbenchError, raise_errors, suggest_names
from vrbench.pruning.importance_methods import IMPORTANCE_METHODS
from vrbench.pruning.questions import DESCRIBE, DevQuestions, FolderQuestions, Questions
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
    pictures: int = 200,
    turns: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    images: Path | None = None,
    prompt: str = DESCRIBE,
    seed: int = 0,
) -> ImportanceResult:
    """Score each decoder layer of a checkpoint.

    Args:
        by: a key of IMPORTANCE_METHODS.
        ckpt: the tuned checkpoint.
        base: what its weights are compared with; else the checkpoint that its latest training began with.
        pictures: number of dev images of the pocket world, or maximum number of `images`.
        turns: questions on each dev image; else the method's own number.
        device: auto, cpu or cuda.
        dtype: of the model that answers: float32 or bfloat16.
        images: a folder with the user's images, instead of dev images.
        prompt: for each of them.
        seed: of the draw, where the folder has more of them.

    Raises:
        VrbenchError: the method is unknown, or the checkpoint lacks what it needs; before weights are loaded.
    """
    if by not in IMPORTANCE_METHODS:
        raise VrbenchError(f"score {by!r} is unknown; {suggest_names(by, IMPORTANCE_METHODS)}")
    context = ScoringContext(ckpt, base, questions_for(by, pictures, turns, images, prompt, seed), device, dtype)
    raise_errors(context.validate(by, IMPORTANCE_METHODS[by].needs))
    return score_layers(by, context)


def questions_for(
    by: str, pictures: int, turns: int | None, images: Path | None, prompt: str = DESCRIBE, seed: int = 0
) -> Questions:
    """Return the questions that a method asks; arguments as in `importance`."""
    if images is not None:
        return FolderQuestions(images, pictures, prompt, seed)
    return DevQuestions(pictures, IMPORTANCE_METHODS[by].turns if turns is None else turns)


def score_layers(by: str, context: ScoringContext) -> ImportanceResult:
    """Compute a method on a context that was validated for it.

    Raises:
        VrbenchError: a value is not finite, as when the model's own weights are not.
    """
    method = IMPORTANCE_METHODS[by]
    values = tuple(float(value) for value in method.compute(context))
    odd = [layer for layer, value in enumerate(values) if not math.isfinite(value)]
    if odd:
        problem = f"{by} of {context.ckpt.id} is not a finite number for layers {odd}"
        raise VrbenchError(f"{problem}; its weights or hidden states are broken")
    return ImportanceResult(by, values, context.note(method.needs))
