"""Stage 'tower': the vision tower learns to say what lies in each patch; the LLM has no part in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from vrbench.models import pocket
from vrbench.training.pocket_images import HEADS, Pictures
from vrbench.training.recipe import GeneratedScenes, TrainRecipe
from vrbench.training.trainer import Course, Group, fit, passes

NOTHING_WEIGHT = 0.3  # most patches hold nothing: without it the heads would say so everywhere for long
ENCODE_BATCH = 512


class PatchHeads(nn.Module):
    """One linear head a label on the normalised patch tokens; thrown away after the stage."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in HEADS.items()})

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over heads; tokens [n, patches, width], labels [n, patches, heads]."""
        tokens = self.norm(tokens)
        total = tokens.new_zeros(())
        for i, (name, classes) in enumerate(HEADS.items()):
            weight = torch.ones(classes, device=tokens.device)
            weight[0] = NOTHING_WEIGHT
            logits = self.heads[name](tokens).float()
            total = total + nn.functional.cross_entropy(logits.flatten(0, 1), labels[..., i].flatten().long(), weight)
        return total / len(HEADS)

    def accuracy(self, tokens: Tensor, labels: Tensor) -> dict[str, float]:
        """Share of the patches with something in them that each head names rightly."""
        tokens = self.norm(tokens)
        shares = {}
        for i, name in enumerate(HEADS):
            there = labels[..., i] > 0
            said = self.heads[name](tokens).argmax(-1)
            shares[name] = float((said[there] == labels[..., i][there]).float().mean())
        return shares


def new_tower() -> SiglipVisionModel:
    """A tower with random weights, in float32."""
    return SiglipVisionModel(SiglipVisionConfig(**pocket.vision_config()))


def patch_tokens(tower: nn.Module, pixels: Tensor) -> Tensor:
    """What the projector sees: the tower's last hidden state. Pixels [n, 3, side, side] in [-1, 1]."""
    return tower(pixels, output_hidden_states=True).hidden_states[-1]


def to_input(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [n, side, side, 3] to float32 [n, 3, side, side] in [-1, 1], as the image processor does it."""
    return scaled(torch.from_numpy(pixels).to(device))


def scaled(pixels: Tensor) -> Tensor:
    """uint8 [n, side, side, 3] to float32 [n, 3, side, side] in [-1, 1]."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


class LabelledPictures:
    """Pictures with their labels, in memory; drawn by number, easy-VQA's after the generated ones."""

    def __init__(self, parts: list[Pictures], device: torch.device) -> None:
        self.parts, self.device = parts, device
        self.starts = np.cumsum([0, *(len(part) for part in parts)])

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
        part = int(np.searchsorted(self.starts, number, side="right")) - 1
        own = number - int(self.starts[part])
        return self.parts[part].pixels[own], self.parts[part].labels[own]

    def collate(self, samples: list[tuple[NDArray[np.uint8], NDArray[np.int8]]]) -> dict[str, Any]:
        """Pixels [n, side, side, 3] and labels [n, patches, heads]; each picture is one item."""
        pixels, labels = (torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
        return {"pixels": pixels, "targets": labels, "items": len(samples)}


class TowerWithHeads(nn.Module):
    """What the stage trains: the tower, and the heads that say what it has seen."""

    def __init__(self, tower: SiglipVisionModel, heads: PatchHeads) -> None:
        super().__init__()
        self.tower, self.heads = tower, heads


def train_tower(
    recipe: TrainRecipe,
    data: Pictures,
    extra: Pictures | None,
    dev: Pictures,
    device: torch.device,
    state: Path | None = None,
) -> tuple[SiglipVisionModel, dict[str, float]]:
    """Train a tower; returns it with the dev accuracy of each head.

    Args:
        recipe: a recipe with the section `tower`.
        data: labelled generated pictures.
        extra: labelled easy-VQA pictures, mixed in at the recipe's share.
        dev: labelled pictures of the dev split.
        device: where to train.
        state: folder of the saved states.
    """
    settings = recipe.tower
    assert settings is not None and isinstance(recipe.data, GeneratedScenes)
    torch.manual_seed(recipe.seed)
    model = TowerWithHeads(new_tower(), PatchHeads(pocket.vision_config()["hidden_size"])).to(device)
    extras = round(settings.batch * recipe.data.easy_vqa) if extra else 0
    autocast = torch.autocast(device.type, dtype=getattr(torch, recipe.dtype), enabled=recipe.dtype != "float32")

    def loss(model: Any, batch: dict[str, Any]) -> Tensor:
        pixels = scaled(batch["pixels"])
        pixels = pixels + settings.noise * torch.randn_like(pixels)
        with autocast:
            return model.heads.loss(patch_tokens(model.tower, pixels), batch["targets"]) * batch["items"]

    pictures = LabelledPictures([data, *([extra] if extra else [])], device)
    order = passes(settings.steps * (settings.batch - extras), len(data), (recipe.seed, 3)).reshape(settings.steps, -1)
    if extra and extras:
        others = passes(settings.steps * extras, len(extra), (recipe.seed, 4)) + len(data)
        order = np.concatenate([order, others.reshape(settings.steps, -1)], axis=1)
    course = Course(
        "tower", settings.steps, settings.batch, warmup=recipe.warmup, clip=recipe.clip, seed=recipe.seed,
        dtype=recipe.dtype, save_every=settings.save_every, state=state,
    )  # fmt: skip
    groups = [Group(list(model.parameters()), settings.lr, settings.weight_decay)]
    fit(model, loss, pictures, pictures.collate, groups, course, order.reshape(-1), device)
    with torch.inference_mode():
        tokens = encode(model.tower, dev.pixels, device)
        shares = model.heads.accuracy(tokens.float(), torch.from_numpy(dev.labels).to(device))
    return model.tower, shares


def encode(tower: nn.Module, pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Patch tokens of many pictures: [n, patches, width], float32 on the CPU, bfloat16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tower.eval()
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        for start in range(0, len(pixels), ENCODE_BATCH):
            parts.append(patch_tokens(tower, to_input(pixels[start : start + ENCODE_BATCH], device)).to(dtype))
    return torch.cat(parts)
