"""How much each decoder layer of a tuned model matters: every score by name, and the one way to compute any of them.

Nothing here imports torch until a score is computed. A score's equation stands in the docstring of its function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.core.errors import VrbenchError, raise_errors, suggest_names
from vrbench.pruning.questions import DESCRIBE, DevQuestions, FolderQuestions, Questions

if TYPE_CHECKING:
    from vrbench.checkpoints.resolve import Checkpoint
    from vrbench.pruning.scoring_context import Subject


@dataclass(frozen=True)
class Measured:
    """What a score gave.

    Attributes:
        by: the score's name.
        values: one number a layer, larger for a layer that matters more.
        note: on what it was measured.
    """

    by: str
    values: tuple[float, ...]
    note: str


@dataclass(frozen=True)
class Score:
    """One way to say how much each layer matters.

    Attributes:
        compute: what is measured -> one number a layer, larger for a layer that matters more.
        what: one line for a list.
        needs_base: whether it compares weights with those before the tuning.
        needs_pictures: whether it looks at the model at work on pictures.
        needs_image_tokens: whether pictures have to be tokens of the text.
        needs_answers: whether it needs the right answers too, which a user's own pictures do not have.
        needs_adapter: whether it needs a checkpoint that is a LoRA adapter.
        turns: questions on each dev picture where none are named; fewer where each costs more.
    """

    compute: Callable[[Subject], Sequence[float]]
    what: str
    needs_base: bool = False
    needs_pictures: bool = False
    needs_image_tokens: bool = False
    needs_answers: bool = False
    needs_adapter: bool = False
    turns: int = 6

    @property
    def needs(self) -> str:
        """What it needs, in words."""
        found = {
            "a tuned checkpoint": not self.needs_adapter, "a LoRA checkpoint": self.needs_adapter,
            "its base": self.needs_base, "pictures": self.needs_pictures and not self.needs_answers,
            "pictures with answers": self.needs_answers,
        }  # fmt: skip
        return ", ".join(name for name, needed in found.items() if needed)


def _attention(subject: Subject) -> Sequence[float]:
    from vrbench.pruning.attention import image_attention

    return image_attention(subject.samples)


def _change(subject: Subject) -> Sequence[float]:
    from vrbench.pruning.weight_distances import change_ratios

    return change_ratios(subject.ckpt, subject.tuned_from, subject.device)


def _block_influence(subject: Subject) -> Sequence[float]:
    from vrbench.pruning.influence import block_influence

    return block_influence(subject.samples)


def _multimodal_block_influence(subject: Subject) -> Sequence[float]:
    from vrbench.pruning.influence import multimodal_block_influence

    return multimodal_block_influence(subject.samples)


def _angular(subject: Subject) -> Sequence[float]:
    from vrbench.pruning.angular import angular_distances

    return angular_distances(subject.samples.counting("all"))


def _angular_weights(subject: Subject) -> Sequence[float]:
    from vrbench.pruning.weight_distances import weight_angles

    return weight_angles(subject.ckpt, subject.tuned_from, subject.device)


def _fisher(subject: Subject) -> Sequence[float]:
    from vrbench.pruning.gradients import fisher

    return fisher(subject.samples)


def _taylor(subject: Subject) -> Sequence[float]:
    from vrbench.pruning.gradients import gate_gradients

    return gate_gradients(subject.samples)


def _lora_norm(subject: Subject) -> Sequence[float]:
    from vrbench.pruning.lora_norm import lora_norms

    return lora_norms(subject.ckpt)


SCORES: dict[str, Score] = {
    "attention": Score(
        _attention, "share of attention that text gives to the picture", needs_pictures=True, needs_image_tokens=True
    ),
    "change": Score(_change, "how far tuning moved its weights, ||W' - W|| / ||W||", needs_base=True),
    "block-influence": Score(_block_influence, "1 - cosine of what enters and what leaves it", needs_pictures=True),
    "multimodal-block-influence": Score(
        _multimodal_block_influence, "the same, text and image tokens counted alike",
        needs_pictures=True, needs_image_tokens=True,
    ),
    "angular": Score(_angular, "the angle by which it turns hidden states", needs_pictures=True),
    "angular-weights": Score(_angular_weights, "the angle by which tuning turned its weights", needs_base=True),
    "fisher": Score(
        _fisher, "squared gradient of the answers' loss by its weights",
        needs_pictures=True, needs_answers=True, turns=2,
    ),
    "taylor": Score(
        _taylor, "how fast the answers' loss changes as it fades", needs_pictures=True, needs_answers=True, turns=2
    ),
    "lora-norm": Score(_lora_norm, "size of what its LoRA adds, ||scale B A||", needs_adapter=True),
}  # fmt: skip
"""Name -> score."""


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
) -> Measured:
    """How much each decoder layer of a checkpoint matters.

    Args:
        by: a key of SCORES.
        ckpt: the tuned checkpoint.
        base: what its weights are compared with; else the checkpoint that its latest training began with.
        pictures: how many the model looks at: dev pictures of the pocket world, or at most so many of `images`.
        turns: questions on each dev picture; else the score's own number.
        device: auto, cpu or cuda.
        dtype: of the model at work on pictures: float32 or bfloat16.
        images: a folder with pictures of one's own, instead of dev pictures.
        prompt: what is asked of these.
        seed: of the draw, where the folder has more of them.

    Raises:
        VrbenchError: no such score, or the checkpoint lacks what it needs; told before weights are loaded.
    """
    raise_errors(score_faults(by))
    questions = questions_of(by, pictures, turns, images, prompt, seed)
    subject = subject_of(ckpt, base, questions, device, dtype)
    raise_errors(subject.faults(by, SCORES[by]))
    return measured(by, subject)


def score_faults(by: str) -> list[str]:
    """Why there is no such score, with the nearest; empty when there is."""
    return [] if by in SCORES else [f"score {by!r} is unknown; {suggest_names(by, SCORES)}"]


def questions_of(
    by: str, pictures: int, turns: int | None, images: Path | None, prompt: str = DESCRIBE, seed: int = 0
) -> Questions:
    """What a model is asked for a score; arguments as of `importance`."""
    if images is not None:
        return FolderQuestions(images, pictures, prompt, seed)
    return DevQuestions(pictures, SCORES[by].turns if turns is None else turns)


def subject_of(
    ckpt: Checkpoint, base: Checkpoint | None, questions: Questions, device: str = "auto", dtype: str = "float32"
) -> Subject:
    """What scores are computed on; nothing is loaded yet, and several scores may share it."""
    from vrbench.pruning.scoring_context import Subject

    return Subject(ckpt, base, questions, device, dtype)


def measured(by: str, subject: Subject) -> Measured:
    """A score of each layer of a subject that has no faults for it.

    Raises:
        VrbenchError: a value is no number, as when the model's own weights are none.
    """
    score = SCORES[by]
    values = tuple(float(value) for value in score.compute(subject))
    odd = [layer for layer, value in enumerate(values) if not math.isfinite(value)]
    if odd:
        raise VrbenchError(f"{by} of {subject.ckpt.id} is no number for layers {odd}; its weights or states are broken")
    return Measured(by, values, subject.note(score))
