"""At which scales the paper's tables can be repeated: what is trained and measured there, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from vrbench.core.errors import VrbenchError, suggest_names

Value = str | int | float | bool


@dataclass(frozen=True)
class StepCosts:
    """Seconds of one card, from which a plan's minutes are estimated.

    Attributes:
        source: how they were come by.
        start: of loading a model, its data and compiling, once a step.
        step: of an optimizer step with no layer tuned, at `batch` samples.
        layer: what each tuned layer adds to it.
        batch: samples of the step that was timed.
        item: of an item that is measured, on the mean.
        dev_pass: of one pass over a model's dev images; scores of layers take one, trying layers takes many.
        profile: of the whole profile at true shapes.
        overlap: how much faster several steps are that share a card than one after the other.
    """

    source: str
    start: float
    step: float
    layer: float
    batch: int
    item: float
    dev_pass: float
    profile: float = 180.0
    overlap: float = 1.0


@dataclass(frozen=True)
class ReproductionFamily:
    """One scale.

    Attributes:
        id: as --family names it.
        recipe: shipped recipe of the model tuned in all layers; all others are made of it with other layers.
        heal: shipped recipe of the short training after a removal, or the same recipe with `heal_keys`.
        base: checkpoint that every training starts from, if no other is given; its layers are the backbone's.
        depth: decoder layers.
        tasks: what is measured.
        text: those of the tasks that need no picture.
        limit: items a task, or None for all.
        trial_tasks: what is measured in a trial.
        dtype: compute type of measuring.
        overrides: recipe keys that differ from the recipe's.
        baselines: other ways to tune less, as rows of the strategies; recipe keys with "__" for the dot.
        batch: samples an optimizer step.
        heal_keys: recipe keys of that training.
        samples: training samples in the recipe's data, if what is trained is an epoch.
        jobs_per_gpu: steps that one card works at together when nothing else is said.
        costs: what it all takes.
    """

    id: str
    recipe: str
    heal: str
    base: str
    depth: int
    tasks: str
    text: str
    limit: int | None
    dtype: str
    costs: StepCosts
    batch: int
    overrides: dict[str, Value] = field(default_factory=dict)
    trial_tasks: str = ""
    heal_keys: dict[str, Value] = field(default_factory=dict)
    baselines: dict[str, dict[str, Value]] = field(default_factory=dict)
    samples: int = 0
    jobs_per_gpu: int = 1


POCKET_STEPS, POCKET_BATCH, POCKET_SCENES, POCKET_LIMIT = 600, 32, 19_200, 300
"""Of a pocket plan whose one seed is to end within 25 minutes of one card; the published weights had 1,600 steps of 64.

More steps of half the batch learn more of the same pictures (benchmarks/results/rates-short.md).
"""

POCKET_TUNING: dict[str, Value] = {"tune.rank": 32, "tune.alpha": 64, "tune.lr": 7.0e-4}
"""Between two rates that were tried on the dev split: at 1e-3 more is seen and much text lost, at 5e-4 neither."""

ATTENTION: dict[str, Value] = {"tune__layers": "all", "tune__modules": "attention"}
"""LoRA on attention alone."""

POCKET_BASELINES: dict[str, dict[str, Value]] = {
    "lisa": {"recipe": "pocket-lisa", "tune__layers": "all", "tune__lr": 3.0e-4},
    "lora-attention": ATTENTION,
    "weights": {"recipe": "pocket-weights", "tune__layers": "all", "tune__lr": 1.0e-4},
    "weights-sparse-uniform": {"recipe": "pocket-weights", "tune__layers": "sparse-uniform:8", "tune__lr": 3.0e-4},
}
"""Whole layers drawn anew during the training (LISA), LoRA on attention alone, and whole layers, at rates of their own.

The rates for weights are, of those tried, the ones that did best on the dev split (benchmarks/results/rates-short.md).
"""

POCKET_COSTS = StepCosts(
    source="four trainings of 1,200 x 32 samples that shared an NVIDIA H200: 170 s with LoRA on all layers, 133 s on "
    "8; one seed of all tables but the profile then took 19.8 card minutes of two H200s, where this says 20.6",
    start=4.0, step=0.042, layer=0.0018, batch=64, item=0.0008, dev_pass=0.4,
)  # fmt: skip

LLAVA_COSTS = StepCosts(
    source="steps of 8 x 768 tokens at the true shape, LoRA r128 with checkpointing, on an NVIDIA H200: 0.921 s with "
    "32 layers, 0.623 s with 8; an item is taken as 0.06 s",
    start=120.0, step=0.524, layer=0.0124, batch=8, item=0.06, dev_pass=60.0,
)  # fmt: skip

BUNNY_COSTS = StepCosts(
    source="steps of 8 x 768 tokens at the true shape, LoRA r128 with checkpointing, on an NVIDIA H200: 0.939 s with "
    "32 layers, 0.631 s with 8, times 1.2 for 729 image tokens; an item is taken as 0.07 s",
    start=120.0, step=0.634, layer=0.0154, batch=8, item=0.07, dev_pass=70.0,
)  # fmt: skip

BIG_BASELINES: dict[str, dict[str, Value]] = {
    "lisa": {"tune__layers": "all", "tune__tuning": "weights", "tune__lr": "2.0e-5"},
    "lora-attention": ATTENTION,
}

BIG_HEALING: dict[str, Value] = {"tune.layers": "all", "tune.lr": "6.0e-5", "data.share": 0.02}
"""A fiftieth of the data at a lower rate, as the pocket family's recipe has it."""

FAMILIES: dict[str, ReproductionFamily] = {
    "pocket": ReproductionFamily(
        id="pocket", recipe="pocket-full", heal="pocket-heal", base="pocket/base", depth=30,
        tasks="pocket", text="pocket_text", limit=POCKET_LIMIT, dtype="float32", costs=POCKET_COSTS,
        batch=POCKET_BATCH, jobs_per_gpu=4,
        overrides={
            "tune.steps": POCKET_STEPS, "tune.batch": POCKET_BATCH, "data.scenes": POCKET_SCENES, **POCKET_TUNING,
        },
        baselines=POCKET_BASELINES, trial_tasks="pocket_mme,pocket_textvqa,pocket_grammar",
    ),
    "llava-1.5-7b": ReproductionFamily(
        id="llava-1.5-7b", recipe="llava-1.5-7b-full", heal="llava-1.5-7b-full", base="checkpoints/llava-1.5-7b-base",
        depth=32, tasks="paper_visual,paper_text", text="paper_text", limit=None, dtype="bfloat16",
        costs=LLAVA_COSTS, batch=128, samples=665_298,
        baselines=BIG_BASELINES, heal_keys=BIG_HEALING,
    ),
    "bunny-llama-3-8b": ReproductionFamily(
        id="bunny-llama-3-8b", recipe="bunny-llama-3-8b-full", heal="bunny-llama-3-8b-full",
        base="checkpoints/bunny-llama-3-8b-base", depth=32, tasks="paper_visual,paper_text", text="paper_text",
        limit=None, dtype="bfloat16", costs=BUNNY_COSTS, batch=128, samples=695_000,
        baselines=BIG_BASELINES, heal_keys=BIG_HEALING,
    ),
}  # fmt: skip


def family_named(name: str) -> ReproductionFamily:
    """Return the family of a name.

    Raises:
        VrbenchError: there is none; the nearest is named.
    """
    if name not in FAMILIES:
        raise VrbenchError(f"no family {name!r}; {suggest_names(name, FAMILIES)}")
    return FAMILIES[name]
