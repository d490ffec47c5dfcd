"""How much each decoder layer of a tuned model matters: every score by name, and the one way to compute any of them.

Nothing here imports torch until a score is computed. A score's equation stands in the docstring of its function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vrbench.errors import VrbenchError, raise_all
from vrbench.layers import nearest

if TYPE_CHECKING:
    from vrbench.checkpoint import Checkpoint
    from vrbench.surgery.subject import Subject


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
        needs_answers: whether it needs the right answers too, which a user's own pictures do not have.
        needs_adapter: whether it needs a checkpoint that is a LoRA adapter.
    """

    compute: Callable[[Subject], Sequence[float]]
    what: str
    needs_base: bool = False
    needs_pictures: bool = False
    needs_answers: bool = False
    needs_adapter: bool = False

    @property
    def needs(self) -> str:
        """What it needs beside the tuned checkpoint, in words."""
        found = {
            "its base": self.needs_base, "pictures": self.needs_pictures and not self.needs_answers,
            "pictures with answers": self.needs_answers, "LoRA": self.needs_adapter,
        }  # fmt: skip
        return ", ".join(name for name, needed in found.items() if needed)


def _change(subject: Subject) -> Sequence[float]:
    from vrbench.surgery.weights import change_ratios

    return change_ratios(subject.ckpt, subject.tuned_from, subject.device)


def _angular(subject: Subject) -> Sequence[float]:
    from vrbench.surgery.angular import angular_distances

    return angular_distances(subject.dev)


SCORES: dict[str, Score] = {
    "change": Score(_change, "how far the tuning moved its weights, ||W' - W|| / ||W||", needs_base=True),
    "angular": Score(_angular, "the angle by which it turns hidden states", needs_pictures=True),
}


def importance(
    by: str,
    ckpt: Checkpoint,
    base: Checkpoint | None = None,
    *,
    pictures: int = 200,
    turns: int = 6,
    device: str = "auto",
) -> Measured:
    """How much each decoder layer of a checkpoint matters.

    Args:
        by: a key of SCORES.
        ckpt: the tuned checkpoint.
        base: what its weights are compared with; else the checkpoint that its latest training began with.
        pictures: dev pictures of the pocket world that the model looks at.
        turns: questions on each.
        device: auto, cpu or cuda.

    Raises:
        VrbenchError: no such score, or the checkpoint lacks what it needs; told before weights are loaded.
    """
    from vrbench.surgery.subject import Subject

    if by not in SCORES:
        raise VrbenchError(f"score {by!r} is unknown; {nearest(by, SCORES)}")
    score = SCORES[by]
    subject = Subject(ckpt, base, pictures=pictures, turns=turns, device_name=device)
    raise_all(subject.faults(score))
    return Measured(by, tuple(float(value) for value in score.compute(subject)), subject.note(score))
