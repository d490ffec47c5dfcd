"""Training recipes: what a run does, as a frozen, validated value that is copied into the folder it makes (no torch).

A recipe trains in stages. `tower` and `align` make a new base; `tune` trains an existing checkpoint. The section
`TuneStage` is the one place that describes a tuning strategy: which layers, LoRA or whole weights, and which of them
train at a time. Its keys enter the recipe's digest.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from vrbench.core.io import digest_of
from vrbench.core.schemas import Record

ATTENTION = ("self_attn", "cross_attn", "attn", "attention")
"""Names of a decoder layer's attention module."""

LAYER_SAMPLING, LISA = "layer-sampling", "lisa"
"""Methods of `tune.sampling`."""


PACKED_FAMILIES = ("llava", "llava_next", "llava_onevision", "internvl", "mistral3", "smolvlm", "idefics3")
"""Families of which several samples can share a row: positions are numbers, and attention is causal everywhere."""


class RecipeSection(Record):
    """A part of a recipe."""

    added_later: ClassVar[tuple[str, ...]] = ()
    """Keys that older recipes do not have: they enter the digest only where they differ from their defaults."""

    def digest_content(self) -> dict[str, Any]:
        """Return the JSON value that the digest is computed from."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.added_later and value == field.default:
                continue
            values[name] = value.digest_content() if isinstance(value, RecipeSection) else value
        return values


Share = Annotated[float, Field(gt=0, le=1, description="Share of the samples that is used; smaller shares nest.")]
MaxTokens = Annotated[int, Field(gt=0, description="Maximum tokens of a sample; longer ones are truncated.")]
PadSquare = Annotated[bool, Field(description="Pad images to a square with the mean colour.")]
MaxInvalid = Annotated[float, Field(ge=0, le=1, description="Largest share of the samples that may be invalid.")]
Subset = Annotated[
    Literal["stratified", "uniform"], Field(description="Draw the share from each source, or from all samples alike.")
]
Style = Literal["vrbench", "llava", "visual-region"]
StyleKey = Annotated[
    Style, Field(description="Whose code decides which samples are used, their tokens and their labels.")
]
LabelNewline = Annotated[
    bool, Field(description="Label the line break behind an answer's end token too, as LLaMA-Factory does.")
]
SaveEvery = Annotated[int, Field(ge=0, description="Steps between saved states; 0 saves none.")]
Grouping = Annotated[
    Literal["modality", "none"],
    Field(description="Each step's samples are with images or all without, or any in random order."),
]
Workers = Annotated[
    int | None, Field(ge=0, description="Processes that load samples; none: up to 8 on a GPU, 0 on a CPU.")
]


class GeneratedScenes(RecipeSection):
    """Generated images, with questions on each."""

    added_later = ("share", "dev")

    scenes: int = Field(gt=0, description="Generated images: numbers 0 to scenes-1 of the split 'train'.")
    turns: int = Field(default=6, gt=0, description="Questions for an image; they share its encoding.")
    easy_vqa: float = Field(default=0.0, ge=0, lt=1, description="Share of a batch from easy-VQA's train split.")
    share: Share = 1.0
    dev: int | None = Field(default=None, gt=0, description="Dev images that the result is measured on.")

    @property
    def used(self) -> int:
        """How many of the generated images are used."""
        return max(1, round(self.scenes * self.share))

    def easy_vqa_images(self, batch: int) -> int:
        """Return how many images of a step are easy-VQA's."""
        return round(batch * self.easy_vqa)


class ConversationFile(RecipeSection):
    """A JSON file of conversations in LLaVA's format, and the folder of their images."""

    added_later = ("grouping", "workers", "style", "label_newline")

    conversations: str = Field(
        description="JSON or JSON lines file, such as llava_v1_5_mix665k.json; '' leaves it to be set."
    )
    images: str = Field(default="", description="Folder that the file's image names are relative to.")
    share: Share = 1.0
    subset: Subset = "stratified"
    length: MaxTokens = 2048
    pad_square: PadSquare = False
    most_left_out: MaxInvalid = 0.01
    grouping: Grouping = "modality"
    workers: Workers = None
    style: StyleKey = "vrbench"
    label_newline: LabelNewline = False


class HubConversations(RecipeSection):
    """A data set of conversations on the hub, or in a local mirror of it."""

    added_later = ("grouping", "workers", "style", "label_newline")

    hub: str = Field(description="Name of the data set.")
    config: str | None = Field(default=None, description="Its configuration.")
    split: str = Field(default="train", description="Its split; not one that a task evaluates on.")
    revision: str | None = Field(default=None, description="Its revision; pin it.")
    data_root: str = Field(default="", description="Folder with NAME/CONFIG/SPLIT.parquet; '' downloads from the hub.")
    image: str = Field(default="image", description="Column with the image or images.")
    turns: str = Field(default="conversations", description="Column with the messages, where the set has one.")
    question: str = Field(default="question", description="Column with the question, where there are no messages.")
    answer: str = Field(default="answer", description="Column with the answer, where there are no messages.")
    share: Share = 1.0
    subset: Subset = "uniform"
    length: MaxTokens = 2048
    pad_square: PadSquare = False
    most_left_out: MaxInvalid = 0.01
    grouping: Grouping = "modality"
    workers: Workers = None
    style: StyleKey = "vrbench"
    label_newline: LabelNewline = False


DATA_SECTIONS: dict[str, type[RecipeSection]] = {
    "scenes": GeneratedScenes, "conversations": ConversationFile, "hub": HubConversations,
}  # fmt: skip
"""The key that one kind of data has and no other -> its section."""


def data_kind(raw: Any) -> str:
    """Return the kind of a data section: a key of `DATA_SECTIONS`."""
    given = raw if isinstance(raw, dict) else raw.model_dump() if isinstance(raw, Record) else {}
    return next((key for key in ("hub", "conversations") if key in given), "scenes")


DataSection = Annotated[
    Annotated[GeneratedScenes, Tag("scenes")]
    | Annotated[ConversationFile, Tag("conversations")]
    | Annotated[HubConversations, Tag("hub")],
    Discriminator(data_kind),
]


class AlignStage(RecipeSection):
    """Train the projector on captions, with tower and LLM frozen (the paper's stage 1)."""

    added_later = ("save_every",)

    steps: int = Field(gt=0, description="Optimizer steps.")
    batch: int = Field(gt=0, description="Images in a step.")
    lr: float = Field(gt=0, description="Peak learning rate of AdamW.")
    save_every: SaveEvery = 500


class TowerStage(AlignStage):
    """Train the vision tower to classify the content of each patch; the LLM is not involved."""

    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's weight decay.")
    noise: float = Field(default=0.05, ge=0, description="Standard deviation of noise added to inputs in [-1, 1].")


class TuneStage(RecipeSection):
    """Visual instruction tuning of chosen layers and the projector, with the tower frozen (the paper's stage 2)."""

    added_later = (
        "tuning", "modules", "sampling", "every", "epochs", "accumulate", "schedule", "weight_decay", "checkpointing",
        "save_every", "beta2", "average", "micro_batch", "rslora", "dora", "neftune", "tower", "lr_tower", "compile",
        "attention", "quantize", "packing",
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
    rslora: bool = Field(
        default=False, description="rsLoRA (arXiv 2312.03732): LoRA's factor is alpha / sqrt(rank), not alpha / rank."
    )
    dora: bool = Field(
        default=False, description="DoRA (arXiv 2402.09353): LoRA turns the weights, and their norms are trained too."
    )
    quantize: Literal["none", "nf4"] = Field(
        default="none", description="QLoRA: the layers' frozen linears in 4 bits (nf4), by bitsandbytes."
    )
    neftune: float | None = Field(
        default=None, gt=0, description="NEFTune (arXiv 2310.05914): the alpha of noise added to embeddings of tokens."
    )
    sampling: int | str | None = Field(
        default=None,
        description="Train this many of the layers at a time, redrawn every `every` steps: 'lisa:2' trains embeddings, "
        "final norm and head in every step, as LISA does; 'layer-sampling:2', or the number alone, never does.",
    )
    every: int = Field(default=20, gt=0, description="Steps between two draws of layers.")
    steps: int | None = Field(default=None, gt=0, description="Optimizer steps; either this or `epochs`.")
    epochs: float | None = Field(default=None, gt=0, description="Passes over the data.")
    batch: int = Field(gt=0, description="Samples (images with their questions) in a step, over all devices.")
    accumulate: int = Field(default=1, gt=0, description="Gradient accumulation: parts that a step is computed in.")
    packing: bool = Field(
        default=False, description="Compute the samples of a pass in one row without padding; the result is the same."
    )
    average: Literal["tokens", "micro-batches"] = Field(
        default="tokens",
        description="The loss of a step: the mean over its answer tokens, or over the means of micro-batches.",
    )
    micro_batch: int | None = Field(
        default=None, gt=0, description="Samples of a micro-batch, for `average: micro-batches`."
    )
    lr: float = Field(gt=0, description="Peak learning rate of the layers.")
    lr_projector: float = Field(ge=0, description="Peak learning rate of the projector; 0 freezes it.")
    tower: Literal["none", "lora", "weights"] = Field(
        default="none", description="The vision tower: frozen, LoRA on all its linears (merged at the end), or whole."
    )
    lr_tower: float | None = Field(default=None, gt=0, description="Peak learning rate of the vision tower.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="The rate after the warm-up: it falls to 0, or stays."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay, of matrices only.")
    beta2: float = Field(default=0.98, gt=0, lt=1, description="AdamW's decay of the mean of squared gradients.")
    checkpointing: bool = Field(default=False, description="Recompute activations in the backward pass.")
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="Compile the decoder layers; auto: on a GPU, for 100 steps or more."
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = Field(
        default="auto", description="transformers' name of the decoder's attention; auto: sdpa."
    )
    save_every: SaveEvery = 200

    @field_validator("layers", mode="before")
    @classmethod
    def _single_layer(cls, given: Any) -> Any:
        return str(given) if type(given) is int else given  # as YAML reads `layers: 5`

    @field_validator("compile", mode="before")
    @classmethod
    def _switch(cls, given: Any) -> Any:
        return ("off", "on")[given] if type(given) is bool else given  # as YAML reads `compile: on`

    @field_validator("sampling", mode="before")
    @classmethod
    def _parse_sampling(cls, given: Any) -> int | str | None:
        if given is None:
            return None
        method, _, count = str(given).rpartition(":")
        if method not in (LISA, LAYER_SAMPLING, "") or not count.isdigit() or not int(count):
            raise ValueError(
                f"tune.sampling is {given!r}; write a method and a number of layers, '{LISA}:2' or '{LAYER_SAMPLING}:2'"
            )
        return f"{LISA}:{int(count)}" if method == LISA else int(count)  # a number alone, as older recipes have it

    @model_validator(mode="after")
    def _check_combination(self) -> TuneStage:
        errors = []
        no_layers = self.layers.strip() == "none"
        if (self.steps is None) == (self.epochs is None):
            errors.append("tune needs either steps or epochs")
        if self.batch % self.accumulate:
            errors.append(f"tune.batch is {self.batch}, which is not a multiple of tune.accumulate = {self.accumulate}")
        errors += self._average_errors()
        has_lora = (self.tuning == "lora" and not no_layers) or self.tower == "lora"
        if has_lora and (self.rank is None or self.alpha is None):
            errors.append("tune.rank and tune.alpha are needed for tuning 'lora'")
        if self.tuning == "weights" and self.modules != "all":
            errors.append(f"tune.modules is {self.modules!r}, which needs tuning 'lora'")
        if self.tuning == "weights" and self.quantize != "none":
            errors.append(f"tune.quantize is {self.quantize!r}, which needs tuning 'lora'")
        for option in ("rslora", "dora"):
            if getattr(self, option) and not has_lora:
                errors.append(f"tune.{option} is True, which needs tuning 'lora' of layers, or tower 'lora'")
        if self.packing and self.neftune is not None:
            errors.append(
                "tune.neftune does not go with tune.packing: its noise depends on the length of a row, which packing "
                "changes; leave one of them out"
            )
        if (self.tower == "none") != (self.lr_tower is None):
            errors.append(
                f"tune.tower is {self.tower!r} and tune.lr_tower {self.lr_tower}; a trained tower needs a rate"
            )
        if no_layers and self.lr_projector == 0 and self.tower == "none":
            errors.append("tune.layers is 'none' and tune.lr_projector 0: nothing would be trained")
        if no_layers and self.sampling is not None:
            errors.append("tune.layers is 'none': there are no layers for tune.sampling")
        if self.sampling is None and self.every != type(self).model_fields["every"].default:
            errors.append(f"tune.every is {self.every}, which needs tune.sampling")
        if self.is_lisa and self.tuning != "weights":
            errors.append(f"tune.sampling is {self.sampling!r}, which needs tuning 'weights'")
        if errors:
            raise ValueError("\n".join(errors))
        return self

    def _average_errors(self) -> list[str]:
        if self.average == "tokens":
            needless = f"tune.micro_batch is {self.micro_batch}, which needs tune.average = micro-batches"
            return [] if self.micro_batch is None else [needless]
        if self.micro_batch is None:
            return ["tune.average is 'micro-batches', which needs tune.micro_batch, the number of samples of each"]
        if self.batch % self.micro_batch:
            return [f"tune.batch is {self.batch}, which is not a multiple of tune.micro_batch = {self.micro_batch}"]
        return []

    @property
    def is_lisa(self) -> bool:
        """Whether the LLM's weights outside its layers (embeddings, final norm, head) are trained too."""
        return isinstance(self.sampling, str)

    @property
    def layers_at_a_time(self) -> int:
        """Number of layers that are drawn; 0 without sampling."""
        return int(str(self.sampling or 0).removeprefix(f"{LISA}:"))

    def steps_for(self, samples: int, extra: int = 0) -> int:
        """Return the optimizer steps: as stated, or what the epochs come to.

        Args:
            samples: in the data, without the extra ones.
            extra: samples of each step that are not among them.
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # as the check above says
        return max(1, math.ceil(self.epochs * samples / (self.batch - extra)))

    def adapts(self, name: str) -> bool:
        """Return whether LoRA goes on a linear of a decoder layer, such as 'self_attn.q_proj'."""
        return self.modules == "all" or any(part in ATTENTION for part in name.split("."))


STAGES: dict[str, type[RecipeSection]] = {"tower": TowerStage, "align": AlignStage, "tune": TuneStage}


class PromptSettings(RecipeSection):
    """How conversations are written, where it is not as the base's chat template does it."""

    version: Literal["bunny", "visual-region"] = Field(
        description="Whose template of Bunny-Llama-3: Bunny's has a space behind the system message and each question, "
        "Visual-Region's nothing."
    )

    @property
    def separator(self) -> str:
        """What follows the system message and each question."""
        return " " if self.version == "bunny" else ""


class EvalSettings(RecipeSection):
    """Evaluation of the model while it trains, on items that no result is reported on."""

    tasks: str = Field(description="Ids, suites or globs of tasks, comma-separated.")
    every: int = Field(gt=0, description="Steps between two evaluations; the last step is evaluated too.")
    limit: int | None = Field(default=None, gt=0, description="Most items of a task; none: all.")
    split: str | None = Field(default=None, description="Split to take the items from; none: the task file's.")
    data_root: str = Field(default="", description="Folder of downloaded data sets, as in `vrbench run`.")
    include_path: str = Field(default="", description="Folder with your own task files.")


class TrainRecipe(RecipeSection):
    """One training run: either tower and projector of a new base, or the tuning of layers of an existing one."""

    added_later = ("stage", "warmup_from_zero", "tf32", "prompt", "eval")

    name: str = Field(description="Name of the recipe.")
    makes: str = Field(description="Id of the checkpoint that it makes.")
    base: str = Field(description="Checkpoint (or LLM) that it starts from.")
    stage: Literal["tune", "heal"] = Field(
        default="tune", description="What the lineage calls the tuning: 'heal' after layers were removed."
    )
    seed: int = Field(default=0, ge=0, description="Seed of initial weights and of the order of the data.")
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="Type of the computation and of the written weights; masters are float32."
    )
    warmup: float = Field(default=0.04, ge=0, lt=1, description="Share of the steps with a rising learning rate.")
    warmup_from_zero: bool = Field(
        default=False, description="The first step's rate is 0, as with transformers' schedulers; else one step's rise."
    )
    tf32: bool = Field(default=False, description="TF32 for what is computed in float32, on GPUs that have it.")
    clip: float = Field(default=1.0, gt=0, description="Largest gradient norm.")
    data: DataSection = Field(description="The training data.")
    prompt: PromptSettings | None = Field(default=None, description="The prompts, if not those of the base.")
    tower: TowerStage | None = Field(default=None, description="Stage 'tower'; goes with 'align'.")
    align: AlignStage | None = Field(default=None, description="Stage 'align'.")
    tune: TuneStage | None = Field(default=None, description="Stage 'tune'; stands alone.")
    eval: EvalSettings | None = Field(default=None, description="Evaluation while the stage 'tune' trains.")

    @property
    def digest(self) -> str:
        """sha256 of the recipe's content."""
        return digest_of(self.digest_content())

    def text(self) -> str:
        """Return the recipe as YAML, as it is copied into the folder."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)

    def unset_paths(self) -> list[str]:
        """Return an error for each path that the recipe leaves to the user to set."""
        needed = {"base": (self.base, "the checkpoint folder to tune")}
        if isinstance(self.data, ConversationFile):
            needed["data.conversations"] = (self.data.conversations, "a JSON file in LLaVA's layout")
        return [
            f"recipe {self.name} does not set {key}: {what}; give --set {key}=PATH"
            for key, (value, what) in needed.items()
            if not value
        ]
