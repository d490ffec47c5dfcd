"""What a score is computed on: a tuned checkpoint, what it was tuned from, and what the model looks at (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.parameter_names import ADAPTER
from vrbench.checkpoints.resolve import Checkpoint, resolve_backbone
from vrbench.core.device import resolve_device, validate_device
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.schemas import BaseRef, LineageStep
from vrbench.pruning.questions import DevQuestions, FolderQuestions, Questions

if TYPE_CHECKING:
    from vrbench.pruning.importance import Score
    from vrbench.pruning.samples import Samples

DTYPES = ("float32", "bfloat16")
BESIDE_THE_TEXT = ("mllama",)
"""Families that show pictures by cross attention: none of the tokens that their decoder passes on is a picture's."""


@dataclass
class Subject:
    """A tuned checkpoint and what is needed to measure its layers; each thing is loaded when it is first used.

    Attributes:
        ckpt: the tuned checkpoint.
        base: as the user named it; none for the one that the latest training began with.
        questions: what the model is asked about which pictures.
        device_name: auto, cpu or cuda.
        dtype: of the model at work on pictures: float32 or bfloat16.
    """

    ckpt: Checkpoint
    base: Checkpoint | None = None
    questions: Questions = field(default_factory=lambda: DevQuestions(200, 6))
    device_name: str = "auto"
    dtype: str = "float32"

    @cached_property
    def device(self) -> str:
        """Either "cpu" or "cuda"."""
        return resolve_device(self.device_name)

    @cached_property
    def tuned_from(self) -> Checkpoint:
        """What the checkpoint's weights are compared with."""
        return self.base or before_tuning(self.ckpt)

    @cached_property
    def samples(self) -> Samples:
        """The questions, as the tuned model reads them."""
        from vrbench.models.load import load_vlm
        from vrbench.pruning.samples import Samples

        return Samples(load_vlm(self.ckpt, self.device, self.dtype), self.questions)

    def faults(self, by: str, score: Score) -> list[str]:
        """Why a score cannot be computed on it, one sentence each, before weights are loaded."""
        found = validate_device(self.device_name)
        if self.dtype not in DTYPES:
            found.append(f"dtype is {self.dtype!r}; it is one of {', '.join(DTYPES)}")
        if score.needs_pictures:
            found += self.questions.faults()
            found += self._picture_faults(by, score)
        if score.needs_base:
            try:
                paired(self.ckpt, self.tuned_from)
            except VrbenchError as fault:
                found += error_messages(fault)
        if score.needs_adapter and not _has_adapter(self.ckpt):
            found.append(f"{by} needs a LoRA adapter, and {self.ckpt.id} has none; 'change' compares any weights")
        return found

    def _picture_faults(self, by: str, score: Score) -> list[str]:
        found = []
        family = self.ckpt.family
        prompt_format = FAMILIES[family].prompt_format if family in FAMILIES else None
        if score.needs_answers and isinstance(self.questions, FolderQuestions):
            found.append(f"{by} needs right answers, which pictures of one's own do not have; leave --images away")
        if score.needs_answers and prompt_format is not None and prompt_format.prefix_lm:
            found.append(f"{by} needs answers to come, but a {family} model sees the answer with the prompt")
        if score.needs_image_tokens and family in BESIDE_THE_TEXT:
            found.append(f"{by} needs image tokens; a {family} model sees by cross attention and has none in its text")
        return found

    def note(self, score: Score) -> str:
        """On what a score was measured."""
        of = f" against {self.tuned_from.id}" if score.needs_base else ""
        on = f" on {self.questions}" if score.needs_pictures else ""
        return f"of {self.ckpt.id}{of}{on}"


def before_tuning(ckpt: Checkpoint) -> Checkpoint:
    """The checkpoint that the latest training of decoder layers, healing apart, began with, as the lineage has it.

    Raises:
        VrbenchError: the lineage tells of no such training, or what it began with is not at hand.
    """
    here: Checkpoint | None = ckpt
    while here is not None:
        for line in here.lineage[:1] if here.base else here.lineage:
            if line.base and any(map(_tunes, line.steps)):
                return here.base or _named(ckpt, line.base, here)
        here = here.base
    raise VrbenchError(f"{ckpt.id} does not say what its layers were tuned from; name it with --base")


def _tunes(step: LineageStep) -> bool:
    return step.kind == "trained" and step.layers != "none" and step.stage != "heal"


def paired(ckpt: Checkpoint, base: Checkpoint) -> list[int]:
    """For each layer of a checkpoint, which of the base's it is, layers that either lost accounted for.

    Raises:
        VrbenchError: they had different depths to begin with, or the base lacks some.
    """
    ours, theirs = ckpt.origins, base.origins
    if ours.first_depth != theirs.first_depth:
        depths = f"{ckpt.id} was made with {ours.first_depth} decoder layers, {base.id} with {theirs.first_depth}"
        raise VrbenchError(f"{depths}; which of them belong together cannot be told")
    absent = [layer for layer, number in enumerate(ours.numbers) if number not in theirs.numbers]
    if absent:
        raise VrbenchError(f"{base.id} lacks layers that {ckpt.id} has: {', '.join(map(str, absent))}")
    return [theirs.numbers.index(number) for number in ours.numbers]


def _named(ckpt: Checkpoint, base: BaseRef, near: Checkpoint) -> Checkpoint:
    told = f"{ckpt.id} was tuned from {base.id!r}, which is not at hand; name it with --base"
    try:
        found = resolve_backbone(base.id, near=near.path)
    except VrbenchError as fault:
        raise VrbenchError(f"{told} ({error_messages(fault)[0]})") from fault
    if base.digest and found.digest != base.digest:
        raise VrbenchError(
            f"{told} (its digest was {base.digest[:12]}, what has this name now has {found.digest[:12]})"
        )
    return found


def _has_adapter(ckpt: Checkpoint) -> bool:
    return ckpt.has(ADAPTER) or (ckpt.base is not None and _has_adapter(ckpt.base))
