"""The pocket family's training data: packed rows of generated images, encoded once by the frozen tower and cached."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from vrbench.checkpoints import smollm2
from vrbench.core.cache import cache_folder, file_digest
from vrbench.core.io import digest_of
from vrbench.core.provenance import package_versions
from vrbench.models import pocket
from vrbench.models.llava_model import LlavaModel
from vrbench.pocket import python_docs
from vrbench.training.packing import FIELDS, EncodedImages, PackedDataset, PackedLlava, PackedRow, Packer
from vrbench.training.pocket_images import LabelledImages, easy_vqa_images, generated_images
from vrbench.training.recipe import GeneratedScenes, TrainRecipe
from vrbench.training.tower import encode
from vrbench.training.trainer import TrainingData, mixed_order

FORMAT = 2  # of the cached file; raise it when what is written changes
SOURCES = (
    "pocket/vocabulary.yaml", "pocket/world.py", "pocket/drawing.py", "pocket/questions.py", "pocket/turns.py",
    "pocket/easy_vqa.py", "training/pocket_images.py", "training/packing.py", "training/tower.py", "data/images.py",
)  # fmt: skip
"""The code that determines what is in an image, what is asked and what the tower sees: it enters the cache's key."""

LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "numpy")

DEV_IMAGES = 600
DEV_PASSAGES = 60
EXTRA_SEED = 20_001  # of the choice of easy-VQA's images when a share of them is used


def packed_llava(model: Any, recipe: TrainRecipe) -> tuple[PackedLlava, Packer]:
    """Return a pocket model ready to be trained on packed rows, and what packs them."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(pocket.processor_folder())
    packer = Packer(tokenizer, pocket.IMAGE_TOKENS)
    return PackedLlava(model, packer.prefix.index(smollm2.IMAGE_TOKEN_ID), tokenizer.pad_token_id, recipe.dtype), packer


def packed_data(
    llava: PackedLlava, data: EncodedImages, extra: EncodedImages | None, recipe: TrainRecipe, steps: int, batch: int
) -> TrainingData:
    """Return packed rows as training data; each step ends with the recipe's share of extra ones (easy-VQA's)."""
    settings = recipe.data
    assert isinstance(settings, GeneratedScenes)
    extras = settings.easy_vqa_images(batch) if extra else 0
    rows = PackedDataset.concat([data, *([extra] if extra and extras else [])], llava.pad, llava.device, llava.length)
    kinds = [(llava.fitting(data.rows[: settings.used]), batch - extras)]
    if extra and extras:
        others = llava.fitting(extra.rows)
        kept = max(1, round(len(others) * settings.share))
        chosen = np.sort(np.random.default_rng(EXTRA_SEED).permutation(others)[:kept])
        kinds.append((len(data.rows) + chosen, extras))
    order = mixed_order(kinds, steps, recipe.seed, 1)
    return TrainingData(rows, rows.collate, llava.loss(rows), order, rows.longest, fixed_shapes=rows.fixed)


def tuning_data(recipe: TrainRecipe, vlm: LlavaModel, model: Any, device: torch.device) -> TrainingData:
    """Return the data for tuning a model of the base `vlm`, measured on the dev split; on a GPU rows of one length."""
    settings, tune = recipe.data, recipe.tune
    assert tune is not None and isinstance(settings, GeneratedScenes)
    llava, packer = packed_llava(model, recipe)

    def cached(content: list[str | int], make: Callable[[], LabelledImages]) -> EncodedImages:
        return cached_features(content, vlm.vision_tower, vlm.tower_digest, packer, device, make)

    scenes, turns, few = settings.scenes, settings.turns, settings.dev or DEV_IMAGES
    data = cached(["train", scenes, turns], lambda: generated_images("train", scenes, turns))
    extra = cached(["easy", turns], lambda: easy_vqa_images(turns)) if settings.easy_vqa else None
    dev = cached(["dev", few, turns], lambda: generated_images("dev", few, turns))
    if device.type == "cuda" or tune.compile == "on":
        llava.fix_length(data.rows)
    steps = tune.steps_for(settings.used, settings.easy_vqa_images(tune.batch))
    return replace(
        packed_data(llava, data, extra, recipe, steps, tune.batch),
        measure=lambda: measure(llava, packer, dev, settings),
    )


def measure(llava: PackedLlava, packer: Packer, dev: EncodedImages, settings: GeneratedScenes) -> dict[str, Any]:
    """Return the share of correct dev answers, and the perplexity of text; the keys are the lineage's."""
    share = (settings.dev or DEV_IMAGES) / DEV_IMAGES  # as many passages as suit the dev images
    passages = [row["text"] for row in python_docs.pydoc_rows("dev")][: max(1, round(share * DEV_PASSAGES))]
    perplexity = llava.perplexity(packer.tokenizer, passages)
    return {"dev_right": llava.accuracy(dev), "dev_ppl": perplexity}


def encoded(tower: nn.Module, packer: Packer, images: LabelledImages, device: torch.device) -> EncodedImages:
    """Return the features and rows of images, without the cache."""
    return EncodedImages(encode(tower, images.pixels, device), packer.rows(images.turns))


def cached_features(
    content: list[str | int], tower: nn.Module, tower_digest: str, packer: Packer, device: torch.device,
    make: Callable[[], LabelledImages],
) -> EncodedImages:  # fmt: skip
    """Return the features and rows of some images, on the device, from the cache or newly made.

    Args:
        content: what `make` draws, such as ["train", 60000, 6]; with the tower's digest, a part of the cache's key.
    """
    root = Path(__file__).parents[1]
    code = [file_digest(root / name) for name in SOURCES]
    key = digest_of([FORMAT, *content, tower_digest, str(device.type), package_versions(LIBRARIES), *code])
    file = cache_folder() / "features" / f"{key[:20]}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # of several trainings that start together, one makes the file
        if not file.is_file():
            _save(encoded(tower, packer, make(), device), file)
    return _load(file, device)


def _save(made: EncodedImages, file: Path) -> None:
    tensors = {name: torch.from_numpy(np.concatenate([getattr(r, name) for r in made.rows])) for name in FIELDS}
    tensors["lengths"] = torch.tensor([len(r.tokens) for r in made.rows])
    tensors["features"] = made.features.cpu().contiguous()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata={"kinds": json.dumps([row.kinds for row in made.rows])})
    os.replace(temporary, file)


def _load(file: Path, device: torch.device) -> EncodedImages:
    with safe_open(file, framework="pt") as stored:
        kinds = json.loads(stored.metadata()["kinds"])
        ends = np.cumsum(stored.get_tensor("lengths").numpy())[:-1]
        arrays = {name: np.split(stored.get_tensor(name).numpy(), ends) for name in FIELDS}
        features = stored.get_tensor("features").to(device)
    rows = [PackedRow(kinds=tuple(of), **{n: parts[i] for n, parts in arrays.items()}) for i, of in enumerate(kinds)]
    return EncodedImages(features, rows)
