"""The two kinds of training run: a new base (tower, then projector), or the tuning of an existing checkpoint."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vrbench.checkpoint import resolve
from vrbench.device import chosen_device
from vrbench.errors import VrbenchError
from vrbench.layers import LayerSet, select
from vrbench.lineage import MARKER
from vrbench.models import pocket, smollm2
from vrbench.models.load import load_packed
from vrbench.models.vlm import VLM
from vrbench.pocket import pydoc
from vrbench.records import Base, Lineage, Step
from vrbench.train.features import Encoded, cached
from vrbench.train.packing import Packer
from vrbench.train.pictures import Pictures, easy, generated
from vrbench.train.publish import publish, save_tensors
from vrbench.train.recipe import TrainRecipe
from vrbench.train.tower import encode, train_tower
from vrbench.train.tune import Learner, align, log_line, perplexity, tune, with_lora

DEV_PICTURES = 600
DEV_PASSAGES = 60


def run_recipe(recipe: TrainRecipe, out: Path, device: str) -> Path:
    """Train as the recipe says and write the folder; see `vrbench.train.train`."""
    if (out / MARKER).exists():
        raise VrbenchError(f"{out} already holds a checkpoint; name another folder, or remove it")
    where = torch.device(chosen_device(device))
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    return (_make_base if recipe.tower else _tune)(recipe, out, where, started)


def _make_base(recipe: TrainRecipe, out: Path, device: torch.device, started: float) -> Path:
    if recipe.base != smollm2.ID:
        raise VrbenchError(f"recipe {recipe.name} has base {recipe.base!r}; a new tower goes with {smollm2.ID!r} only")
    data = generated("train", recipe.data.scenes, 1, captions=True)
    dev = generated("dev", DEV_PICTURES, 1, captions=True)
    extra = easy(1) if recipe.data.easy_vqa else None
    tower, seen = train_tower(recipe, data, extra, dev, device)
    _round_to_bfloat16(tower)
    model = pocket.new_llava()
    model.model.vision_tower.load_state_dict(tower.state_dict())
    learner, packer = _learner(model.to(device), recipe)
    losses = align(learner, _encoded(tower, packer, data, device), recipe)
    dev_right = learner.right(_encoded(tower, packer, dev, device))
    save_tensors(tower.state_dict(), out / pocket.TOWER)
    save_tensors(model.model.multi_modal_projector.state_dict(), out / pocket.PROJECTOR)
    words = perplexity(learner, packer.tokenizer, _dev_passages())
    note = _note(device, started, tower_dev=seen, final_loss=losses[-1], dev_right=dev_right, dev_ppl=words)
    none = str(LayerSet.none(smollm2.LAYERS))
    steps = [
        Step(kind="trained", layers=none, depth=smollm2.LAYERS, method="weights", stage="tower", recipe=recipe.name,
             recipe_digest=recipe.digest, note=note),
        Step(kind="trained", layers=none, depth=smollm2.LAYERS, method="projector", stage="align", recipe=recipe.name,
             recipe_digest=recipe.digest),
    ]  # fmt: skip
    lineage = Lineage(
        id=recipe.makes, family="llava", depth=smollm2.LAYERS, steps=tuple(steps), licence=smollm2.LICENCE,
        base=Base(id=smollm2.ID, digest=smollm2.backbone_digest()),
    )  # fmt: skip
    return publish(out, lineage, recipe)


def _tune(recipe: TrainRecipe, out: Path, device: torch.device, started: float) -> Path:
    settings = recipe.tune
    assert settings is not None
    base = resolve(recipe.base)
    layers = select(settings.layers, base.depth)
    vlm = load_packed(base, device, "float32")
    torch.manual_seed(recipe.seed)
    model = with_lora(vlm.model, layers, settings)
    learner, packer = _learner(model, recipe)
    data, extra, dev = _tuning_data(recipe, vlm, packer, device)
    if device.type == "cuda":
        learner.compile(data.rows)
    losses = tune(learner, data, extra, recipe)
    _round_to_bfloat16(learner.core.model.multi_modal_projector)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16().float()
    dev_right = learner.right(dev)
    words = perplexity(learner, packer.tokenizer, _dev_passages())
    model.peft_config["default"].base_model_name_or_path = recipe.base  # not the folder where it lies here
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's model card, which says nothing of this model
    _store_as_bfloat16(out / "adapter_model.safetensors")
    save_tensors(learner.core.model.multi_modal_projector.state_dict(), out / pocket.PROJECTOR)
    note = _note(device, started, final_loss=sum(losses[-25:]) / len(losses[-25:]), dev_right=dev_right, dev_ppl=words)
    step = Step(kind="trained", layers=str(layers), depth=base.depth, method="lora", stage="tune", recipe=recipe.name,
                recipe_digest=recipe.digest, note=note)  # fmt: skip
    lineage = Lineage(
        id=recipe.makes, family=base.family, depth=base.depth, steps=(step,), licence=smollm2.LICENCE,
        base=Base(id=recipe.base, digest=base.digest),
    )  # fmt: skip
    return publish(out, lineage, recipe)


def _tuning_data(
    recipe: TrainRecipe, vlm: VLM, packer: Packer, device: torch.device
) -> tuple[Encoded, Encoded | None, Encoded]:
    """Training pictures, easy-VQA's (if the recipe wants them) and dev pictures, as the tower sees them."""

    def encoded(what: list[str | int], make: Callable[[], Pictures]) -> Encoded:
        return cached(what, vlm.vision_tower, vlm.tower_digest, packer, device, make)

    scenes, turns = recipe.data.scenes, recipe.data.turns
    data = encoded(["train", scenes, turns], lambda: generated("train", scenes, turns))
    extra = encoded(["easy", turns], lambda: easy(turns)) if recipe.data.easy_vqa else None
    return data, extra, encoded(["dev", DEV_PICTURES, turns], lambda: generated("dev", DEV_PICTURES, turns))


def _learner(model: Any, recipe: TrainRecipe) -> tuple[Learner, Packer]:
    from transformers import PreTrainedTokenizerFast

    folder = pocket.processor_folder()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    packer = Packer(tokenizer, pocket.IMAGE_TOKENS)
    return Learner(model, smollm2.IMAGE_TOKEN_ID, tokenizer.pad_token_id, recipe.dtype), packer


def _encoded(tower: nn.Module, packer: Packer, data: Pictures, device: torch.device) -> Encoded:
    return Encoded(encode(tower, data.pixels, device), packer.rows(data.turns))


def _dev_passages() -> list[str]:
    return [row["text"] for row in pydoc.rows("dev")][:DEV_PASSAGES]


def _round_to_bfloat16(module: nn.Module) -> None:
    """What is published is bfloat16: what follows must be trained on, and measured with, exactly that."""
    for parameter in module.parameters():
        parameter.data = parameter.data.bfloat16().float()


def _store_as_bfloat16(file: Path) -> None:
    from safetensors.torch import load_file

    save_tensors(load_file(file), file)


def _note(device: torch.device, started: float, **measured: Any) -> str:
    """How it was made, on one line: device, versions, seconds, and what was measured on the dev split."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    import transformers

    return log_line(
        device=card, torch=torch.__version__, transformers=transformers.__version__,
        python=platform.python_version(), seconds=round(time.perf_counter() - started, 1), **measured,
    )  # fmt: skip
