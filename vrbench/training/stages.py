"""The two kinds of training run: a new base (tower, then projector), or the tuning of an existing checkpoint."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vrbench.checkpoints import smollm2
from vrbench.checkpoints.locate import name_beside
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models import pocket
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_llava, load_vlm
from vrbench.pocket import pydoc
from vrbench.training.features import Encoded, cached
from vrbench.training.lessons import conversation_lessons
from vrbench.training.packed_llava import Learner
from vrbench.training.packing import Packer
from vrbench.training.pocket_data import Lessons, align, pocket_lessons, tune
from vrbench.training.pocket_images import Pictures, easy, generated
from vrbench.training.processes import is_first
from vrbench.training.publish import publish, save_tensors, save_tuned
from vrbench.training.recipe import GeneratedScenes, TrainRecipe
from vrbench.training.run import Start
from vrbench.training.tower import encode, train_tower
from vrbench.training.trainable import groups_of, thaw, with_lora
from vrbench.training.trainer import weights_of_shards

DEV_PICTURES = 600
DEV_PASSAGES = 60
LAST = 25
"""Steps at the end whose mean loss the lineage tells."""


def make_base(recipe: TrainRecipe, out: Path, device: torch.device, state: Path) -> Path:
    """Train a tower and a projector, and write the folder.

    Args:
        recipe: with the sections `tower` and `align`.
        out: the folder, made and claimed for the recipe.
        device: where to train.
        state: folder of the saved states.

    Raises:
        VrbenchError: the base is not the pocket family's LLM, the loss is not finite, or memory ran out.
    """
    started = time.perf_counter()
    if recipe.base != smollm2.ID:
        raise VrbenchError(f"recipe {recipe.name} has base {recipe.base!r}; a new tower goes with {smollm2.ID!r} only")
    assert isinstance(recipe.data, GeneratedScenes) and recipe.align is not None  # as the recipe's check says
    data = generated("train", recipe.data.used, 1, captions=True)
    dev = generated("dev", recipe.data.dev or DEV_PICTURES, 1, captions=True)
    extra = easy(1) if recipe.data.easy_vqa else None
    tower, seen = train_tower(recipe, data, extra, dev, device, state / "tower")
    _round(tower.parameters(), recipe.dtype)
    torch.manual_seed(recipe.seed)
    model = pocket.new_llava()
    model.model.vision_tower.load_state_dict(tower.state_dict())
    learner, packer = _learner(model.to(device), recipe)
    losses = align(learner, _encoded(tower, packer, data, device), recipe, state / "align")
    if not is_first():
        return out
    dev_right = learner.right(_encoded(tower, packer, dev, device))
    save_tensors(tower.state_dict(), out / pocket.TOWER, recipe.dtype)
    save_tensors(model.model.multi_modal_projector.state_dict(), out / pocket.PROJECTOR, recipe.dtype)
    words = learner.perplexity(packer.tokenizer, _dev_passages(recipe.data))
    note = _note(
        device, started, written=recipe.dtype, tower_dev=seen, final_loss=losses[-1], dev_right=dev_right, dev_ppl=words
    )
    none = str(LayerSet.none(smollm2.LAYERS))
    steps = [
        LineageStep(
            kind="trained", layers=none, depth=smollm2.LAYERS, method="weights", stage="tower", recipe=recipe.name,
            recipe_digest=recipe.digest, note=note,
        ),
        LineageStep(
            kind="trained", layers=none, depth=smollm2.LAYERS, method="projector", stage="align", recipe=recipe.name,
            recipe_digest=recipe.digest,
        ),
    ]  # fmt: skip
    lineage = Lineage(
        id=recipe.makes, family="llava", depth=smollm2.LAYERS, steps=tuple(steps), licence=smollm2.LICENCE,
        base=BaseRef(id=smollm2.ID, digest=smollm2.backbone_digest()),
    )  # fmt: skip
    return publish(out, lineage, recipe)


def tune_base(recipe: TrainRecipe, start: Start, out: Path, device: torch.device, state: Path) -> Path:
    """Tune layers and projector of a checkpoint, and write the folder.

    Args:
        recipe: with the section `tune`.
        start: the checkpoint, the layers, and conversations if these are the data.
        out: the folder, made and claimed for the recipe.
        device: where to train.
        state: folder of the saved states.

    Raises:
        VrbenchError: the family cannot learn from the data, the loss is not finite, or memory ran out.
    """
    started = time.perf_counter()
    settings, base, layers = recipe.tune, start.base, start.layers
    assert settings is not None
    model, lessons = _prepared(recipe, start, device)
    losses = tune(model, layers, lessons, recipe, device, state / recipe.stage)
    gathered = weights_of_shards(model)
    if not is_first():
        return out
    if gathered is not None:  # one process alone can neither measure nor write what is spread over several
        model, lessons = _prepared(recipe, start, device)
        thaw(model, groups_of(model, layers, settings), getattr(torch, recipe.dtype))
        model.load_state_dict(gathered, strict=False)
        model.eval()
    _round((p for group in groups_of(model, layers, settings) for p in group.parameters), recipe.dtype)
    last = losses[-LAST:]
    measured = {"steps": len(losses), "final_loss": sum(last) / len(last), **lessons.measure()}
    note = _note(device, started, written=recipe.dtype, **measured)
    method = save_tuned(model, layers, settings, recipe.base, out, recipe.dtype)
    step = LineageStep(kind="trained", layers=str(layers), depth=base.depth, method=method, stage=recipe.stage,
                recipe=recipe.name, recipe_digest=recipe.digest, note=note)  # fmt: skip
    lineage = Lineage(
        id=recipe.makes, family=base.family, depth=base.depth, steps=(step,),
        licence=base.lineage[0].licence if base.lineage else "",
        base=BaseRef(id=name_beside(recipe.base, out), digest=base.digest),
    )  # fmt: skip
    return publish(out, lineage, recipe)


def _prepared(recipe: TrainRecipe, start: Start, device: torch.device) -> tuple[Any, Lessons]:
    """The model, with LoRA on it if the recipe wants that, and what it learns from."""
    assert recipe.tune is not None
    is_pocket = start.samples is None
    vlm = load_llava(start.base, device, "float32") if is_pocket else load_vlm(start.base, device, recipe.dtype)
    torch.manual_seed(recipe.seed)
    has_lora = len(start.layers) and recipe.tune.tuning == "lora"
    model = with_lora(vlm.model, start.layers, recipe.tune) if has_lora else vlm.model
    if start.samples is not None:
        return model, conversation_lessons(recipe, start.samples, vlm)
    assert isinstance(vlm, LlavaModel)  # as load_llava checks
    return model, pocket_lessons_of(recipe, vlm, model, device)


def pocket_lessons_of(recipe: TrainRecipe, vlm: LlavaModel, model: Any, device: torch.device) -> Lessons:
    """The pocket family's packed rows, with the dev split's right answers and perplexity as what is measured."""
    assert recipe.tune is not None and isinstance(recipe.data, GeneratedScenes)
    learner, packer = _learner(model, recipe)
    data, extra, dev = _tuning_data(recipe.data, vlm, packer, device)
    if device.type == "cuda":
        learner.compile(data.rows)
    steps = recipe.tune.steps_for(recipe.data.used, recipe.data.easy_vqa_images(recipe.tune.batch))
    lessons = pocket_lessons(learner, data, extra, recipe, steps, recipe.tune.batch)

    passages = _dev_passages(recipe.data)

    def measure() -> dict[str, Any]:
        words = learner.perplexity(packer.tokenizer, passages)
        return {"dev_right": learner.right(dev), "dev_ppl": words}

    return replace(lessons, measure=measure)


def _tuning_data(
    settings: GeneratedScenes, vlm: LlavaModel, packer: Packer, device: torch.device
) -> tuple[Encoded, Encoded | None, Encoded]:
    """Training pictures, easy-VQA's (if the recipe wants them) and dev pictures, as the tower sees them."""

    def encoded(what: list[str | int], make: Callable[[], Pictures]) -> Encoded:
        return cached(what, vlm.vision_tower, vlm.tower_digest, packer, device, make)

    scenes, turns, few = settings.scenes, settings.turns, settings.dev or DEV_PICTURES
    data = encoded(["train", scenes, turns], lambda: generated("train", scenes, turns))
    extra = encoded(["easy", turns], lambda: easy(turns)) if settings.easy_vqa else None
    return data, extra, encoded(["dev", few, turns], lambda: generated("dev", few, turns))


def _learner(model: Any, recipe: TrainRecipe) -> tuple[Learner, Packer]:
    from transformers import PreTrainedTokenizerFast

    folder = pocket.processor_folder()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    packer = Packer(tokenizer, pocket.IMAGE_TOKENS)
    return Learner(model, smollm2.IMAGE_TOKEN_ID, tokenizer.pad_token_id, recipe.dtype), packer


def _encoded(tower: nn.Module, packer: Packer, data: Pictures, device: torch.device) -> Encoded:
    return Encoded(encode(tower, data.pixels, device), packer.rows(data.turns))


def _dev_passages(settings: GeneratedScenes) -> list[str]:
    """As many passages as suit the dev pictures."""
    share = (settings.dev or DEV_PICTURES) / DEV_PICTURES
    return [row["text"] for row in pydoc.rows("dev")][: max(1, round(share * DEV_PASSAGES))]


def _round(parameters: Iterable[nn.Parameter], dtype: str) -> None:
    """Round float32 masters to the type that is written: what follows is trained on, and measured with, that."""
    for parameter in parameters:
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()


def _note(device: torch.device, started: float, **measured: Any) -> str:
    """How it was made, on one line: device, versions, seconds, and what was measured on the dev split."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    import transformers

    return _log_line(
        device=card, torch=torch.__version__, transformers=transformers.__version__,
        python=platform.python_version(), seconds=round(time.perf_counter() - started, 1), **measured,
    )  # fmt: skip


def _log_line(**values: Any) -> str:
    """One JSON line for a training log, figures rounded."""
    return json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
