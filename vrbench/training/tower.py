"""Stage 'tower': the vision tower is trained to classify the content of each patch; the LLM is not involved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, TensorDataset, default_collate
from transformers import SiglipVisionConfig, SiglipVisionModel

from vrbench.checkpoints import llava_shapes
from vrbench.training.curves import NO_REPORTS, Reporting
from vrbench.training.pocket_images import HEADS, LabelledImages
from vrbench.training.recipe import GeneratedScenes, TrainRecipe
from vrbench.training.trainer import ParameterGroup, TrainingConfig, TrainingData, fit, mixed_order

EMPTY_PATCH_WEIGHT = 0.3  # most patches hold nothing: with full weight the heads predict that everywhere for long
ENCODE_BATCH = 512


class PatchClassifier(nn.Module):
    """A tower, and one linear head for each label on the normalised patch tokens; the heads are not kept."""

    def __init__(self, tower: SiglipVisionModel) -> None:
        super().__init__()
        width = tower.config.hidden_size
        self.tower = tower
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in HEADS.items()})

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy over heads; pixels as in `patch_tokens`, labels [n, patches, heads]."""
        tokens = self.norm(patch_tokens(self.tower, pixels))
        total = tokens.new_zeros(())
        for i, (name, classes) in enumerate(HEADS.items()):
            weight = torch.ones(classes, device=tokens.device)
            weight[0] = EMPTY_PATCH_WEIGHT
            logits = self.heads[name](tokens).float()
            total = total + nn.functional.cross_entropy(logits.flatten(0, 1), labels[..., i].flatten().long(), weight)
        return total / len(HEADS)

    def accuracy(self, tokens: Tensor, labels: Tensor) -> dict[str, float]:
        """Return, for each head, the share of correct patches among those with something in them."""
        tokens = self.norm(tokens)
        shares = {}
        for i, name in enumerate(HEADS):
            there = labels[..., i] > 0
            predicted = self.heads[name](tokens).argmax(-1)
            shares[name] = float((predicted[there] == labels[..., i][there]).float().mean())
        return shares


def new_tower() -> SiglipVisionModel:
    """Return a tower with random weights, in float32."""
    return SiglipVisionModel(SiglipVisionConfig(**llava_shapes.POCKET_VISION))


def patch_tokens(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Return the tower's last hidden state, the projector's input. Pixels [n, 3, side, side] in [-1, 1]."""
    return tower(pixels, output_hidden_states=True).hidden_states[-1]


def scale_pixels(pixels: Tensor) -> Tensor:
    """Convert uint8 [n, side, side, 3] to float32 [n, 3, side, side] in [-1, 1], as the image processor does."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def train_tower(
    recipe: TrainRecipe,
    images: LabelledImages,
    extra: LabelledImages | None,
    dev: LabelledImages,
    device: torch.device,
    state: Path | None = None,
    reporting: Reporting = NO_REPORTS,
) -> tuple[SiglipVisionModel, dict[str, float]]:
    """Train a tower on generated images and the recipe's share of extra ones; returns it with each head's accuracy."""
    stage = recipe.tower
    assert stage is not None
    torch.manual_seed(recipe.seed)
    model = PatchClassifier(new_tower()).to(device)
    autocast = torch.autocast(device.type, dtype=getattr(torch, recipe.dtype), enabled=recipe.dtype != "float32")

    def loss(model: Any, batch: dict[str, Any]) -> Tensor:
        pixels = scale_pixels(batch["pixels"])
        pixels = pixels + stage.noise * torch.randn_like(pixels)
        with autocast:
            return model.loss(pixels, batch["targets"]) * len(pixels)

    parts = [images, *([extra] if extra else [])]
    samples: ConcatDataset[Any] = ConcatDataset(
        [TensorDataset(torch.from_numpy(p.pixels), torch.from_numpy(p.labels)) for p in parts]
    )
    data = TrainingData(samples, _collate, loss, _order(recipe, len(images), len(extra or ())))
    groups = [ParameterGroup(list(model.parameters()), stage.lr, stage.weight_decay)]
    config = TrainingConfig.from_recipe(recipe, "tower", stage, stage.steps, state, reporting)
    fit(model, data, groups, config, device)
    with torch.inference_mode():
        tokens = encode(model.tower, dev.pixels, device)
        shares = model.accuracy(tokens.float(), torch.from_numpy(dev.labels).to(device))
    return model.tower, shares


def _collate(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Return pixels [n, side, side, 3] and labels [n, patches, heads]; each image is one item."""
    pixels, labels = default_collate(samples)
    return {"pixels": pixels, "targets": labels, "items": [1] * len(samples)}


def _order(recipe: TrainRecipe, images: int, extra: int) -> NDArray[np.int64]:
    """Return the indices of all steps' images; each step has the recipe's share of extra ones, which come last."""
    stage = recipe.tower
    assert stage is not None and isinstance(recipe.data, GeneratedScenes)
    extras = recipe.data.easy_vqa_images(stage.batch) if extra else 0
    kinds = [(np.arange(images), stage.batch - extras)]
    if extras:
        kinds.append((images + np.arange(extra), extras))
    return mixed_order(kinds, stage.steps, recipe.seed, 3)


def encode(tower: nn.Module, pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return the patch tokens of many images: [n, patches, width], float32 on the CPU, bfloat16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tower.eval()
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        for start in range(0, len(pixels), ENCODE_BATCH):
            chunk = torch.from_numpy(pixels[start : start + ENCODE_BATCH]).to(device)
            parts.append(patch_tokens(tower, scale_pixels(chunk)).to(dtype))
    return torch.cat(parts)
