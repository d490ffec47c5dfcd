"""What a score is computed on: a tuned checkpoint, what it was tuned from, and what the model looks at (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vrbench.checkpoint import Checkpoint, resolve_backbone
from vrbench.device import chosen_device, device_faults
from vrbench.errors import VrbenchError, sentences

if TYPE_CHECKING:
    from vrbench.surgery.importance import Score
    from vrbench.surgery.measured import Dev


@dataclass
class Subject:
    """A tuned checkpoint and what is needed to measure its layers; each thing is loaded when it is first used.

    Attributes:
        ckpt: the tuned checkpoint.
        base: as the user named it; none for the one that the latest training began with.
        pictures, turns: dev pictures of the pocket world, and questions on each.
        device_name: auto, cpu or cuda.
    """

    ckpt: Checkpoint
    base: Checkpoint | None = None
    pictures: int = 200
    turns: int = 6
    device_name: str = "auto"

    @cached_property
    def device(self) -> str:
        """Either "cpu" or "cuda"."""
        return chosen_device(self.device_name)

    @cached_property
    def tuned_from(self) -> Checkpoint:
        """What the checkpoint's weights are compared with."""
        return self.base or before_tuning(self.ckpt)

    @cached_property
    def vlm(self) -> Any:
        """The tuned model, in float32."""
        from vrbench.models.load import load_vlm

        return load_vlm(self.ckpt, self.device, "float32")

    @cached_property
    def dev(self) -> Dev:
        """Dev pictures, as the tuned model reads them."""
        from vrbench.surgery.measured import dev_of

        return dev_of(self.vlm, self.pictures, self.turns)

    def faults(self, score: Score) -> list[str]:
        """Why a score cannot be computed on it, one sentence each, before weights are loaded."""
        found = device_faults(self.device_name)
        counts = {"pictures": self.pictures, "turns": self.turns}
        found += [f"{name} is {value}; it must be at least 1" for name, value in counts.items() if value < 1]
        if score.needs_base:
            try:
                self.tuned_from  # noqa: B018  # looked for
            except VrbenchError as fault:
                found += sentences(fault)
        return found

    def note(self, score: Score) -> str:
        """On what a score was measured."""
        of = f" against {self.tuned_from.id}" if score.needs_base else ""
        on = f" on {self.pictures} dev pictures with {self.turns} questions each" if score.needs_pictures else ""
        return f"of {self.ckpt.id}{of}{on}"


def before_tuning(ckpt: Checkpoint) -> Checkpoint:
    """The checkpoint that the latest training of decoder layers began with, as the lineage has it.

    Raises:
        VrbenchError: the lineage tells of no such training, or what it began with is not at hand.
    """
    here: Checkpoint | None = ckpt
    while here is not None:
        for line in here.lineage[:1] if here.base else here.lineage:
            if line.base and any(step.kind == "trained" and step.layers != "none" for step in line.steps):
                return here.base or _named(ckpt, line.base.id, here)
        here = here.base
    raise VrbenchError(f"{ckpt.id} does not say what its layers were tuned from; name it with --base")


def _named(ckpt: Checkpoint, name: str, near: Checkpoint) -> Checkpoint:
    try:
        return resolve_backbone(name, near=near.path)
    except VrbenchError as fault:
        raise VrbenchError(
            f"{ckpt.id} was tuned from {name!r}, which is not at hand; name it with --base. {fault}"
        ) from fault
