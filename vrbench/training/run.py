"""What a training begins with, judged before a weight is loaded, and what it would do, said without doing it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vrbench.checkpoints.lineage import MARKER
from vrbench.checkpoints.random_shapes import RECIPE
from vrbench.checkpoints.resolve import Checkpoint, resolve
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import validate_output
from vrbench.core.layers import LayerSet, select_layers
from vrbench.training.conversation_sets import Samples, share_of
from vrbench.training.reading import read
from vrbench.training.recipe import GeneratedScenes, TrainRecipe, TuneStage

ATTENTION = ("self_attn", "cross_attn", "attn", "attention")
"""What the attention of a decoder layer is called."""


@dataclass(frozen=True)
class Start:
    """What a tuning begins with, found whole before a weight is loaded.

    Attributes:
        base: what is tuned.
        layers: of it.
        samples: conversations to learn from; none where pictures are generated.
    """

    base: Checkpoint
    layers: LayerSet
    samples: Samples | None = None


def start_of(recipe: TrainRecipe, out: Path) -> Start | None:
    """The base and the layers of a recipe; none for one that makes a new base.

    Raises:
        VrbenchError: every fault that can be seen now, at once.
    """
    found: list[str] = []
    if (out / MARKER).exists():
        found.append(f"{out} already holds a checkpoint; name another folder, or remove it")
    found += validate_output(out)
    found += recipe.unset_paths()
    start, samples = None, None
    if recipe.tune is not None and recipe.base:
        try:
            base = resolve(recipe.base)
            start = Start(base, select_layers(recipe.tune.layers, base.depth))
            found += too_many(start.layers, recipe.tune.sampling)
            found += unpadded(base) if getattr(recipe.data, "pad_square", False) else []
        except VrbenchError as fault:
            found += error_messages(fault)
    if not isinstance(recipe.data, GeneratedScenes) and not recipe.unset_paths():
        try:
            samples = read(recipe.data)
        except VrbenchError as fault:
            found += error_messages(fault)
    raise_errors(found)
    return replace(start, samples=samples) if start else None


def unpadded(base: Checkpoint) -> list[str]:
    """Why pictures padded to a square may not be learned from: the base, and so what is made of it, is shown others.

    A base with random weights may, since nothing is measured with it.
    """
    from vrbench.models.load import first_folder
    from vrbench.models.processors import load_image_processor

    if base.root.has(RECIPE):
        return []
    folder = first_folder(base)
    processor = load_image_processor(folder, base.family)
    if type(processor).__name__.startswith("LlavaImageProcessor") and processor.do_pad:
        return []
    kind = type(processor).__name__
    return [
        f"data.pad_square pads pictures to squares, but {base.id} is measured on pictures as {kind} takes them; "
        f'set image_processor_type to "LlavaImageProcessor" and do_pad to true in the picture settings of '
        f"{folder}, or data.pad_square to false"
    ]


def too_many(layers: LayerSet, count: int | None) -> list[str]:
    """Why so many layers cannot be drawn; empty when they can, or none shall be."""
    if count is None or count <= len(layers):
        return []
    return [f"tune.sampling is {count}; tune.layers = {layers} are {len(layers)} to draw from"]


def outline(recipe: TrainRecipe, out: Path) -> str:
    """What a recipe would do: itself as it was resolved, its layers, what it trains, and its steps.

    Raises:
        VrbenchError: every fault that can be seen now, at once.
    """
    start = start_of(recipe, out)
    lines = [recipe.text().rstrip(), f"# digest: {recipe.digest}"]
    if start is None:
        assert recipe.tower is not None and recipe.align is not None
        lines.append(f"# steps: {recipe.tower.steps} (tower) and {recipe.align.steps} (align)")
        return "\n".join(lines)
    assert recipe.tune is not None
    layers, projector = trainable(start, recipe.tune)
    numbers = " ".join(str(i) for i in start.layers) or "none"
    lines += [
        f"# base: {start.base.id}, {start.base.family}, {start.base.depth} decoder layers",
        f"# layers: {len(start.layers)} of {start.base.depth}: {numbers}",
        f"# trainable parameters: {layers + projector:,} ({layers:,} in the layers, {projector:,} in the projector)",
        *([f"# data: {start.samples.told()}"] if start.samples else []),
        f"# steps: {_steps(recipe, start)}, of {recipe.tune.batch} samples each",
    ]
    return "\n".join(lines)


def _steps(recipe: TrainRecipe, start: Start) -> str:
    assert recipe.tune is not None
    if isinstance(recipe.data, GeneratedScenes):
        return f"{recipe.tune.steps_for(recipe.data.used, recipe.data.easy_vqa_images(recipe.tune.batch)):,}"
    if recipe.tune.steps:
        return f"{recipe.tune.steps:,}"
    assert start.samples is not None  # as `start_of` has it for conversations
    used = len(share_of(start.samples.samples, recipe.data.share, recipe.seed, recipe.data.subset == "stratified"))
    return f"about {recipe.tune.steps_for(used):,}"


def trainable(start: Start, settings: TuneStage) -> tuple[int, int]:
    """Parameters that are trained: (in the layers, in the projector), from the shapes alone."""
    import math

    from vrbench.checkpoints import overlay_validation
    from vrbench.checkpoints.parameter_names import layer_of

    shapes = overlay_validation.shapes(start.base)
    inside = {name: shape for name, shape in shapes.items() if layer_of(name) in start.layers.indices}
    if settings.tuning == "lora":
        carriers = [s for n, s in inside.items() if len(s) == 2 and (settings.modules == "all" or is_attention(n))]
        layers = (settings.rank or 0) * sum(sum(shape) for shape in carriers)
    else:
        layers = sum(math.prod(shape) for shape in inside.values())
    names = overlay_validation.projector_of(start.base, shapes)[1] if settings.lr_projector else ()
    return layers, sum(math.prod(shapes[name]) for name in names)


def is_attention(name: str) -> bool:
    """Whether a parameter, such as 'layers.3.self_attn.q_proj.weight', is of a layer's attention."""
    return any(part in ATTENTION for part in name.split("."))
