"""The sections of a recipe: which data, and what each stage does with them (no torch)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from vrbench.core.schemas import Record

Schedule = Literal["cosine", "linear", "constant"]
Subset = Literal["stratified", "uniform"]


class Section(Record):
    """A part of a recipe."""

    later: ClassVar[tuple[str, ...]] = ()
    """Keys that older recipes do not have."""

    def told(self) -> dict[str, Any]:
        """The values that identify it as JSON: all of them, but for later keys with their defaults."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.later and value == field.default:
                continue
            values[name] = value.told() if isinstance(value, Section) else value
        return values


class Data(Section):
    """Generated pictures, and how many questions on each."""

    later = ("share", "dev")

    scenes: int = Field(gt=0, description="Generated pictures, numbers 0 to scenes-1 of the split 'train'.")
    turns: int = Field(default=6, gt=0, description="Questions a picture; they share its encoding.")
    easy_vqa: float = Field(default=0.0, ge=0, lt=1, description="Share of a batch from easy-VQA's train split.")
    share: float = Field(default=1.0, gt=0, le=1, description="Share of the pictures that is used.")
    dev: int | None = Field(default=None, gt=0, description="Dev pictures measured at the end; else the usual number.")

    @property
    def used(self) -> int:
        """How many of the generated pictures are used."""
        return max(1, round(self.scenes * self.share))

    def extras(self, batch: int) -> int:
        """How many of a step's pictures are easy-VQA's."""
        return round(batch * self.easy_vqa)


class Conversations(Section):
    """A JSON file of conversations in LLaVA's format, and the folder of their pictures."""

    conversations: str = Field(
        description="JSON or JSON lines file, such as llava_v1_5_mix665k.json; '' leaves it to be set."
    )
    images: str = Field(default="", description="Folder that the file's picture names are relative to.")
    share: float = Field(default=1.0, gt=0, le=1, description="Share of the samples that is used; smaller ones nest.")
    subset: Subset = Field(default="stratified", description="The share of each source, or of all alike.")
    length: int = Field(default=2048, gt=0, description="Most tokens a sample; longer ones are cut.")
    pad_square: bool = Field(default=False, description="Pad pictures to a square with the mean colour.")
    most_left_out: float = Field(default=0.01, ge=0, le=1, description="Share of the samples that may be faulty.")


class Hub(Section):
    """A data set of conversations on the hub, or in a data root."""

    hub: str = Field(description="Name of the data set.")
    config: str | None = Field(default=None, description="Its configuration.")
    split: str = Field(default="train", description="Its split; not one that is measured with.")
    revision: str | None = Field(default=None, description="Its revision; pin it.")
    data_root: str = Field(default="", description="Folder with NAME/CONFIG/SPLIT.parquet; else the hub is asked.")
    image: str = Field(default="image", description="Column with the picture, or pictures.")
    turns: str = Field(default="conversations", description="Column with the turns; else there are the next two.")
    question: str = Field(default="question", description="Column with the question.")
    answer: str = Field(default="answer", description="Column with the answer.")
    share: float = Field(default=1.0, gt=0, le=1, description="Share of the samples that is used; smaller ones nest.")
    subset: Subset = Field(default="uniform", description="The share of each source, or of all alike.")
    length: int = Field(default=2048, gt=0, description="Most tokens a sample; longer ones are cut.")
    pad_square: bool = Field(default=False, description="Pad pictures to a square with the mean colour.")
    most_left_out: float = Field(default=0.01, ge=0, le=1, description="Share of the samples that may be faulty.")


KINDS_OF_DATA: dict[str, type[Section]] = {"scenes": Data, "conversations": Conversations, "hub": Hub}
"""The key that a kind of data has and no other -> the kind."""


def kind_of_data(raw: Any) -> str:
    """Which kind of data a section is, by the key that it has."""
    given = raw if isinstance(raw, dict) else raw.model_dump() if isinstance(raw, Record) else {}
    return next((key for key in ("hub", "conversations") if key in given), "scenes")


AnyData = Annotated[
    Annotated[Data, Tag("scenes")] | Annotated[Conversations, Tag("conversations")] | Annotated[Hub, Tag("hub")],
    Discriminator(kind_of_data),
]


class Tower(Section):
    """The vision tower, learned by direct supervision of what lies in each patch; no LLM."""

    later = ("save_every",)

    steps: int = Field(gt=0, description="Optimizer steps.")
    batch: int = Field(gt=0, description="Pictures a step.")
    lr: float = Field(gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's weight decay.")
    noise: float = Field(default=0.05, ge=0, description="Standard deviation of noise added to inputs in [-1, 1].")
    save_every: int = Field(default=500, ge=0, description="Steps between saved states; 0 saves none.")


class Align(Section):
    """The projector on captions, tower and LLM frozen (the paper's stage 1)."""

    later = ("save_every",)

    steps: int = Field(gt=0, description="Optimizer steps.")
    batch: int = Field(gt=0, description="Pictures a step.")
    lr: float = Field(gt=0, description="Peak learning rate of AdamW.")
    save_every: int = Field(default=500, ge=0, description="Steps between saved states; 0 saves none.")


class Tune(Section):
    """Visual instruction tuning of chosen layers and the projector, tower frozen (the paper's stage 2)."""

    later = (
        "tuning", "modules", "sampling", "every", "epochs", "accumulate", "schedule", "weight_decay", "checkpointing",
        "save_every", "beta2",
    )  # fmt: skip

    layers: str = Field(
        description="'all', 'none' (the projector alone), indices such as '0-3,8', a strategy such as "
        "'sparse-uniform:8', or a saved set, FILE.json."
    )
    tuning: Literal["lora", "weights"] = Field(default="lora", description="LoRA on the layers, or all their weights.")
    modules: Literal["all", "attention"] = Field(default="all", description="Which linears of a layer carry LoRA.")
    rank: int | None = Field(default=None, gt=0, description="LoRA rank.")
    alpha: float | None = Field(default=None, gt=0, description="LoRA alpha.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="LoRA dropout.")
    sampling: int | None = Field(
        default=None, gt=0, description="Train so many of the layers at a time, drawn anew every `every` steps (LISA)."
    )
    every: int = Field(default=20, gt=0, description="Steps between two draws of layers.")
    steps: int | None = Field(default=None, gt=0, description="Optimizer steps; either this or `epochs`.")
    epochs: float | None = Field(default=None, gt=0, description="Passes over the data.")
    batch: int = Field(gt=0, description="Samples (pictures with their questions) an optimizer step, all devices.")
    accumulate: int = Field(default=1, gt=0, description="Parts that a step's samples are computed in, one by one.")
    lr: float = Field(gt=0, description="Peak learning rate of the layers.")
    lr_projector: float = Field(ge=0, description="Peak learning rate of the projector; 0 freezes it.")
    schedule: Schedule = Field(default="cosine", description="The rate after the warm-up: to 0, to 0, or as it is.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay, of matrices only.")
    beta2: float = Field(default=0.98, gt=0, lt=1, description="AdamW's decay of the mean of squared gradients.")
    checkpointing: bool = Field(default=False, description="Compute activations twice instead of keeping them.")
    save_every: int = Field(default=200, ge=0, description="Steps between saved states; 0 saves none.")

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer(cls, given: Any) -> Any:
        return str(given) if type(given) is int else given  # as YAML reads `layers: 5`

    @model_validator(mode="after")
    def _goes_together(self) -> Tune:
        found = []
        if (self.steps is None) == (self.epochs is None):
            found.append("tune has either steps or epochs")
        if self.batch % self.accumulate:
            found.append(f"tune.batch is {self.batch}, which tune.accumulate = {self.accumulate} does not divide")
        if self.tuning == "lora" and self.layers.strip() != "none" and (self.rank is None or self.alpha is None):
            found.append("tune.rank and tune.alpha are needed for tuning 'lora'")
        if self.tuning == "weights" and self.modules != "all":
            found.append(f"tune.modules is {self.modules!r}, which goes with tuning 'lora' only")
        if self.layers.strip() == "none" and self.lr_projector == 0:
            found.append("tune.layers is 'none' and tune.lr_projector 0: nothing would be trained")
        if self.layers.strip() == "none" and self.sampling is not None:
            found.append("tune.layers is 'none': there is nothing for tune.sampling to draw from")
        if found:
            raise ValueError("\n".join(found))
        return self

    def steps_for(self, samples: int, extras: int = 0) -> int:
        """Optimizer steps: as stated, or what the epochs come to.

        Args:
            samples: in the data, those of `extras` apart.
            extras: samples of each step that are not among them.
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # as the check above says
        return max(1, math.ceil(self.epochs * samples / (self.batch - extras)))
