"""Validation of a run's inputs before any weights are loaded, and the dry run that describes what it would do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.families import family_of
from vrbench.checkpoints.lineage import LINEAGE_FILE, TRAINING_STATES
from vrbench.checkpoints.prompts import vicuna_separator, vicuna_template
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.core.errors import collect_errors, raise_errors
from vrbench.core.io import validate_output
from vrbench.core.layers import LayerSet, select_layers
from vrbench.evaluation.run_plan import PlannedTask
from vrbench.models.resolve import resolve_checkpoint
from vrbench.training.checkpoint_folder import saved_progress, validate_states
from vrbench.training.conversation_sets import ConversationSet, read_conversations, select_share
from vrbench.training.conversations import Conversation
from vrbench.training.curves import tracker_errors
from vrbench.training.dev_evaluation import plan_dev_tasks
from vrbench.training.estimate import describe, tune_cost
from vrbench.training.quantization import quantization_errors
from vrbench.training.recipe import (
    PACKED_FAMILIES,
    ConversationFile,
    GeneratedScenes,
    HubConversations,
    PromptSettings,
    Style,
    TrainRecipe,
    TuneStage,
)

LLAMA_3_END = "<|end_of_text|>"
"""Ends an answer of Bunny-Llama-3."""


@dataclass(frozen=True)
class TrainingSetup:
    """The inputs of a tuning, resolved before any weights are loaded.

    Attributes:
        base: the checkpoint that is tuned.
        layers: those to train.
        conversations: the training data; none where images are generated.
        template: the chat template to train with; None for the base's own.
        dev_tasks: those that the model is evaluated on while it trains.
    """

    base: Checkpoint
    layers: LayerSet
    conversations: ConversationSet | None = None
    template: str | None = None
    dev_tasks: tuple[PlannedTask, ...] = ()


def prepare(
    recipe: TrainRecipe, out: Path, must_resume: bool = False, log_to: Sequence[str] = ()
) -> TrainingSetup | None:
    """Validate and resolve the inputs of a recipe; returns none for one that makes a new base.

    Args:
        recipe: what is trained.
        out: the checkpoint folder to make.
        must_resume: whether having no saved state in it is an error.
        log_to: experiment trackers, of `vrbench.training.curves.TRACKERS`.

    Raises:
        VrbenchError: all errors that can be found before weights are loaded, together.
    """
    unset = recipe.unset_paths()
    taken = [f"{out} already holds a checkpoint; name another folder, or remove it"]
    states = taken if (out / LINEAGE_FILE).exists() else validate_states(out, recipe, must_resume)
    errors = [*states, *validate_output(out), *tracker_errors(log_to), *unset]
    data = None if isinstance(recipe.data, GeneratedScenes) else recipe.data
    setup, conversations = None, None
    if recipe.tune is not None and recipe.base:
        with collect_errors(errors):
            base = resolve_checkpoint(recipe.base)
            setup = TrainingSetup(base, select_layers(recipe.tune.layers, base.depth))
            errors += tune_errors(recipe.tune, base, setup.layers)
            if data is not None:
                errors += padding_errors(base) if data.pad_square else []
                setup = replace(setup, template=training_template(base, recipe.prompt, data.style))
                if not base.root.code:
                    validate_template(base, setup.template, data)
    dev_tasks = plan_dev_tasks(recipe.eval, recipe.seed, errors) if recipe.eval else ()
    if data is not None and data.label_newline and data.style != "vrbench":
        errors.append(f"data.label_newline goes with data.style 'vrbench', not {data.style!r}")
    if data is not None and not unset:
        with collect_errors(errors):
            conversations = read_conversations(data)
    raise_errors(errors)
    return replace(setup, conversations=conversations, dev_tasks=dev_tasks) if setup else None


def tune_errors(tune: TuneStage, base: Checkpoint, layers: LayerSet) -> list[str]:
    """Return why a base cannot be tuned as a recipe says, one message each; empty when it can."""
    errors = [*quantization_errors(tune), *attention_errors(tune.attention)]
    if tune.packing and base.family not in PACKED_FAMILIES:
        errors.append(f"tune.packing is for {', '.join(PACKED_FAMILIES)}; {base.id} is of family {base.family}")
    if tune.layers_at_a_time > len(layers):
        errors.append(f"tune.sampling is {tune.sampling}; tune.layers = {layers} are {len(layers)} layers")
    return errors


PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""Attention that needs a package -> its module."""


def attention_errors(attention: str) -> list[str]:
    """Return an error if the package of an attention is not installed."""
    module = PACKAGES.get(attention)
    if module is None or find_spec(module):
        return []
    return [f"tune.attention is {attention!r}, which needs flash-attn (no module {module}); install it, or use sdpa"]


def padding_errors(base: Checkpoint) -> list[str]:
    """Return an error if training would pad images to squares and evaluation of the base, and its results, would not.

    A base with random weights is not evaluated.
    """
    from vrbench.models.load import first_folder
    from vrbench.models.processors import load_image_processor

    if base.root.has(RANDOM_WEIGHTS):
        return []
    folder = first_folder(base)
    processor = load_image_processor(folder, base.family)
    kind = type(processor).__name__
    if kind.startswith("LlavaImageProcessor") and processor.do_pad:
        return []
    return [
        f"data.pad_square pads images to squares, but {base.id} is evaluated on images as {kind} prepares them; set "
        f'image_processor_type to "LlavaImageProcessor" and do_pad to true in the image processor settings of '
        f"{folder}, or data.pad_square to false"
    ]


def training_template(base: Checkpoint, prompt: PromptSettings | None, style: Style) -> str | None:
    """Return the chat template to train with, or None if it is the base's own.

    Raises:
        VrbenchError: the base's template cannot be read, or it is not one that the style or the version is of.
    """
    from vrbench.models.hf_folder import load_tokenizer
    from vrbench.models.load import first_folder, with_template

    if prompt is None and style == "vrbench":
        return None
    separator, end, errors = None, "", []
    if family_of(base).prefix_sharing:
        tokenizer = with_template(load_tokenizer(first_folder(base))[0], base)
        separator, end = vicuna_separator(tokenizer), tokenizer.eos_token
    if prompt is not None and (separator is None or end != LLAMA_3_END):
        errors.append(
            f"prompt.version is {prompt.version!r}, a template of Bunny-Llama-3; {base.id} is not one that `vrbench "
            "convert` has made. Leave prompt.version out: the base's own template is then used"
        )
    if style != "vrbench" and separator is None:
        errors.append(
            f"data.style is {style!r}, which writes prompts as LLaVA-1.5 and Bunny were trained; the chat template of "
            f"{base.id} writes others. Take a base that `vrbench convert` has made of theirs, or set data.style to "
            "vrbench"
        )
    raise_errors(errors)
    if prompt is None or prompt.separator == separator:
        return None
    return vicuna_template(LLAMA_3_END, prompt.separator)


def validate_template(base: Checkpoint, template: str | None, data: ConversationFile | HubConversations) -> None:
    """Write and tokenize a small conversation as the training will, without weights.

    Args:
        base: the checkpoint to train, which is of a family.
        template: the chat template to train with; None for the base's own.
        data: settings of the conversations.

    Raises:
        VrbenchError: the chat template cannot be used for training, or not with these settings.
    """
    from vrbench.models.load import load_without_weights
    from vrbench.training.conversation_encoder import ConversationEncoder

    vlm = load_without_weights(base)
    if template is not None:
        vlm.tokenizer.chat_template = template
    ConversationEncoder(vlm, data.length, data.pad_square, data.style, data.label_newline)


def dry_run(recipe: TrainRecipe, out: Path, must_resume: bool = False, log_to: Sequence[str] = ()) -> str:
    """Describe a run without training: the resolved recipe, its layers, trainable parameters, data, steps, memory
    and time.

    Raises:
        VrbenchError: see `prepare`.
    """
    setup = prepare(recipe, out, must_resume, log_to)
    lines = [recipe.text().rstrip(), f"# digest: {recipe.digest}"]
    if progress := saved_progress(out / TRAINING_STATES):
        lines.append(f"# resumes: {progress}")
    if setup is None:
        assert recipe.tower is not None and recipe.align is not None
        lines.append(f"# steps: {recipe.tower.steps} (tower) and {recipe.align.steps} (align)")
        return "\n".join(lines)
    assert recipe.tune is not None
    cost, used = tune_cost(recipe, setup.base, setup.layers), _used_samples(recipe, setup)
    steps, indices = _count_steps(recipe, len(used)), " ".join(str(i) for i in setup.layers) or "none"
    projector, others, tower = cost.trained_projector, cost.trained_others, cost.trained_tower
    about = "about " if used and recipe.tune.epochs else ""
    lines += [
        f"# base: {setup.base.id}, {setup.base.family}, {setup.base.depth} decoder layers",
        f"# layers: {len(setup.layers)} of {setup.base.depth}: {indices}",
        f"# trainable parameters: {cost.trained:,} ({cost.trained_layers:,} in the layers, "
        f"{projector:,} in the projector{f', {others:,} in embeddings, final norm and head' if others else ''}"
        f"{f', {tower:,} in the vision tower' if tower else ''})",
        *([f"# data: {setup.conversations.summary()}"] if setup.conversations else []),
        f"# steps: {about}{steps:,}, of {recipe.tune.batch} samples each",
        *([f"# evaluated every {recipe.eval.every} steps: {_items(setup.dev_tasks)}"] if recipe.eval else []),
        *(f"# {line}" for line in describe(recipe, cost, used, steps)),
    ]
    return "\n".join(lines)


def _items(tasks: Iterable[PlannedTask]) -> str:
    """Return tasks with the number of their items and the split that these are of."""
    counts = ((task, sum(len(subtask.positions) for subtask in task.subtasks)) for task in tasks)
    return ", ".join(f"{task.spec.id} ({count} items of {task.spec.data.split})" for task, count in counts)


def _used_samples(recipe: TrainRecipe, setup: TrainingSetup) -> list[Conversation]:
    """Return the conversations that a recipe uses; none where images are generated."""
    if isinstance(recipe.data, GeneratedScenes):
        return []
    assert setup.conversations is not None  # as `prepare` has it for conversations
    return select_share(setup.conversations.samples, recipe.data, recipe.seed)


def _count_steps(recipe: TrainRecipe, samples: int) -> int:
    assert recipe.tune is not None
    if isinstance(recipe.data, GeneratedScenes):
        return recipe.tune.steps_for(recipe.data.used, recipe.data.easy_vqa_images(recipe.tune.batch))
    return recipe.tune.steps_for(samples)
