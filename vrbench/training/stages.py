"""The stages of a run: `make_base` trains a tower and a projector, `tune_base` tunes an existing checkpoint."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from vrbench.checkpoints import smollm2
from vrbench.checkpoints.checkpoint import ADAPTER, DELTA, PROJECTOR, TEMPLATE, TOWER, TUNED_TOWER, WHOLE_LLM
from vrbench.checkpoints.locate import relative_name
from vrbench.checkpoints.lora_adapter import adapter_method, module_name, read_adapter_config
from vrbench.checkpoints.parameter_names import canonical_name, layer_index
from vrbench.core.errors import VrbenchError
from vrbench.core.io import write_atomically
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models import components, pocket
from vrbench.models.base_vlm import BaseVLM
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_llava, load_vlm
from vrbench.training import pocket_data
from vrbench.training.checkpoint_folder import is_first, publish, save_tensors
from vrbench.training.compiled_layers import layers_for_training
from vrbench.training.conversation_batches import conversation_data
from vrbench.training.curves import NO_REPORTS, Reporting
from vrbench.training.dev_evaluation import DevScores, dev_scores
from vrbench.training.estimate import batch_flops, tune_cost
from vrbench.training.monitor import BatchFlops
from vrbench.training.packed_attention import use_packed_attention
from vrbench.training.packing import EncodedImages, PackedLlava
from vrbench.training.pocket_images import easy_vqa_images, generated_images
from vrbench.training.prepare import TrainingSetup
from vrbench.training.quantization import quantize_layers
from vrbench.training.recipe import GeneratedScenes, TrainRecipe, TuneStage
from vrbench.training.tower import train_tower
from vrbench.training.trainable import (
    LayerSampling,
    add_lora,
    layer_parameters,
    parameter_groups,
    projector_parameters,
    unfreeze,
    unwrap_peft,
    validate_trainable,
)
from vrbench.training.trainer import ParameterGroup, TrainingConfig, TrainingData, fit, gather_shards

TOWER_METHOD = "tower"
"""Method of a lineage's step that trained the vision tower."""

REPORTED_STEPS = 25
"""Steps at the end whose mean loss the lineage reports."""


def make_base(recipe: TrainRecipe, out: Path, device: torch.device, state: Path, reporting: Reporting) -> None:
    """Train a tower and a projector, and write the folder `out`, with saved states in `state`.

    Raises:
        VrbenchError: the base is not the pocket family's LLM, the loss is not finite, or memory ran out.
    """
    started = time.perf_counter()
    if recipe.base != smollm2.ID:
        raise VrbenchError(f"recipe {recipe.name} has base {recipe.base!r}; a new tower goes with {smollm2.ID!r} only")
    settings = recipe.data
    assert isinstance(settings, GeneratedScenes)  # as the recipe was validated
    images = generated_images("train", settings.used, 1, captions=True)
    dev = generated_images("dev", settings.dev or pocket_data.DEV_IMAGES, 1, captions=True)
    extra = easy_vqa_images(1) if settings.easy_vqa else None
    tower, tower_dev = train_tower(recipe, images, extra, dev, device, state / "tower", reporting)
    _round(tower.parameters(), recipe.dtype)
    torch.manual_seed(recipe.seed)
    model = pocket.new_llava()
    model.model.vision_tower.load_state_dict(tower.state_dict())
    llava, packer = pocket_data.packed_llava(model.to(device), recipe)
    losses = align(llava, pocket_data.encoded(tower, packer, images, device), recipe, state / "align", reporting)
    if not is_first():
        return
    measured = pocket_data.measure(llava, packer, pocket_data.encoded(tower, packer, dev, device), settings)
    save_tensors(tower.state_dict(), out / TOWER, recipe.dtype)
    save_tensors(model.model.multi_modal_projector.state_dict(), out / PROJECTOR, recipe.dtype)
    note = _note(device, started, written=recipe.dtype, tower_dev=tower_dev, final_loss=losses[-1], **measured)
    none = LayerSet.none(smollm2.LAYERS)
    steps = (
        _step(recipe, none, method="weights", stage="tower", note=note),
        _step(recipe, none, method="projector", stage="align"),
    )
    lineage = Lineage(
        id=recipe.makes, family="llava", depth=smollm2.LAYERS, steps=steps, licence=smollm2.LICENCE,
        base=BaseRef(id=smollm2.ID, digest=smollm2.SHA256),
    )  # fmt: skip
    publish(out, lineage, recipe)


def align(
    llava: PackedLlava, images: EncodedImages, recipe: TrainRecipe, state: Path | None = None,
    reporting: Reporting = NO_REPORTS,
) -> list[float]:  # fmt: skip
    """Train the projector alone; returns the losses."""
    stage = recipe.align
    assert stage is not None
    data = pocket_data.packed_data(llava, images, None, recipe, stage.steps, stage.batch)
    groups = [ParameterGroup(projector_parameters(llava.model), stage.lr)]
    unfreeze(llava.model, groups, getattr(torch, recipe.dtype))
    config = TrainingConfig.from_recipe(recipe, "align", stage, stage.steps, state, reporting)
    return fit(llava.model, data, groups, config, llava.device)


def tune_base(
    recipe: TrainRecipe, setup: TrainingSetup, out: Path, device: torch.device, state: Path, reporting: Reporting
) -> None:
    """Tune layers and projector of a checkpoint, and write the folder `out`, with saved states in `state`.

    Raises:
        VrbenchError: the family cannot be trained on the data, the loss is not finite, or memory ran out.
    """
    started = time.perf_counter()
    settings, base, layers = recipe.tune, setup.base, setup.layers
    assert settings is not None
    model, data, vlm = _load(recipe, setup, device)
    scores = dev_scores(vlm, setup.dev_tasks, recipe.dtype, recipe.seed) if setup.dev_tasks else None
    flops = batch_flops(recipe, tune_cost(recipe, base, layers), getattr(data.samples, "samples", ()))
    losses = tune(
        model, layers, data, recipe, device, state / recipe.stage, reporting=reporting, flops=flops, scores=scores
    )
    gathered = gather_shards(model)
    if not is_first():
        return
    if gathered is not None:  # a single process can neither measure nor write sharded weights
        model, data, _ = _load(recipe, setup, device)
        unfreeze(model, parameter_groups(model, layers, settings), getattr(torch, recipe.dtype))
        model.load_state_dict(gathered, strict=False)
        model.eval()
    _round((p for group in parameter_groups(model, layers, settings) for p in group.parameters), recipe.dtype)
    last = losses[-REPORTED_STEPS:]
    note = _note(
        device, started, written=recipe.dtype, steps=len(losses), final_loss=sum(last) / len(last), **data.measure()
    )
    methods = {save_tuned(model, layers, recipe, settings, out): layers} if len(layers) or settings.lr_projector else {}
    if settings.tower != "none":
        save_tensors(_tower_weights(model), out / TUNED_TOWER, recipe.dtype)
        methods[TOWER_METHOD] = LayerSet.none(base.depth)
    steps = [_step(recipe, of, method=method, stage=recipe.stage, note=note) for method, of in methods.items()]
    if setup.template is not None:
        write_atomically(out / TEMPLATE, setup.template)
    lineage = Lineage(
        id=recipe.makes, family=base.family, depth=base.depth, licence=base.lineage[0].licence if base.lineage else "",
        steps=tuple(steps),
        base=BaseRef(id=relative_name(recipe.base, out), digest=base.digest),
    )  # fmt: skip
    publish(out, lineage, recipe)


def _load(recipe: TrainRecipe, setup: TrainingSetup, device: torch.device) -> tuple[Any, TrainingData, BaseVLM]:
    """Return the model, with LoRA if the recipe has it, the training data, and what prompts the model."""
    assert recipe.tune is not None
    is_pocket = setup.conversations is None
    vlm = load_llava(setup.base, device, "float32") if is_pocket else load_vlm(setup.base, device, recipe.dtype)
    if setup.template is not None:
        vlm.tokenizer.chat_template, vlm.prompts_digest = setup.template, ""  # the digest is of the base's prompts
    torch.manual_seed(recipe.seed)
    if recipe.tune.quantize != "none":
        quantize_layers(vlm.model, getattr(torch, recipe.dtype))
    has_lora = (len(setup.layers) and recipe.tune.tuning == "lora") or recipe.tune.tower == "lora"
    model = add_lora(vlm.model, setup.layers, recipe.tune) if has_lora else vlm.model
    if setup.conversations is not None:
        return model, conversation_data(recipe, setup.conversations, vlm), vlm
    assert isinstance(vlm, LlavaModel)  # as load_llava says
    return model, pocket_data.tuning_data(recipe, vlm, model, device), vlm


def tune(
    model: Any,
    layers: LayerSet,
    data: TrainingData,
    recipe: TrainRecipe,
    device: torch.device,
    state: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    reporting: Reporting = NO_REPORTS,
    flops: BatchFlops | None = None,
    scores: DevScores | None = None,
) -> list[float]:
    """Train the chosen layers and the projector of a model of any family; returns the losses.

    The model has LoRA on the layers already, if the recipe has it; there may be no layers. With the `flops` of its
    batches the progress bar shows MFU; `scores` are those of the recipe's `eval`.
    """
    settings = recipe.tune
    assert settings is not None
    groups = parameter_groups(model, layers, settings)
    unfreeze(model, groups, getattr(torch, recipe.dtype))
    validate_trainable(model, layers, settings)
    if settings.attention != "auto":
        components.decoder(unwrap_peft(model)).set_attn_implementation(settings.attention)
    if settings.packing:
        assert not isinstance(recipe.data, GeneratedScenes)  # as the recipe was validated
        use_packed_attention(unwrap_peft(model), recipe.data.length)
    if settings.sampling is not None:
        parameters = layer_parameters(model, layers, settings)
        sampling = LayerSampling(parameters, layers, settings.layers_at_a_time, settings.every, recipe.seed)
        callbacks = [sampling, *callbacks]
    steps = len(data.order) // settings.batch
    config = TrainingConfig.from_recipe(recipe, recipe.stage, settings, steps, state, reporting)
    config = replace(config, flops=flops, scores=scores, score_every=recipe.eval.every if recipe.eval else 0)
    with layers_for_training(model, settings, steps, device, data.fixed_shapes):
        return fit(model, data, groups, config, device, callbacks)


def save_tuned(model: Any, layers: LayerSet, recipe: TrainRecipe, settings: TuneStage, out: Path) -> str:
    """Write what was trained, an adapter and the projector or a delta; returns the lineage's name for the method."""
    if len(layers) and settings.tuning == "weights":
        inner = unwrap_peft(model)  # a tower may have LoRA
        weights = components.layer_parameters(inner, layers)
        weights |= components.projector_parameters(inner) if settings.lr_projector else {}
        weights |= components.outside_parameters(inner) if settings.is_lisa else {}
        save_tensors(weights, out / DELTA, recipe.dtype)
        return WHOLE_LLM if settings.is_lisa else "weights"
    if len(layers):
        _save_adapter(model, recipe, out)
    if settings.lr_projector:
        inner = unwrap_peft(model)
        prefix = components.projector_prefix(inner)
        projector = {name.removeprefix(prefix): value for name, value in components.projector_parameters(inner).items()}
        save_tensors(projector, out / PROJECTOR, recipe.dtype)
    return adapter_method(read_adapter_config(out)) if len(layers) else "projector"


def _tower_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return canonical name -> weight of the vision tower; its LoRA is merged, in the model too."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    inner = unwrap_peft(model)
    for module in components.vision_tower(inner).modules():
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
    named = components.tower_parameters(inner)
    return {name.replace(".base_layer.", "."): p for name, p in named.items() if "lora_" not in name}


def _save_adapter(model: Any, recipe: TrainRecipe, out: Path) -> None:
    model.peft_config["default"].base_model_name_or_path = recipe.base  # not the folder that it was loaded from
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's template of a model card
    tensors = load_file(out / ADAPTER)
    of_tower = [name for name in tensors if layer_index(canonical_name(name)) is None]
    if of_tower:  # which is merged into the tower's own file
        tensors = {name: value for name, value in tensors.items() if name not in of_tower}
        model.peft_config["default"].target_modules = sorted({module_name(name) for name in tensors})
        model.peft_config["default"].save_pretrained(out)
    save_tensors(tensors, out / ADAPTER, recipe.dtype)


def _round(parameters: Iterable[nn.Parameter], dtype: str) -> None:
    """Round float32 masters to the written type, so that what is measured next is what is stored."""
    for parameter in parameters:
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()


def _step(recipe: TrainRecipe, layers: LayerSet, **more: Any) -> LineageStep:
    """Return the lineage's record of a stage."""
    return LineageStep(
        kind="trained", layers=str(layers), depth=layers.depth, recipe=recipe.name, recipe_digest=recipe.digest, **more
    )


def _note(device: torch.device, started: float, **measured: Any) -> str:
    """Return how it was made as one line of JSON: device, versions, seconds, and what was measured."""
    on_gpu = device.type == "cuda"
    values = {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version(),
        "seconds": round(time.perf_counter() - started, 1), **measured,
    }  # fmt: skip
    return json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()})
