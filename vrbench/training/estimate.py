"""What a tuning will need, before any weights are loaded: memory and time, as the dry run prints them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.llava_shapes import POCKET_VISION
from vrbench.checkpoints.model_config import may_tie_head
from vrbench.checkpoints.overlay_validation import checkpoint_shapes
from vrbench.checkpoints.parameter_names import HEAD
from vrbench.core.device import count_gpus
from vrbench.core.layers import LayerSet
from vrbench.training.conversations import Conversation
from vrbench.training.cost import Rows, TuneCost, peak_memory
from vrbench.training.gpu_peaks import peak_flops
from vrbench.training.recipe import GeneratedScenes, TrainRecipe

ASSUMED_SHARE = 0.4
"""Assumed FLOP/s over the GPU's peak; 0.27 to 0.50 in the 32 training rows of leaderboards/reproduce/pocket."""

OTHER_GPUS = ("NVIDIA H100", "NVIDIA A100")
"""GPUs that the time is estimated for where there is none."""

WORD_TOKENS = 1.4  # tokens of a word of English, punctuation included, with the tokenizers of Llama and Qwen
IMAGE_TOKENS = 576  # of an image where the tower's positions do not say it
TURN_TOKENS = 37  # of a question and answer on a generated image, with its frame
GIB = 1 << 30


def tune_cost(recipe: TrainRecipe, base: Checkpoint, layers: LayerSet) -> TuneCost:
    """Return the cost of a recipe's steps, from the stored shapes alone."""
    assert recipe.tune is not None
    size = 2 if recipe.dtype == "bfloat16" else 4
    shapes = checkpoint_shapes(base)
    if may_tie_head(base.root.path):
        shapes.pop(HEAD, None)  # the embedding, stored once more
    return TuneCost(shapes, base.family, layers, recipe.tune, size)


def batch_flops(
    recipe: TrainRecipe, cost: TuneCost, samples: Sequence[Conversation]
) -> Callable[[int, int, int], float]:
    """Return (rows, their tokens, labelled ones) -> FLOPs that a step needs, with as many images as samples have."""
    mean = _rows(recipe, cost, samples)[1]

    def flops(rows: int, tokens: int, labelled: int) -> float:
        return cost.flops(Rows(rows, 1, tokens / rows, labelled / tokens, mean.image_tokens)).needed

    return flops


def describe(recipe: TrainRecipe, cost: TuneCost, samples: Sequence[Conversation], steps: int) -> list[str]:
    """Return lines on memory and time.

    Args:
        recipe: with a section `tune`.
        cost: of its steps.
        samples: conversations that it uses; none where images are generated.
        steps: of the training.
    """
    longest, mean = _rows(recipe, cost, samples)
    parts = cost.memory(longest)
    gib = {name: f"{value / GIB:.3g} {name}" for name, value in parts.items()}
    either = f"and {gib.pop('gradients')} or {gib.pop('activations')}, whichever is more"
    flops = cost.flops(mean)
    return [
        f"memory, estimated: {peak_memory(parts) / GIB:.3g} GiB on one device ({', '.join(gib.values())}, {either}), "
        f"with {longest.rows} rows of {longest.tokens:,.0f} tokens",
        f"time, estimated: {flops.computed / 1e12:,.1f} TFLOP a step, with rows of {mean.tokens:,.0f} tokens"
        + _times(flops.computed * steps, recipe.dtype),
    ]


def _times(flops: float, dtype: str) -> str:
    """Return the time of a training on the GPU that is here, or on others, as the end of a sentence."""
    import torch

    here = [torch.cuda.get_device_name(0)] if count_gpus() else list(OTHER_GPUS)
    peaks = {name: peak for name in here if (peak := peak_flops(name))}
    if not peaks or dtype != "bfloat16":
        return ""
    of = ", ".join(f"{duration(flops / (ASSUMED_SHARE * peak))} on one {name}" for name, peak in peaks.items())
    return f"; {of}, at {ASSUMED_SHARE:.0%} of its peak"


def duration(seconds: float) -> str:
    """Return a time as days and hours, hours and minutes, or minutes and seconds: '3 h 20 min'."""
    whole = round(seconds)
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {below}"
    return f"{whole // 60} min {whole % 60} s"


def _rows(recipe: TrainRecipe, cost: TuneCost, samples: Sequence[Conversation]) -> tuple[Rows, Rows]:
    """Return a step's rows at their longest, for memory, and at their mean, for time; half of a text is answers."""
    tune = recipe.tune
    assert tune is not None
    if isinstance(recipe.data, GeneratedScenes):
        patches = (POCKET_VISION["image_size"] // POCKET_VISION["patch_size"]) ** 2
        images, text = float(patches), float(TURN_TOKENS * recipe.data.turns)
        longest = mean = images + text
    else:
        longest = float(recipe.data.length)
        images = (cost.image_tokens or IMAGE_TOKENS) * sum(len(sample.images) for sample in samples) / len(samples)
        text = WORD_TOKENS * sum(sample.words for sample in samples) / len(samples)
        mean = min(longest, images + text)
    labelled = 0.5 * text / (images + text)
    rows = tune.batch // tune.accumulate
    return Rows(rows, tune.accumulate, longest, labelled, images), Rows(rows, tune.accumulate, mean, labelled, images)
