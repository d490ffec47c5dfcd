"""The inputs of an importance score: a tuned checkpoint, its base, and questions about images (no torch)."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from vrbench.checkpoints.checkpoint import ADAPTER, Checkpoint
from vrbench.checkpoints.families import FAMILIES
from vrbench.core.device import resolve_device, validate_device
from vrbench.core.errors import VrbenchError, collect_errors, error_messages
from vrbench.core.schemas import BaseRef, LineageStep
from vrbench.models.resolve import resolve_backbone
from vrbench.pruning.questions import DevQuestions, FolderQuestions, Questions

if TYPE_CHECKING:
    from vrbench.pruning.samples import Samples

Need = Literal["base", "adapter", "images", "image_tokens", "answers"]
"""What a score may need: the weights before tuning, a LoRA adapter, images for the model to process, image tokens in
the text, right answers. The last two include images."""

DTYPES = ("float32", "bfloat16")
CROSS_ATTENTION = ("mllama",)
"""Families that attend to images by cross attention: their decoder has no image tokens."""


@dataclass
class ScoringContext:
    """A tuned checkpoint and what is needed to score its layers; each thing is loaded when it is first used.

    Attributes:
        ckpt: the tuned checkpoint.
        base: as the user named it; else the one that the latest training began with is used.
        questions: for the model to answer.
        device_name: auto, cpu or cuda.
        dtype: of the model that answers: float32 or bfloat16.
    """

    ckpt: Checkpoint
    base: Checkpoint | None = None
    questions: Questions = field(default_factory=lambda: DevQuestions(200, 6))
    device_name: str = "auto"
    dtype: str = "float32"

    @cached_property
    def device(self) -> str:
        """A resolved name, such as "cpu" or "cuda"."""
        return resolve_device(self.device_name)

    @cached_property
    def tuned_from(self) -> Checkpoint:
        """What the checkpoint's weights are compared with."""
        return self.base or before_tuning(self.ckpt)

    @cached_property
    def base_layers(self) -> list[int]:
        """For each layer of the checkpoint, the layer of `tuned_from` that it was tuned from."""
        return paired_layers(self.ckpt, self.tuned_from)

    @cached_property
    def samples(self) -> Samples:
        """The questions, as the tuned model reads them."""
        from vrbench.models.load import load_vlm
        from vrbench.pruning.samples import Samples

        return Samples(load_vlm(self.ckpt, self.device, self.dtype), self.questions)

    def validate(self, method: str, needs: Set[Need]) -> list[str]:
        """Return why a method with some needs cannot be computed here, one message each, before weights are loaded."""
        found = validate_device(self.device_name)
        if self.dtype not in DTYPES:
            found.append(f"dtype is {self.dtype!r}; it is one of {', '.join(DTYPES)}")
        if "images" in needs:
            found += self.questions.validate()
        if "answers" in needs and isinstance(self.questions, FolderQuestions):
            found.append(f"{method} needs right answers, which your own images do not have; omit --images")
        family = self.ckpt.family
        if "answers" in needs and family in FAMILIES and FAMILIES[family].prompt_format.prefix_lm:
            found.append(f"{method} needs the answer to follow, but a {family} model sees the answer with the prompt")
        if "image_tokens" in needs and family in CROSS_ATTENTION:
            found.append(f"{method} needs image tokens; a {family} model uses cross attention and has none in its text")
        if "base" in needs:
            with collect_errors(found):
                _ = self.base_layers
        if "adapter" in needs and adapter_holder(self.ckpt) is None:
            found.append(f"{method} needs a LoRA adapter, and {self.ckpt.id} has none; 'change' compares any weights")
        return found

    def note(self, needs: Set[Need]) -> str:
        """Describe what a method with some needs is measured on."""
        base = f" against {self.tuned_from.id}" if "base" in needs else ""
        return f"of {self.ckpt.id}{base}" + (f" on {self.questions}" if "images" in needs else "")


def before_tuning(ckpt: Checkpoint) -> Checkpoint:
    """Return the checkpoint that the latest training of decoder layers, except healing, began with.

    Raises:
        VrbenchError: the lineage records no such training, or what it began with cannot be found.
    """
    here: Checkpoint | None = ckpt
    while here is not None:
        for line in here.lineage[:1] if here.base else here.lineage:
            if line.base and any(map(_tunes, line.steps)):
                return here.base or _recorded(ckpt, line.base, here)
        here = here.base
    raise VrbenchError(f"{ckpt.id} does not record what its layers were tuned from; name it with --base")


def _tunes(step: LineageStep) -> bool:
    return step.kind == "trained" and step.layers != "none" and step.stage != "heal"


def _recorded(ckpt: Checkpoint, base: BaseRef, near: Checkpoint) -> Checkpoint:
    problem = f"{ckpt.id} was tuned from {base.id!r}, which is not available; name it with --base"
    try:
        found = resolve_backbone(base.id, near=near.path)
    except VrbenchError as error:
        raise VrbenchError(f"{problem} ({error_messages(error)[0]})") from error
    if base.digest and found.digest != base.digest:
        raise VrbenchError(f"{problem} (recorded digest {base.digest[:12]}, {base.id} now has {found.digest[:12]})")
    return found


def paired_layers(ckpt: Checkpoint, base: Checkpoint) -> list[int]:
    """Return, for each layer of a checkpoint, the matching layer of its base; either may have had layers removed.

    Raises:
        VrbenchError: their original depths differ, or the base lacks some of the layers.
    """
    own, base_origins = ckpt.origins, base.origins
    if own.first_depth != base_origins.first_depth:
        depths = f"{ckpt.id} was made with {own.first_depth} decoder layers, {base.id} with {base_origins.first_depth}"
        raise VrbenchError(f"{depths}; their layers cannot be matched")
    absent = [layer for layer, number in enumerate(own.numbers) if number not in base_origins.numbers]
    if absent:
        raise VrbenchError(f"{base.id} lacks layers that {ckpt.id} has: {', '.join(map(str, absent))}")
    return [base_origins.numbers.index(number) for number in own.numbers]


def adapter_holder(ckpt: Checkpoint) -> Checkpoint | None:
    """Return the nearest checkpoint with a LoRA adapter: this one or one below it."""
    here: Checkpoint | None = ckpt
    while here is not None and not here.has(ADAPTER):
        here = here.base
    return here
