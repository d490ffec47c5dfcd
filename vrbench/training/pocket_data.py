"""The pocket family's training data: packed rows of generated images, and the measurements on the dev split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from vrbench.checkpoints import smollm2
from vrbench.models import pocket
from vrbench.models.llava_model import LlavaModel
from vrbench.pocket import pydoc
from vrbench.training.features import cached_features
from vrbench.training.packed_llava import PackedLlava
from vrbench.training.packing import EncodedImages, PackedDataset, Packer
from vrbench.training.pocket_images import LabelledImages, easy_vqa_images, generated_images
from vrbench.training.recipe import GeneratedScenes, TrainRecipe
from vrbench.training.tower import encode
from vrbench.training.trainer import TrainingData, shuffled_passes

DEV_IMAGES = 600
DEV_PASSAGES = 60
EXTRA_SEED = 20_001  # of the choice of easy-VQA's images when a share of them is used


def packed_llava(model: Any, recipe: TrainRecipe) -> tuple[PackedLlava, Packer]:
    """Return a pocket model ready to be trained on packed rows, and what packs them."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(pocket.processor_folder())
    packer = Packer(tokenizer, pocket.IMAGE_TOKENS)
    return PackedLlava(model, smollm2.IMAGE_TOKEN_ID, tokenizer.pad_token_id, recipe.dtype), packer


def packed_data(
    llava: PackedLlava, data: EncodedImages, extra: EncodedImages | None, recipe: TrainRecipe, steps: int, batch: int
) -> TrainingData:
    """Return packed rows as training data; each step has the recipe's share of easy-VQA's, which come last.

    Args:
        llava: the model; compiled if it is to be.
        data: the generated images.
        extra: easy-VQA's.
        recipe: states data and seed.
        steps, batch: of the stage.
    """
    settings = recipe.data
    assert isinstance(settings, GeneratedScenes)
    main = llava.fitting(data.rows[: settings.used])
    extras = settings.easy_vqa_images(batch) if extra else 0
    rows = PackedDataset.of([data, *([extra] if extra and extras else [])], llava.pad, llava.device, llava.length)
    order = main[shuffled_passes(steps * (batch - extras), len(main), (recipe.seed, 1))].reshape(steps, -1)
    if extra and extras:
        others = llava.fitting(extra.rows)
        kept = max(1, round(len(others) * settings.share))
        others = np.sort(np.random.default_rng(EXTRA_SEED).permutation(others)[:kept]) + len(data.rows)
        drawn = others[shuffled_passes(steps * extras, len(others), (recipe.seed, 2))].reshape(steps, -1)
        order = np.concatenate([order, drawn], axis=1)
    loss = llava.loss(rows, llava.first_image_token(data.rows[0]))
    return TrainingData(rows, rows.collate, loss, order.reshape(-1), rows.longest)


def tuning_data(recipe: TrainRecipe, vlm: LlavaModel, model: Any, device: torch.device) -> TrainingData:
    """Return the data of a tuning, measured by correct dev answers and perplexity; on a GPU the model is compiled.

    Args:
        recipe: with the section `tune` and generated images.
        vlm: the base.
        model: its model, with LoRA if the recipe has it.
        device: where to train.
    """
    settings, tune = recipe.data, recipe.tune
    assert tune is not None and isinstance(settings, GeneratedScenes)
    llava, packer = packed_llava(model, recipe)

    def cached(content: list[str | int], make: Callable[[], LabelledImages]) -> EncodedImages:
        return cached_features(content, vlm.vision_tower, vlm.tower_digest, packer, device, make)

    scenes, turns, few = settings.scenes, settings.turns, settings.dev or DEV_IMAGES
    data = cached(["train", scenes, turns], lambda: generated_images("train", scenes, turns))
    extra = cached(["easy", turns], lambda: easy_vqa_images(turns)) if settings.easy_vqa else None
    dev = cached(["dev", few, turns], lambda: generated_images("dev", few, turns))
    if device.type == "cuda":
        llava.compile(data.rows)
    steps = tune.steps_for(settings.used, settings.easy_vqa_images(tune.batch))
    return replace(
        packed_data(llava, data, extra, recipe, steps, tune.batch),
        measure=lambda: measure(llava, packer, dev, settings),
    )


def measure(llava: PackedLlava, packer: Packer, dev: EncodedImages, settings: GeneratedScenes) -> dict[str, Any]:
    """Return the share of correct dev answers, and the perplexity of text; the keys are the lineage's."""
    share = (settings.dev or DEV_IMAGES) / DEV_IMAGES  # as many passages as suit the dev images
    passages = [row["text"] for row in pydoc.rows("dev")][: max(1, round(share * DEV_PASSAGES))]
    perplexity = llava.perplexity(packer.tokenizer, passages)
    return {"dev_right": llava.accuracy(dev), "dev_ppl": perplexity}


def encoded(tower: nn.Module, packer: Packer, images: LabelledImages, device: torch.device) -> EncodedImages:
    """Return the features and rows of images, without the cache."""
    return EncodedImages(encode(tower, images.pixels, device), packer.rows(images.turns))
